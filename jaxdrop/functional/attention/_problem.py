"""The description of a call of attention that kernels share, on a GPU and on a TPU."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.random._positions import Positions
from jaxdrop.random._words import WORD, add_wide, multiply_wide

LOG2_E = math.log2(math.e)
"""Kernels form powers of two: `exp(x) = exp2(LOG2_E x)`."""


class Problem(NamedTuple):
    """The static description of a call."""

    lengths: tuple[int, int]
    """The numbers of queries and of keys, before padding."""
    share: int
    """The number of heads that share keys and values."""
    scale: float
    before: int | None
    after: int | None
    mask_size: int
    """The number of weights in the whole array."""
    draw: Any
    """The generator, `draw(words, positions) -> bits`; None without a mask."""
    precision: Any
    """Of the products."""
    tiles: Any
    """How the kernels divide their work."""
    interpret: Any
    """Whether Pallas interprets the kernels, or how."""


class Place(NamedTuple):
    """Where the queries of a program stand, and what they see."""

    row: Any
    """The position of the first query of the head, shape (1,)."""
    stretch: Any
    """A row of `_sight.stretches`, shape (4,)."""
    scale: Any
    """The factor of kept weights, shape (1,)."""


class Sides(NamedTuple):
    """Arrays with the two last axes of the weights, each axis of its length or of length 1: the
    part for a program's block, and all of the other axis.
    """

    bias: tuple[Any, ...] = ()
    """None or one."""
    allowed: tuple[Any, ...] = ()
    """Int8, 0 where a query may not see a key."""
    segments: tuple[Any, ...] = ()
    """Of the queries and of the keys, or empty."""


class Mask(NamedTuple):
    """The numbers from which a mask is drawn."""

    words: jax.Array
    """The words of the key."""
    last: jax.Array
    """The largest drawn word whose weight is kept, shape (1,)."""
    low: jax.Array
    """For each head the position of its first weight, modulo 2**32, shape (heads, 1)."""
    high: jax.Array
    """The position of the first weight divided by 2**32, shape (heads, 1)."""

    @classmethod
    def loaded(cls, refs: Mask | None) -> Mask | None:
        """The numbers of a program's head, from its references."""
        if refs is None:
            return None
        words: Any = [refs.words[at] for at in range(refs.words.shape[0])]
        return cls(words, refs.last[0], refs.low[0], refs.high[0])


class Inputs(NamedTuple):
    """The operands, padded to whole blocks."""

    place: Place
    """The position of the first query of each head, shape (heads, 1); as returned by `_sight`, of
    shape (heads, blocks, 4); and the factor of kept weights, shape (1,).
    """
    sides: Sides
    """Arrays of shapes (lead..., queries, keys), each axis of its length or of length 1, where
    the heads are `lead` in row-major order.
    """
    lead: tuple[int, ...]
    q: jax.Array
    """`(heads, queries, depth)`."""
    k: jax.Array
    """`(heads / share, keys, depth)`."""
    v: jax.Array
    """As `k`."""


class Tiles(NamedTuple):
    """How each of the three kernels for GPUs divides its work."""

    forward: Any
    of_keys: Any
    of_queries: Any


class Cotangents(NamedTuple):
    """The cotangents of the two results of the derivative, and the number of the forward pass that
    their transposes take.
    """

    base: jax.Array
    """For each query the logarithm to base 2 of its sum of exponentials, `(heads, queries)`."""
    out: jax.Array
    """The cotangent of `(D W) v + (D P) dv`, before it is scaled: `(heads, queries, depth)`, of the
    dtype of the values.
    """
    spread: jax.Array
    """The cotangent of `sum W`: `(heads, queries)`."""


def aside(begin: jax.Array, whole_from: jax.Array, whole_to: jax.Array, n: Any) -> jax.Array:
    """Block `n` of those of a stretch of `_sight.stretches` on both sides of the blocks in which
    every query sees every key.
    """
    before = whole_from - begin
    return jnp.where(n < before, begin, whole_to - before) + n


def bits(
    problem: Problem,
    mask: Mask | None,
    row: jax.Array,
    first: jax.Array,
    column: jax.Array,
    columns: int | None = None,
) -> jax.Array | None:
    """The random bits of the weights in rows `row` and columns `first + column`; None without a
    mask. `mask` is `Mask.loaded`. The block has `columns` columns, by default `column.size`.
    """
    if mask is None:
        return None
    row, first, column = (x.astype(jnp.uint32) for x in (row, first, column))
    keys, low = problem.lengths[1], mask.low
    if problem.mask_size <= WORD:
        high, low = None, low + row * np.uint32(keys)
    else:
        high, low = add_wide((mask.high, low), multiply_wide(row, keys))
    if keys % (columns or column.size) == 0:
        # Blocks of keys fill the rows of weights, so a row of a block starts at a multiple of its
        # length, and the columns only set bits that are 0 there.
        positions = Positions(high, low + first, column)
    elif high is None or WORD % keys == 0:  # no row of weights crosses a multiple of 2**32
        positions = Positions(high, low + (first + column))
    else:
        column = first + column
        positions = Positions(*add_wide((high, low), (jnp.zeros_like(column), column)))
    return problem.draw(mask.words, positions)
