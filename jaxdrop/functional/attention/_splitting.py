"""Arrays in blocks along an axis, and loops over these."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def at(x: jax.Array, index: jax.Array, length: int, axis: int) -> jax.Array:
    """Block `index` of `x` along `axis`. All of `x` if it is one block, or has one entry that all
    blocks share.
    """
    return (
        x
        if x.shape[axis] in (1, length)
        else lax.dynamic_slice_in_dim(x, index * length, length, axis)
    )


def put(x: jax.Array, part: jax.Array, index: jax.Array, length: int, axis: int) -> jax.Array:
    """`x` with `part` in place of `at(x, index, length, axis)`."""
    if x.shape[axis] in (1, length):
        return part
    return lax.dynamic_update_slice_in_dim(x, part, index * length, axis)


def split(x: jax.Array, axis: int, count: int) -> jax.Array:
    """The `count` equal parts of `x` along `axis`, stacked along a new first axis."""
    axis %= x.ndim
    parts = x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def join(parts: jax.Array, axis: int) -> jax.Array:
    """The inverse of `split`: the parts one after the other along `axis`."""
    axis %= parts.ndim - 1
    x = jnp.moveaxis(parts, 0, axis)
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def over(count: int, row: Callable[..., Any], *xs: Any) -> Any:
    """`row(i, *xs[i])` for each block of queries, stacked."""
    if count == 1:
        found = row(jnp.int32(0), *jax.tree.map(lambda x: x[0], xs))
        return jax.tree.map(lambda x: x[None], found)
    return lax.map(lambda x: row(*x), (jnp.arange(count, dtype=jnp.int32), *xs))


def anchor(tree: Any) -> jax.Array:
    """A zero that, inside `shard_map`, varies over every mesh axis over which an array of `tree`
    varies.

    The carry of a `lax.scan` must have one type in all turns. A sum of products of these arrays
    varies over all of their axes, so it must start from a zero that does.
    """
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return functools.reduce(jnp.add, [jnp.zeros_like(leaf.sum(), jnp.float32) for leaf in leaves])
