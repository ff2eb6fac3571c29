"""Operations on windows, such as max pooling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxdrop.mc._analytic import _linear
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Moments


def largest(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """The largest entry of each window, or the smallest."""
    x = context.moments(values[0])
    sign = 1 if eqn.primitive.name == "reduce_window_max" else -1
    outside = _linear.below_all(x.dtype)
    found = Result(sign * x.mean, x.variance, x.variance)
    # Axis by axis: that of a window of n by n entries takes 2 n - 2 maxima, and not n n - 1.
    for axis in range(len(x.shape)):
        parts = (
            _parts(context, eqn, part, fill, axis)
            for part, fill in zip(found[:3], (outside, 0.0, 0.0), strict=True)
        )
        found = _linear.fold([Result(*part) for part in zip(*parts, strict=True)])
    return context.made(Result(sign * found.mean, found.variance, found.explained))


def combined(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """Whether all booleans of each window are true, or any is, as for blocks of dropped entries."""
    inside = eqn.params["jaxpr"]
    inside = getattr(inside, "jaxpr", inside)
    names = {each.primitive.name for each in inside.eqns}
    if names not in ({"and"}, {"or"}) or len(values) != 2:
        raise unknown("a function of a window (reduce_window)", context.where)
    x = context.moments(values[0])
    every = names == {"and"}
    mean, variance = (
        jnp.stack(_parts(context, eqn, part, fill))
        for part, fill in ((x.mean, float(every)), (x.variance, 0.0))
    )
    return context.made(_linear.combined(mean, variance, every))


def _parts(
    context: Context, eqn: Any, x: Any, outside: float, only: int | None = None
) -> list[Any]:
    """For each place in a window, its entry in each window; of a window that is as long as the
    array's along all axes but one, if `only` names it.
    """
    params = eqn.params
    if any(step != 1 for step in (*params["base_dilation"], *params["window_dilation"])):
        raise unknown("a dilated window", context.where)

    def along(name: str, alone: Any) -> list[Any]:
        every = enumerate(params[name])
        return [own if only in (None, axis) else alone for axis, own in every]

    sizes, strides = along("window_dimensions", 1), along("window_strides", 1)
    padding = along("padding", (0, 0))
    x = lax.pad(x, jnp.asarray(outside, x.dtype), [(low, high, 0) for low, high in padding])
    reach = [
        (length - size) // stride * stride + 1
        for length, size, stride in zip(x.shape, sizes, strides, strict=True)
    ]
    return [
        lax.slice(x, start, [a + b for a, b in zip(start, reach, strict=True)], strides)
        for start in itertools.product(*map(range, sizes))
    ]
