"""Which keys the queries see, block by block, for kernels that run over the blocks that are seen.

All that limits what a query sees is here at once: windows and causality, padding, segments and
boolean masks. A kernel reads for each of its programs where to begin and to end, and between which
blocks it needs no mask of scores.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional.attention._block import Operands, Plan

Array = Any
"""Of NumPy where nothing depends on an operand, so that no program computes it, or of JAX."""


def stretches(
    plan: Plan, operands: Operands, row: Array, block: tuple[int, int], *, of_keys: bool = False
) -> Array:
    """For each block of queries four numbers of blocks of keys, int32 of shape `(lead..., blocks,
    4)`: the first that is seen, the first and the one behind the last of a stretch in which every
    query sees every key, and the one behind the last that is seen.

    Args:
      plan: the static part of the call.
      operands: with queries and keys padded to whole blocks; masks and segments are 0 there.
      row: the position of the first query, a number or an array with the axes of the weights.
      block: the numbers of queries and of keys in a block.
      of_keys: for each block of keys the numbers of blocks of queries instead.
    """
    seen, whole = _seen(plan, operands, row, block)
    if of_keys:
        seen, whole = seen.swapaxes(-1, -2), whole.swapaxes(-1, -2)
    xp = _namespace(seen)
    count = np.int32(seen.shape[-1])
    at = np.arange(count, dtype=np.int32).reshape(*(1,) * (seen.ndim - 1), -1)
    end = xp.where(seen, at + 1, np.int32(0)).max(-1, keepdims=True)

    def first(of: Array) -> Array:
        return xp.minimum(xp.where(of, at, count).min(-1, keepdims=True), end)

    whole_from = first(whole)
    whole_to = first(~whole & (at >= whole_from))
    return xp.concatenate([first(seen), whole_from, whole_to, end], -1)


def _seen(
    plan: Plan, operands: Operands, row: Array, block: tuple[int, int]
) -> tuple[Array, Array]:
    """Whether some query of a block of queries may see some key of a block of keys, and whether
    every query sees every key; of shape `(lead..., blocks of queries, blocks of keys)`.
    """
    rows, columns = block
    queries, keys = operands.q.shape[-2] // rows, operands.k.shape[-2] // columns
    one = (1,) * (operands.q.ndim - 2)
    place = np.arange(queries, dtype=np.int32).reshape(*one, -1, 1) * np.int32(rows)
    near = np.arange(keys, dtype=np.int32).reshape(*one, 1, -1) * np.int32(columns)
    far, first = near + np.int32(columns - 1), row + place
    last = first + np.int32(rows - 1)
    seen: Array = (place < plan.lengths[0]) & (near < plan.lengths[1])
    whole: Array = (place + rows <= plan.lengths[0]) & (far < plan.lengths[1])
    if plan.before is not None:
        seen, whole = seen & (far >= first - plan.before), whole & (near >= last - plan.before)
    if plan.after is not None:
        seen, whole = seen & (near <= last + plan.after), whole & (far <= first + plan.after)
    inside = (-3, -1)  # the axes of `_tiles` within a block
    for mask in operands.allowed:
        tiles = _tiles(mask, block)
        seen, whole = seen & tiles.any(inside), whole & tiles.all(inside)
    if operands.segments is not None:
        of_queries, of_keys = (_tiles(x, block) for x in operands.segments)
        low, high = of_queries.min(inside), of_queries.max(inside)
        least, most = of_keys.min(inside), of_keys.max(inside)
        # Two blocks may share a segment if the ranges of their segment numbers overlap. In packed
        # sequences the numbers rise, so that few ranges do.
        seen = seen & (least <= high) & (low <= most)
        whole = whole & (low == high) & (least == most) & (low == least)
    shape = jnp.broadcast_shapes(seen.shape, whole.shape, (*one, queries, keys))
    xp = _namespace(seen, whole)
    return xp.broadcast_to(seen, shape), xp.broadcast_to(whole & seen, shape)


def _tiles(x: jax.Array, block: tuple[int, int]) -> jax.Array:
    """`x`, with the two last axes of the weights, as `(lead..., blocks, queries of a block, blocks,
    keys of a block)`; an axis of length 1 is one block of one.
    """
    shape = [
        size
        for length, of in zip(x.shape[-2:], block, strict=True)
        for size in ((1, 1) if length == 1 else (length // of, of))
    ]
    return x.reshape(*x.shape[:-2], *shape)


def _namespace(*arrays: Array) -> Any:
    return np if all(isinstance(x, np.ndarray) for x in arrays) else jnp
