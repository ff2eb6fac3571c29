"""Compiled statistics over many examples: sums that keep their digits, on any mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxdrop._kernel import Kernel, kernel


def reduction(name: str) -> Callable[[Kernel], Kernel]:
    """A `kernel` with replicated results, however its arguments are divided.

    On a mesh with explicit axes JAX needs the layout of each intermediate result, and raises an
    error for sorting or indexing along a divided axis. Inside the kernel these axes are automatic:
    the compiler chooses the layouts.
    """

    def decorate(fn: Kernel) -> Kernel:
        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            settled = functools.partial(fn, **kwargs)
            shardings = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(args)]
            for mesh in (jax.sharding.get_abstract_mesh(), *(each.mesh for each in shardings)):
                if AxisType.Explicit in mesh.axis_types:
                    with jax.sharding.use_abstract_mesh(mesh):
                        return jax.sharding.auto_axes(settled, out_sharding=PartitionSpec())(*args)
            return settled(*args)

        return kernel(name, checkpoint=False)(run)

    return decorate


def masked(where: jax.Array | None, x: jax.Array, fill: float = 0) -> jax.Array:
    """`x`, with `fill` at entries that do not count, so that a NaN there reaches no derivative."""
    return x if where is None else jnp.where(where, x, jnp.asarray(fill, x.dtype))


def number(where: jax.Array | None, size: int) -> jax.Array:
    """How many of `size` entries count: an exact integer."""
    return jnp.int32(size) if where is None else where.sum(dtype=jnp.int32)


def mean(x: jax.Array, where: jax.Array | None = None, *, axis: int | None = None) -> jax.Array:
    """The mean over all entries, or over an axis; NaN if there are none.

    A first sum gives the mean up to an error that may grow with the number of terms. A second sum,
    of the deviations from this mean, corrects it. Derivatives are those of the first.
    """
    x = masked(where, x)
    count = x.size if axis is None else x.shape[axis]
    total = jnp.asarray(count, x.dtype) if where is None else number(where, count).astype(x.dtype)
    level = x.sum(axis) / total
    deviations = masked(where, x - (level if axis is None else jnp.expand_dims(level, axis)))
    rest = lax.stop_gradient(deviations.sum(axis) / total)
    return jnp.where(jnp.isfinite(level), level + rest, level)


def cumulative(x: jax.Array) -> jax.Array:
    """The cumulative sum, with its rounding errors summed and added back."""
    first = jnp.cumsum(x)
    rest = jnp.cumsum(x - jnp.diff(first, prepend=jnp.zeros(1, x.dtype)))
    return jnp.where(jnp.isfinite(first), first + lax.stop_gradient(rest), first)


def sums(x: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """The sum of `x` in each bin; an index of `num_bins` counts nowhere.

    A scatter adds entries one by one, and rounding errors grow with their number. So it adds few
    neighbors at a time, and the partial sums are added by `mean`.
    """
    width = 4 * num_bins
    rows = lax.iota(jnp.int32, x.size) // width
    parts = jnp.zeros((-(-x.size // width), num_bins), x.dtype).at[rows, bins].add(x, mode="drop")
    return parts.shape[0] * mean(parts, axis=0)


def counts(bins: jax.Array, num_bins: int) -> jax.Array:
    """The number of entries in each bin, exact; an index of `num_bins` counts nowhere."""
    return jnp.zeros(num_bins, jnp.int32).at[bins].add(1, mode="drop")


def ties(*keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each entry of sorted arrays, the first index of the run of entries equal to it, and the
    index after the last.
    """
    index = lax.iota(jnp.int32, keys[0].size)
    new = functools.reduce(jnp.logical_or, (key[1:] != key[:-1] for key in keys))
    starts = jnp.concatenate([jnp.ones(1, bool), new])
    ends = jnp.concatenate([new, jnp.ones(1, bool)])
    first = lax.cummax(jnp.where(starts, index, 0))
    return first, lax.cummin(jnp.where(ends, index + 1, index.size), reverse=True)
