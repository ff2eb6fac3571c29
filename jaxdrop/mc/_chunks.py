"""Keys in chunks, and the outputs of the chunks in the order of the keys.

A chunk takes keys at equal distances, so that where the keys are divided among devices each device has its share of every chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chunks(NamedTuple):
    """S keys as n chunks of a size, and those that are left."""

    left: jax.Array
    """Shape (S mod size,), the first of the keys."""
    whole: jax.Array
    """Shape (n, size)."""


def divide(keys: jax.Array, size: int) -> Chunks:
    """The chunks of an array of keys."""
    left = keys.shape[0] % size
    return Chunks(keys[:left], keys[left:].reshape(size, -1).T)


def join(left: Any | None, whole: Any) -> Any:
    """The outputs for all keys, from those for `Chunks.left`, if there are any, and for `Chunks.whole`."""
    ordered = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), whole)
    return ordered if left is None else jax.tree.map(lambda *parts: jnp.concatenate(parts), left, ordered)


def check_keys(keys: jax.Array) -> int:
    """The number of keys, if they are one axis of typed ones."""
    if getattr(keys, "ndim", None) != 1 or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"keys must be a key array of shape (S,), as jaxdrop.mc.keys(key, S) returns, got {keys!r}")
    if not keys.shape[0]:
        raise ValueError("keys is empty: there must be at least one sample")
    return keys.shape[0]
