"""Moving members along an axis: gathers, and scatters that are gathers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Move = Callable[..., jax.Array]
"""A linear function of an array: takes the axis, the array, the indices and the ranks of one group,
and the start of its slice if it is one.
"""


def runs(start: jax.Array, members: int, kept: int) -> tuple[jax.Array, jax.Array]:
    """The two runs that a slice from `start` consists of, in ascending order: the length of the
    one at the beginning; and the difference of the places, before and after the gather, of the
    other one.
    """
    return jnp.maximum(start + kept - members, 0), jnp.minimum(start, members - kept)


def _gather_units(x: jax.Array, indices: jax.Array, ranks: jax.Array, *, axis: int) -> jax.Array:
    return x.at[(*[slice(None)] * axis, indices)].get(mode="promise_in_bounds")


def _scatter_units(y: jax.Array, indices: jax.Array, ranks: jax.Array, *, axis: int) -> jax.Array:
    return jnp.take(y, ranks, axis, fill_value=0)


def _gather_slice(
    x: jax.Array, indices: jax.Array, ranks: jax.Array, start: jax.Array, *, axis: int
) -> jax.Array:
    members, kept = ranks.size, indices.size
    wrapped, first = runs(start, members, kept)
    place = _numbers_along(axis, kept, x.ndim)
    head = lax.slice_in_dim(x, 0, kept, axis=axis)
    return jnp.where(place < wrapped, head, lax.dynamic_slice_in_dim(x, first, kept, axis))


def _scatter_slice(
    y: jax.Array, indices: jax.Array, ranks: jax.Array, start: jax.Array, *, axis: int
) -> jax.Array:
    members, kept = ranks.size, indices.size
    others = members - kept
    wrapped, first = runs(start, members, kept)
    number = _numbers_along(axis, members, y.ndim)
    zero = jnp.zeros((), y.dtype)

    def padded(before: int) -> jax.Array:
        widths = [(before, others, 0) if at == axis else (0, 0, 0) for at in range(y.ndim)]
        return lax.pad(y, zero, widths)

    tail = lax.dynamic_slice_in_dim(padded(others), others - first, members, axis)
    kept_ones = jnp.where(number < wrapped, padded(0), tail)
    return jnp.where((number - start) % members < kept, kept_ones, zero)


def _numbers_along(axis: int, count: int, ndim: int) -> jax.Array:
    shape = [count if at == axis else 1 for at in range(ndim)]
    return lax.broadcasted_iota(jnp.int32, shape, axis)


def _linear(move: Callable[..., jax.Array], back: Callable[..., jax.Array]) -> Move:
    """`move`, a linear function of its second argument, with `back` as its transpose.

    JAX would transpose a gather to a scatter, which is a loop over rows on a CPU, and slow on other
    devices. A `custom_vjp` would end forward mode. So the tangent is written as the transpose of
    `back`: reverse mode transposes it again, which gives `back`.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def moved(axis: int, x: jax.Array, *arrays: jax.Array) -> jax.Array:
        return move(x, *arrays, axis=axis)

    @moved.defjvp
    def _(axis: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> Any:
        _, *arrays = primals
        y = moved(axis, *primals)
        (tangent,) = jax.linear_transpose(lambda y: back(y, *arrays, axis=axis), y)(tangents[0])
        return y, tangent

    # Integers and booleans have no tangents.
    return lambda axis, x, *arrays: (
        moved(axis, x, *arrays)
        if jnp.issubdtype(x.dtype, jnp.inexact)
        else move(x, *arrays, axis=axis)
    )


# Of units and blocks, and of slices.
GATHERS = _linear(_gather_units, _scatter_units), _linear(_gather_slice, _scatter_slice)
SCATTERS = _linear(_scatter_units, _gather_units), _linear(_scatter_slice, _gather_slice)
