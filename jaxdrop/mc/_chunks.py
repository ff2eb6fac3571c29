"""Keys in chunks, and the outputs of the chunks in the order of the keys.

A chunk takes keys at equal distances: if the keys are divided over devices, each device holds its
share of every chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chunks(NamedTuple):
    """S keys as n chunks of a size, and the remaining keys."""

    left: jax.Array
    """Shape (S mod size,), the first of the keys."""
    whole: jax.Array
    """Shape (n, size)."""


def divide(keys: jax.Array, size: int) -> Chunks:
    """The chunks of an array of keys."""
    left = keys.shape[0] % size
    return Chunks(keys[:left], keys[left:].reshape(size, -1).T)


def join(left: Any | None, whole: Any) -> Any:
    """The outputs for all keys in order, from those for `Chunks.left` (None if it is empty) and
    those for `Chunks.whole`.
    """

    def in_order(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    ordered = jax.tree.map(in_order, whole)
    return (
        ordered
        if left is None
        else jax.tree.map(lambda *parts: jnp.concatenate(parts), left, ordered)
    )
