"""What the operands of a traced `jax.lax.scan` are."""

from __future__ import annotations

from typing import Any


def parts(eqn: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many values it carries. Arrays that it goes over, and
    those that it stacks, have one axis less in its body; the names of parameters differ between
    versions of JAX.
    """
    body = eqn.params["jaxpr"].jaxpr
    carried = sum(
        len(own.aval.shape) == len(inner.aval.shape)
        for own, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    gone_over = sum(
        len(own.aval.shape) > len(inner.aval.shape)
        for own, inner in zip(eqn.invars, body.invars, strict=True)
    )
    return len(body.invars) - carried - gone_over, carried
