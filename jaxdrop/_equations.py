"""What the equations of a traced program say of the programs inside them."""

from __future__ import annotations

from typing import Any


def scan_parts(eqn: Any) -> tuple[int, int]:
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


def called(params: Any, count: int) -> Any:
    """The program that an equation with these parameters calls with its `count` operands, if it is
    that simple; None otherwise.
    """
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner: Any = params.get(name)
        if hasattr(inner, "eqns") and len(getattr(inner, "jaxpr", inner).invars) == count:
            return inner
    return None
