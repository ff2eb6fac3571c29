"""The kernels of attention on a GPU, in Pallas' Triton dialect. `_triton` calls them.

Each program holds one block of queries (or, for the derivatives of keys and values, one block of
keys) in registers and walks over the blocks of the other side. Scores, weights and masks never
leave the chip. The mask is that of the dense weights: a program draws the bits of its block from
the block's position. Exponentials are to base 2, which the hardware has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxdrop.random._positions import Positions
from jaxdrop.random._words import WORD, add_wide, multiply_wide

_LOG2_E = math.log2(math.e)


class Tile(NamedTuple):
    """How a kernel divides its work: queries and keys in a block, warps in a program, and stages of
    the software pipeline.
    """

    queries: int
    keys: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """The tiles of the three kernels."""

    forward: Tile
    of_keys: Tile
    of_queries: Tile


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
    draw: Callable[..., jax.Array]
    """The generator: words and positions -> bits."""
    tiles: Tiles
    interpret: bool


# -- the kernels


def forward(
    problem: Problem, tile: Tile, count: int, mask: Any, row: Any, scale: Any,
    q: Any, k: Any, v: Any,
    out_ref: Any, top_ref: Any, total_ref: Any,
) -> None:  # fmt: skip
    """The attention of a block of queries, its highest scores and sums of exponentials."""
    first = row[0] + (count - 1 - pl.program_id(0)) * tile.queries
    rows, queries = _places(first, tile.queries), q[...]

    def block(j: jax.Array, carry: tuple[jax.Array, ...], *, partly: bool) -> tuple[jax.Array, ...]:
        top, total, out = carry
        columns, at = _places(j * tile.keys, tile.keys), pl.ds(j * tile.keys, tile.keys)
        s = _scores(problem, queries, k[at, :], rows[:, None], columns[None, :], partly)
        higher = jnp.maximum(top, s.max(1))
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p, lower = jnp.exp2(s - base[:, None]), jnp.exp2(top - base)
        kept = _drop(_keep(problem, mask, rows[:, None], columns[None, :]), p)
        more = triton.dot(kept.astype(v.dtype), v[at, :])
        return higher, total * lower + p.sum(1), out * lower[:, None] + more

    start = jnp.full(tile.queries, -jnp.inf, jnp.float32), jnp.zeros(tile.queries, jnp.float32)
    carry = *start, jnp.zeros(queries.shape, jnp.float32)
    top, total, out = _over_keys(problem, tile, first, block, carry)
    sees = total > 0
    total = jnp.where(sees, total, 1.0)
    out_ref[...] = (out * (scale[0] / total)[:, None]).astype(out_ref.dtype)
    top_ref[...] = jnp.where(sees, top * np.float32(1 / _LOG2_E), 0.0)
    total_ref[...] = total


def of_queries(
    problem: Problem, tile: Tile, count: int, mask: Any, row: Any, scale: Any,
    q: Any, k: Any, v: Any,
    top: Any, total: Any, dout: Any, dspread: Any, dq_ref: Any,
) -> None:  # fmt: skip
    """The cotangent of a block of queries."""
    first = row[0] + (count - 1 - pl.program_id(0)) * tile.queries
    rows, queries, given = _places(first, tile.queries), q[...], dout[...]
    base, per_total, more, kept = (
        top[...] * np.float32(_LOG2_E),
        1 / total[...],
        dspread[...],
        scale[0],
    )

    def block(j: jax.Array, dq: jax.Array, *, partly: bool) -> jax.Array:
        columns, at = _places(j * tile.keys, tile.keys), pl.ds(j * tile.keys, tile.keys)
        keys = k[at, :]
        s = _scores(problem, queries, keys, rows[:, None], columns[None, :], partly)
        p = jnp.exp2(s - base[:, None]) * per_total[:, None]
        dp = triton.dot(given, v[at, :], trans_b=True)
        dp = _drop(_keep(problem, mask, rows[:, None], columns[None, :]), dp)
        ds = p * (dp * kept + more[:, None])
        return dq + triton.dot(ds.astype(keys.dtype), keys)

    dq = _over_keys(problem, tile, first, block, jnp.zeros(queries.shape, jnp.float32))
    dq_ref[...] = dq * np.float32(problem.scale)


def of_keys(
    problem: Problem, tile: Tile, mask: Any, row: Any, scale: Any, q: Any, k: Any, v: Any,
    top: Any, total: Any, dout: Any, dspread: Any, dk_ref: Any, dv_ref: Any,
) -> None:  # fmt: skip
    """The cotangents of a block of keys and of their values."""
    first = pl.program_id(0) * tile.keys
    columns, keys, values, kept = _places(first, tile.keys), k[...], v[...], scale[0]

    def block(
        i: jax.Array, carry: tuple[jax.Array, jax.Array], *, partly: bool
    ) -> tuple[jax.Array, jax.Array]:
        dk, dv = carry
        at = pl.ds(i * tile.queries, tile.queries)
        rows = _places(row[0] + i * tile.queries, tile.queries)
        queries, given = q[at, :], dout[at, :]
        s = _scores(problem, keys, queries, rows[None, :], columns[:, None], partly)
        p = jnp.exp2(s - (top[at] * np.float32(_LOG2_E))[None, :]) * (1 / total[at])[None, :]
        keep = _keep(problem, mask, rows[None, :], columns[:, None])
        dv += triton.dot(_drop(keep, p).astype(given.dtype), given)
        dp = _drop(keep, triton.dot(values, given, trans_b=True))
        ds = p * (dp * kept + dspread[at][None, :])
        return dk + triton.dot(ds.astype(queries.dtype), queries), dv

    none = jnp.zeros(keys.shape, jnp.float32)
    dk, dv = _over_queries(problem, tile, first - row[0], q.shape[0], block, (none, none))
    dk_ref[...] = dk * np.float32(problem.scale)
    dv_ref[...] = dv * kept


# -- parts of a kernel


def _places(first: jax.Array, length: int) -> jax.Array:
    return first + lax.iota(jnp.int32, length)


def _scores(
    problem: Problem, a: jax.Array, b: jax.Array, row: jax.Array, column: jax.Array, partly: bool
) -> jax.Array:
    """Scores to base 2, of queries and keys or of keys and queries. If `partly`, some queries may
    not see some keys, and their scores are minus infinity.
    """
    s = triton.dot(a, b, trans_b=True) * np.float32(problem.scale * _LOG2_E)
    if not partly:
        return s
    seen = [column < problem.lengths[1]]
    if problem.after is not None:
        seen.append(column <= row + problem.after)
    if problem.before is not None:
        seen.append(column >= row - problem.before)
    return jnp.where(functools.reduce(jnp.logical_and, seen), s, -jnp.inf)


def _keep(problem: Problem, mask: Any, row: jax.Array, column: jax.Array) -> jax.Array | None:
    """Which weights are kept; None for all."""
    if mask is None:
        return None
    words, last, low, high = mask
    row, column, keys = row.astype(jnp.uint32), column.astype(jnp.uint32), problem.lengths[1]
    if problem.mask_size <= WORD:
        positions = Positions(None, low[0] + row * np.uint32(keys) + column)
    else:
        start = add_wide((high[0], low[0]), multiply_wide(row, keys))
        if WORD % keys == 0:  # a row of weights never crosses a multiple of 2**32
            positions = Positions(start[0], start[1] + column)
        else:
            positions = Positions(*add_wide(start, (jnp.zeros_like(column), column)))
    return problem.draw([words[at] for at in range(words.shape[0])], positions) <= last[0]


def _drop(keep: jax.Array | None, x: jax.Array) -> jax.Array:
    return x if keep is None else jnp.where(keep, x, 0.0)


def _over_keys(
    problem: Problem, tile: Tile, first: jax.Array, block: Callable[..., Any], carry: Any
) -> Any:
    """Runs `block` for each block of keys that a query sees, of the block of queries that starts at
    position `first`.
    """
    length, last = np.int32(tile.keys), first + (tile.queries - 1)
    begin, end = jnp.int32(0), jnp.int32(-(-problem.lengths[1] // tile.keys))
    whole_from, whole_to = begin, jnp.int32(problem.lengths[1] // tile.keys)
    if problem.before is not None:
        begin = lax.div(jnp.maximum(first - problem.before, 0), length)
        whole_from = lax.div(jnp.maximum(last - problem.before, 0) + (length - 1), length)
    if problem.after is not None:
        end = jnp.minimum(end, lax.div(jnp.maximum(last + problem.after + length, 0), length))
        whole_to = jnp.minimum(whole_to, lax.div(jnp.maximum(first + problem.after + 1, 0), length))
    return _stretches(
        begin, whole_from, whole_to, end, block, carry, head=problem.before is not None
    )


def _over_queries(
    problem: Problem,
    tile: Tile,
    first: jax.Array,
    queries: int,
    block: Callable[..., Any],
    carry: Any,
) -> Any:
    """Runs `block` for each block of queries that see a key of a block of keys. `first` is the
    position of the first key among the queries.
    """
    length, last = np.int32(tile.queries), first + (tile.keys - 1)
    begin, end = jnp.int32(0), jnp.int32(queries // tile.queries)
    whole_from, whole_to = begin, end
    if problem.after is not None:
        begin = lax.div(jnp.maximum(first - problem.after, 0), length)
        whole_from = lax.div(jnp.maximum(last - problem.after, 0) + (length - 1), length)
    if problem.before is not None:
        end = jnp.minimum(end, lax.div(jnp.maximum(last + problem.before + length, 0), length))
        whole_to = jnp.minimum(
            whole_to, lax.div(jnp.maximum(first + problem.before + 1, 0), length)
        )
    if problem.lengths[1] % tile.keys:  # the last block of keys may hold padding
        padded = pl.program_id(0) == problem.lengths[1] // tile.keys
        whole_to = jnp.where(padded, jnp.int32(0), whole_to)
    return _stretches(
        begin, whole_from, whole_to, end, block, carry, head=problem.after is not None
    )


def _stretches(
    begin: jax.Array,
    whole_from: jax.Array,
    whole_to: jax.Array,
    end: jax.Array,
    block: Callable[..., Any],
    carry: Any,
    *,
    head: bool,
) -> Any:
    """Runs `block` from `begin` to `end`. From `whole_from` to `whole_to` every query sees every
    key, and no scores are masked. Without `head`, `whole_from` is `begin`.
    """
    end = jnp.maximum(begin, end)
    whole_from = jnp.clip(whole_from, begin, end) if head else begin
    whole_to = jnp.clip(whole_to, whole_from, end)
    if head:
        carry = lax.fori_loop(begin, whole_from, functools.partial(block, partly=True), carry)
    carry = lax.fori_loop(whole_from, whole_to, functools.partial(block, partly=False), carry)
    return lax.fori_loop(whole_to, end, functools.partial(block, partly=True), carry)
