"""Where an entry stands in the whole array.

The position of the entry at coordinates `(c_0, ..., c_n)` of an array of global shape
`(e_0, ..., e_n)` is its row-major index `c_0 e_1 ... e_n + ... + c_n`, exact up to 2**64. It does
not depend on how the array is tiled or sharded, and therefore a mask is the same under every
layout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from jaxdrop._lengths import at_most, is_known
from jaxdrop.random._words import WORD, Wide, add_wide, multiply_wide, times, words_of

Coordinate = jax.Array | Wide
"""uint32 coordinates along one axis; along an axis of more than 2**32 entries their high and low
words.
"""


SHIFT = 17
"""By how many bits the mixer of `_generators` first shifts the low word of a position."""


class Positions(NamedTuple):
    """Row-major positions, `high * 2**32 + low`; `high` is None if the array has at most 2**32
    entries for certain. The arrays broadcast against each other.

    `jax.export` has symbolic lengths. An array that has one may have more entries, unless the
    constraints of the length say otherwise. A high word that turns out to be 0 gives the bits that
    None gives.

    `low` is `outer ^ inner`; None for `inner` means 0. `inner` is the last coordinate, the column,
    if two things hold: it sets only bits that are 0 in `outer`, and it is below `2**SHIFT`. Then
    `low >> SHIFT` equals `outer >> SHIFT`, which is one number for a whole row.
    """

    high: jax.Array | None
    outer: jax.Array
    inner: jax.Array | None = None

    @property
    def low(self) -> jax.Array:
        """The low word."""
        return self.outer if self.inner is None else self.outer ^ self.inner


def linear(
    coordinates: Sequence[Coordinate],
    global_shape: Sequence[int],
    *,
    key_word: jax.Array | None = None,
) -> Positions:
    """Positions of the entries of an array of shape `global_shape`, from one uint32 coordinate
    array for each axis.

    The coordinate arrays broadcast against each other. A coordinate may be a (high, low) pair.

    `key_word`, a word of a key, is shifted until 0 is left, and the 0 is added to the coordinates.
    Positions do not depend on it, but XLA takes them to. In a loop over keys it would otherwise
    hoist the positions, which are the same for all keys, out of the loop, and store them.
    """
    zero = None if key_word is None else key_word >> np.uint32(31) >> np.uint32(1)
    size = math.prod(global_shape)
    if is_known(size) and size > WORD**2:
        raise ValueError(f"an array of shape {tuple(global_shape)} has more than 2**64 entries")
    low: jax.Array = jnp.zeros((), jnp.uint32)
    high: jax.Array | None = None if at_most(size, WORD) else jnp.zeros((), jnp.uint32)
    for axis, (coordinate, length) in enumerate(zip(coordinates, global_shape, strict=True)):
        if is_known(length) and length == 1:
            continue
        inner = global_shape[axis + 1 :]
        stride = functools.reduce(times, inner, 1)
        if stride != 1 and zero is not None:  # XLA never stores a bare iota
            coordinate = jax.tree.map(lambda x: x + zero, coordinate)
        word, more = (
            (coordinate[1], coordinate[0]) if isinstance(coordinate, tuple) else (coordinate, None)
        )
        if stride == 1 and is_known(length) and length and 2**SHIFT % length == 0:
            # So far, the low word is a multiple of the length: the other strides are.
            return Positions(high, low, word)
        _, low_stride = words_of(stride)
        if high is None:
            low = low + word * low_stride
            continue
        # An axis that spans at most 2**32 positions never carries into the high word by itself.
        # If its span divides 2**32, the sum does not carry either, because the low word so far is a
        # multiple of the span. Then the high word does not vary along this axis, and the products
        # with it are computed once for all entries along the axis.
        span = length * math.prod(inner)
        near = at_most(span, WORD)
        if near and is_known(span) and WORD % span == 0:
            low = low + word * low_stride
            continue
        term = (jnp.zeros_like(word), word * low_stride) if near else multiply_wide(word, stride)
        if more is not None:
            term = (term[0] + more * low_stride, term[1])
        high, low = add_wide((high, low), term)
    return Positions(high, low)


def grid(
    shape: Sequence[int],
    *,
    origin: Sequence[jax.Array | int] | None = None,
    global_shape: Sequence[int] | None = None,
    sharding: NamedSharding | None = None,
    key_word: jax.Array | None = None,
) -> Positions:
    """Positions of all entries of a block of `shape`; `low` is an array of `shape` itself.

    Args:
      shape: the shape of the block.
      origin: the block's place along each axis, counted in blocks: 3 on an axis of length 8 starts
        at coordinate 24. Zero by default.
      global_shape: the shape of the whole array that the block is part of; `shape` by default.
      sharding: the layout to give to the positions, for meshes with explicit axes.
      key_word: as in `linear`.
    """
    global_shape = tuple(shape) if global_shape is None else tuple(global_shape)
    coordinates = [
        coordinate(shape, axis, 0 if origin is None else origin[axis], global_shape[axis], sharding)
        for axis in range(len(shape))
    ]
    high, outer, inner = linear(coordinates, global_shape, key_word=key_word)
    if inner is None:  # which has the shape already, and the layout
        outer = jnp.broadcast_to(outer, shape)
    return Positions(high, outer, inner)


def coordinate(
    shape: Sequence[int],
    axis: int,
    origin: jax.Array | int,
    length: int,
    sharding: NamedSharding | None,
) -> Coordinate:
    """The coordinates along one axis, of length `length` in the whole array, of a block as in
    `grid`; of the block's shape.
    """
    start = jnp.asarray(origin, jnp.uint32)
    moved = not isinstance(origin, int) or origin != 0
    # Without jax_enable_x64, JAX counts symbolic lengths in 31 bits.
    has_64_bits = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    if at_most(length, WORD) or not (is_known(length) or has_64_bits):
        near = lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=sharding)
        return near + start * words_of(shape[axis])[1] if moved else near
    with jax.enable_x64(True):  # to count along an axis of more than 2**32 entries takes two words
        far = lax.broadcasted_iota(jnp.uint64, shape, axis, out_sharding=sharding)
        high = (far >> np.uint64(32)).astype(jnp.uint32)
        low = far.astype(jnp.uint32)
    return add_wide((high, low), multiply_wide(start, shape[axis])) if moved else (high, low)
