"""Linear functions with a transpose of the caller's: every derivative, each also of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxdrop.functional.attention._linear import linear_call

_RANDOM = np.random.default_rng(0)
A, B, X, Y = (_RANDOM.normal(size=(3, 3)).astype(np.float32) for _ in range(4))
_TURNED = np.float32(5)
"""The transpose of the caller's is the true one times this, so that one sees which is taken."""


def forward(constants: Any, tangents: Any) -> dict[str, jax.Array]:
    """Linear in the tangents, not in the constants."""
    a, b = constants
    x, y = tangents
    return {"sum": a * x + b * b * y, "difference": a * y - x}


def transposed(constants: Any, cotangents: dict[str, jax.Array]) -> Any:
    a, b = constants
    s, d = cotangents["sum"], cotangents["difference"]
    return _TURNED * (a * s - d), _TURNED * (b * b * s + a * d)


def called(a: Any, b: Any, x: Any, y: Any) -> Any:
    return linear_call(forward, transposed, (a, b), (x, y))


def plain(a: Any, b: Any, x: Any, y: Any) -> Any:
    return forward((a, b), (x, y))


def transposes(f: Callable[..., Any]) -> Callable[..., Any]:
    """What cotangents of both results give for the tangents, and those of one."""

    def run(a: Any, b: Any, x: Any, y: Any) -> Any:
        value = f(a, b, x, y)
        both = jax.linear_transpose(lambda x, y: f(a, b, x, y), x, y)
        one = jax.linear_transpose(lambda x, y: f(a, b, x, y)["sum"], x, y)
        return both(value), one(value["difference"])

    return run


def moved(f: Callable[..., Any]) -> Callable[..., Any]:
    """Forward mode, along constants, tangents, and both; and twice."""

    def run(a: Any, b: Any, x: Any, y: Any) -> Any:
        def along_all(*args: Any) -> Any:
            return jax.jvp(f, args, tuple(x * x for x in args))[1]

        args = a, b, x, y
        return (
            along_all(*args),
            jax.jvp(lambda b: f(a, b, x, y), (b,), (b * b,)),
            jax.jvp(lambda y: f(a, b, x, y), (y,), (y * y,)),
            jax.jvp(along_all, args, args)[1],
        )

    return run


AXES = pytest.mark.parametrize(
    "axes", [None, (0, 1, 1, 0), (None, None, 1, None), (1, 0, None, None)]
)
"""Of a batch; an operand without one is the same for all of the batch."""


def everything(f: Callable[..., Any], axes: tuple[int | None, ...] | None) -> Any:
    """Values and derivatives, and what the transposes give."""
    args = A, B, X, Y
    if axes is not None:
        args = tuple(x[0] if at is None else x for x, at in zip(args, axes, strict=True))
    g = f if axes is None else jax.vmap(f, in_axes=axes)
    return (g(*args), moved(g)(*args), jax.jit(g)(*args)), transposes(g)(*args)


@AXES
def test_all_derivatives(axes: tuple[int | None, ...] | None) -> None:
    values, turned = everything(plain, axes)
    expected = values, jax.tree.map(lambda x: _TURNED * x, turned)
    chex.assert_trees_all_close(everything(called, axes), expected, rtol=1e-5, atol=1e-5)
