"""The kernels of attention on a GPU, in Pallas' Triton dialect. `_triton` calls them.

Each program holds one block of queries (or, for the derivatives of keys and values, one block of
keys) in registers and walks over the blocks of the other side. Scores, weights and masks never
leave the chip. The mask is that of the dense weights: a program draws the bits of its block from
the block's position. Exponentials are to base 2, which the hardware has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxdrop.functional.attention import _problem, _triton_arithmetic
from jaxdrop.functional.attention._problem import LOG2_E, Mask, Place, Problem, Sides


class Tile(NamedTuple):
    """How a kernel divides its work: queries and keys in a block, warps in a program, and stages of
    the software pipeline.
    """

    queries: int
    keys: int
    warps: int
    stages: int


# -- the kernels


def forward(
    problem: Problem, tile: Tile, count: int, mask: Any, place: Place, sides: Sides,
    q: Any, k: Any, v: Any,
    out_ref: Any, top_ref: Any, total_ref: Any,
) -> None:  # fmt: skip
    """The attention of a block of queries, its highest scores and sums of exponentials."""
    first = (count - 1 - pl.program_id(0)) * tile.queries
    rows, queries = first + _numbers(tile.queries)[:, None], q[...]
    columns = _numbers(tile.keys)[None, :]
    mask = Mask.loaded(mask)
    exp2_of_sum, _, drop = _arithmetic(problem, mask)

    def block(j: jax.Array, carry: tuple[jax.Array, ...], *, partly: bool) -> tuple[jax.Array, ...]:
        top, total, out = carry
        start, at = j * tile.keys, pl.ds(j * tile.keys, tile.keys)
        s = triton.dot(queries, k[at, :], trans_b=True)
        bits = _problem.bits(
            problem, mask, place.row[0] + rows, start, columns
        )  # during the product
        s, factor = _scores(
            problem, place, sides, s, rows, start + columns, (slice(None), at), partly=partly
        )
        higher = jnp.maximum(top, s.max(1) * np.float32(factor))
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p, lower = exp2_of_sum(s, factor, -base[:, None]), jnp.exp2(top - base)
        more = triton.dot(drop(bits, p).astype(v.dtype), v[at, :])
        return higher, total * lower + p.sum(1), out * lower[:, None] + more

    start = jnp.full(tile.queries, -jnp.inf), jnp.zeros(tile.queries, jnp.float32)
    carry = *start, jnp.zeros(queries.shape, jnp.float32)
    top, total, out = _over(place.stretch, block, carry)
    sees = total > 0
    total = jnp.where(sees, total, 1.0)
    out_ref[...] = (out * (place.scale[0] / total)[:, None]).astype(out_ref.dtype)
    top_ref[...] = jnp.where(sees, top * np.float32(1 / LOG2_E), 0.0)
    total_ref[...] = total


def of_queries(
    problem: Problem, tile: Tile, count: int, mask: Any, place: Place, sides: Sides,
    q: Any, k: Any, v: Any,
    base: Any, dout: Any, dspread: Any, dq_ref: Any,
) -> None:  # fmt: skip
    """The cotangent of a block of queries."""
    first = (count - 1 - pl.program_id(0)) * tile.queries
    rows, columns = first + _numbers(tile.queries)[:, None], _numbers(tile.keys)[None, :]
    queries, given, kept = q[...], dout[...], place.scale[0]
    shift, more = -base[...][:, None], dspread[...][:, None]
    mask = Mask.loaded(mask)
    exp2_of_sum, multiply_add, drop = _arithmetic(problem, mask)

    def block(j: jax.Array, dq: jax.Array, *, partly: bool) -> jax.Array:
        start, at = j * tile.keys, pl.ds(j * tile.keys, tile.keys)
        keys = k[at, :]
        s = triton.dot(queries, keys, trans_b=True)
        dp = triton.dot(given, v[at, :], trans_b=True)
        bits = _problem.bits(problem, mask, place.row[0] + rows, start, columns)
        s, factor = _scores(
            problem, place, sides, s, rows, start + columns, (slice(None), at), partly=partly
        )
        ds = exp2_of_sum(s, factor, shift) * multiply_add(drop(bits, dp), kept, more)
        return dq + triton.dot(ds.astype(keys.dtype), keys)

    dq = _over(place.stretch, block, jnp.zeros(queries.shape, jnp.float32))
    dq_ref[...] = dq * np.float32(problem.scale)


def of_keys(
    problem: Problem, tile: Tile, mask: Any, place: Place, sides: Sides,
    q: Any, k: Any, v: Any,
    base: Any, dout: Any, dspread: Any, dk_ref: Any, dv_ref: Any,
) -> None:  # fmt: skip
    """The cotangents of a block of keys and of their values."""
    first, kept = pl.program_id(0) * tile.keys, place.scale[0]
    columns, keys, values = _numbers(tile.keys)[:, None], k[...], v[...]
    rows = _numbers(tile.queries)[None, :]
    mask = Mask.loaded(mask)
    exp2_of_sum, multiply_add, drop = _arithmetic(problem, mask)

    def block(
        i: jax.Array, carry: tuple[jax.Array, jax.Array], *, partly: bool
    ) -> tuple[jax.Array, jax.Array]:
        dk, dv = carry
        at = pl.ds(i * tile.queries, tile.queries)
        here, queries, given = i * tile.queries + rows, q[at, :], dout[at, :]
        s = triton.dot(keys, queries, trans_b=True)
        bits = _problem.bits(problem, mask, place.row[0] + here, first, columns)
        dp = triton.dot(values, given, trans_b=True)
        s, factor = _scores(
            problem, place, sides, s, here, first + columns, (at, slice(None)), partly=partly
        )
        p = exp2_of_sum(s, factor, -base[at][None, :])
        dv += triton.dot(drop(bits, p).astype(given.dtype), given)
        ds = p * multiply_add(drop(bits, dp), kept, dspread[at][None, :])
        return dk + triton.dot(ds.astype(queries.dtype), queries), dv

    none = jnp.zeros(keys.shape, jnp.float32)
    dk, dv = _over(place.stretch, block, (none, none))
    dk_ref[...] = dk * np.float32(problem.scale)
    dv_ref[...] = dv * kept


# -- parts of a kernel


def _numbers(length: int) -> jax.Array:
    return lax.iota(jnp.int32, length)


def _arithmetic(problem: Problem, mask: Any) -> tuple[Callable[..., jax.Array], ...]:
    """The functions of `_triton_arithmetic`; `drop` takes bits and an array."""
    interpret = problem.interpret
    last = None if mask is None else mask.last

    def drop(bits: jax.Array | None, x: jax.Array) -> jax.Array:
        return _triton_arithmetic.drop(bits, last, x, interpret=interpret)

    return (
        functools.partial(_triton_arithmetic.exp2_of_sum, interpret=interpret),
        functools.partial(_triton_arithmetic.multiply_add, interpret=interpret),
        drop,
    )


def _scores(
    problem: Problem, place: Place, sides: Sides, s: jax.Array, row: jax.Array, column: jax.Array,
    at: tuple[Any, Any], *, partly: bool,
) -> tuple[jax.Array, float]:  # fmt: skip
    """Scores, and a positive factor that makes them logarithms to base 2, from products of queries
    and keys or of keys and queries. If `partly`, some queries may not see some keys, and their
    scores are minus infinity.

    `row` and `column` count the queries and keys of the head. `at` is the block's part of `sides`.
    """
    queries_last = row.shape[0] == 1

    def side(ref: Any) -> jax.Array:
        x = ref[
            tuple(
                slice(None) if length == 1 else where
                for length, where in zip(ref.shape, at, strict=True)
            )
        ]
        return x.T if queries_last else x

    factor = problem.scale * LOG2_E
    if factor <= 0 or sides.bias:
        s, factor = s * np.float32(factor), 1.0
    for ref in sides.bias:
        s += side(ref).astype(jnp.float32) * np.float32(LOG2_E)
    if not partly:
        return s, factor
    seen = [column < problem.lengths[1], row < problem.lengths[0]]
    distance = column - (place.row[0] + row)
    if problem.after is not None:
        seen.append(distance <= problem.after)
    if problem.before is not None:
        seen.append(distance >= -problem.before)
    seen += [side(ref) != 0 for ref in sides.allowed]
    if sides.segments:
        of_queries, of_keys = map(side, sides.segments)
        seen.append(of_queries == of_keys)
    return jnp.where(functools.reduce(jnp.logical_and, seen), s, -jnp.inf), factor


def _over(stretch: Any, block: Callable[..., Any], carry: Any) -> Any:
    """Runs `block` for each block of the stretch that is seen: first for the blocks in which every
    query sees every key, which need no mask of scores, then for those on both sides of them.
    """
    begin, whole_from, whole_to, end = (stretch[at] for at in range(4))

    def aside(n: jax.Array, carry: Any) -> Any:
        return block(_problem.aside(begin, whole_from, whole_to, n), carry, partly=True)

    carry = lax.fori_loop(whole_from, whole_to, functools.partial(block, partly=False), carry)
    return lax.fori_loop(0, whole_from - begin + end - whole_to, aside, carry)
