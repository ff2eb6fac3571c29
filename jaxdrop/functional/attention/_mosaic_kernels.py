"""The kernels of attention on a TPU, in Pallas' Mosaic dialect. `_mosaic` calls them.

A grid runs over the heads, the blocks of one side and, in order, the blocks of the other, and sums
stay in the chip's memory. Blocks of scores have keys along sublanes and queries along lanes: a sum
over keys adds registers, and the numbers of a query are one row. Blocks that no query sees are
neither computed nor, since their place is that of a neighbor, loaded. The mask is that of the dense
weights: a block draws its bits from its position.
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

from jaxdrop.functional.attention import _problem
from jaxdrop.functional.attention._problem import LOG2_E, Mask, Problem, Sides


class Scalars(NamedTuple):
    """What the scalar core reads, each of one axis, with the numbers of all heads."""

    stretch: Any
    """`_sight.stretches`, four numbers for each block of each head."""
    row: Any
    """The position of the first query of each head."""
    scale: Any
    """The factor of kept weights, one number."""
    words: Any = None
    last: Any = None
    low: Any = None
    high: Any = None


class Side(NamedTuple):
    """An array of `Sides`."""

    ref: Any
    is_turned: bool
    """Whether it is queries x keys; otherwise it has one row, with the queries along lanes."""


class Block(NamedTuple):
    """The block of scores of a step of the grid."""

    head: Any
    i: Any
    j: Any
    inside: Any
    """Whether a query sees a key."""
    whole: Any
    """Whether every query sees every key."""

    @classmethod
    def of(
        cls, scalars: Scalars, count: int, head: Any, i: Any, j: Any, *, of_keys: bool = False
    ) -> Block:
        """Block `i` of queries and `j` of keys; `count` is that of the blocks with a stretch."""
        own, other = (j, i) if of_keys else (i, j)
        at = (head * count + own) * 4
        begin, whole_from, whole_to, end = (scalars.stretch[at + n] for n in range(4))
        return cls(
            head,
            i,
            j,
            (other >= begin) & (other < end),
            (other >= whole_from) & (other < whole_to),
        )

    def run(self, step: Callable[..., None]) -> None:
        """`step(partly=...)` if there is something to see."""
        pl.when(self.whole)(functools.partial(step, partly=False))
        pl.when(self.inside & ~self.whole)(functools.partial(step, partly=True))


def forward(
    problem: Problem, count: int, scalars: Scalars, sides: Sides, q: Any, k: Any, v: Any,
    out_ref: Any, top_ref: Any, total_ref: Any, top: Any, total: Any, out: Any,
) -> None:  # fmt: skip
    """The attention of a block of queries, its highest scores and sums of exponentials."""
    j = pl.program_id(2)
    here = Block.of(scalars, count, pl.program_id(0), pl.program_id(1), j)

    @pl.when(j == 0)
    def _() -> None:
        top[...] = jnp.full(top.shape, -jnp.inf)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        out[...] = jnp.zeros(out.shape, jnp.float32)

    def step(*, partly: bool) -> None:
        s = _scores(problem, scalars, here, sides, q[...], k[...], partly=partly)
        before = top[...]
        higher = jnp.maximum(before, s.max(0, keepdims=True))
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p, lower = jnp.exp2(s - base), jnp.exp2(before - base)
        top[...] = higher
        total[...] = total[...] * lower + p.sum(0, keepdims=True)
        kept = _drop(_keep(problem, scalars, here, p.shape), p)
        out[...] = out[...] * lower + _product(problem, v[...], kept.astype(v.dtype), 0, 0)

    here.run(step)

    @pl.when(j == pl.num_programs(2) - 1)
    def _() -> None:
        sees = total[...] > 0
        sums = jnp.where(sees, total[...], 1.0)
        out_ref[...] = (out[...] * (scalars.scale[0] / sums)).T.astype(out_ref.dtype)
        top_ref[...] = jnp.where(sees, top[...] * np.float32(1 / LOG2_E), 0.0)
        total_ref[...] = sums


def of_queries(
    problem: Problem, count: int, scalars: Scalars, sides: Sides, q: Any, k: Any, v: Any,
    base: Any, dout: Any, dspread: Any, dq_ref: Any, dq: Any,
) -> None:  # fmt: skip
    """The cotangent of a block of queries."""
    j = pl.program_id(2)
    here = Block.of(scalars, count, pl.program_id(0), pl.program_id(1), j)

    @pl.when(j == 0)
    def _() -> None:
        dq[...] = jnp.zeros(dq.shape, jnp.float32)

    def step(*, partly: bool) -> None:
        s = _scores(problem, scalars, here, sides, q[...], k[...], partly=partly)
        dp = _product(problem, v[...], dout[...], 1, 1)
        dp = _drop(_keep(problem, scalars, here, s.shape), dp)
        ds = jnp.exp2(s - base[...]) * (dp * scalars.scale[0] + dspread[...])
        dq[...] += _product(problem, k[...], ds.astype(k.dtype), 0, 0)

    here.run(step)

    @pl.when(j == pl.num_programs(2) - 1)
    def _() -> None:
        dq_ref[...] = (dq[...] * np.float32(problem.scale)).T.astype(dq_ref.dtype)


def of_keys(
    problem: Problem, count: int, queries: int, scalars: Scalars, sides: Sides,
    q: Any, k: Any, v: Any, base: Any, dout: Any, dspread: Any,
    dk_ref: Any, dv_ref: Any, dk: Any, dv: Any,
) -> None:  # fmt: skip
    """The cotangents of a block of keys and of their values, summed over the heads that share them.

    The last axis of the grid runs over the `queries` blocks of queries of each of these heads.
    """
    n = pl.program_id(2)
    head = pl.program_id(0) * problem.share + lax.div(n, np.int32(queries))
    here = Block.of(
        scalars, count, head, lax.rem(n, np.int32(queries)), pl.program_id(1), of_keys=True
    )

    @pl.when(n == 0)
    def _() -> None:
        dk[...] = jnp.zeros(dk.shape, jnp.float32)
        dv[...] = jnp.zeros(dv.shape, jnp.float32)

    def step(*, partly: bool) -> None:
        s = _scores(problem, scalars, here, sides, q[...], k[...], partly=partly)
        p = jnp.exp2(s - base[...])
        keep = _keep(problem, scalars, here, p.shape)
        dv[...] += _product(problem, _drop(keep, p).astype(dout.dtype), dout[...], 1, 0)
        dp = _drop(keep, _product(problem, v[...], dout[...], 1, 1))
        ds = p * (dp * scalars.scale[0] + dspread[...])
        dk[...] += _product(problem, ds.astype(q.dtype), q[...], 1, 0)

    here.run(step)

    @pl.when(n == pl.num_programs(2) - 1)
    def _() -> None:
        dk_ref[...] = (dk[...] * np.float32(problem.scale)).astype(dk_ref.dtype)
        dv_ref[...] = (dv[...] * scalars.scale[0]).astype(dv_ref.dtype)


# -- parts of a kernel


def _product(problem: Problem, a: jax.Array, b: jax.Array, of_a: int, of_b: int) -> jax.Array:
    """The product of `a` and `b`, summed over axis `of_a` of `a` and `of_b` of `b`, in float32."""
    return lax.dot_general(
        a,
        b,
        (((of_a,), (of_b,)), ((), ())),
        precision=problem.precision,
        preferred_element_type=jnp.float32,
    )


def _scores(
    problem: Problem, scalars: Scalars, here: Block, sides: Sides, q: jax.Array, k: jax.Array,
    *, partly: bool,
) -> jax.Array:  # fmt: skip
    """Scores of base 2, keys x queries. If `partly`, some queries may not see some keys, and their
    scores are minus infinity.
    """
    s = _product(problem, k, q, 1, 1) * np.float32(problem.scale * LOG2_E)
    for ref in sides.bias:
        s += _side(ref, s.shape).astype(jnp.float32) * np.float32(LOG2_E)
    if not partly:
        return s
    row, column = _coordinates(here, s.shape)
    seen = [column < problem.lengths[1], row < problem.lengths[0]]
    distance = column - row - scalars.row[here.head]
    if problem.after is not None:
        seen.append(distance <= problem.after)
    if problem.before is not None:
        seen.append(distance >= -problem.before)
    seen += [_side(ref, s.shape) != 0 for ref in sides.allowed]
    if sides.segments:
        of_queries, of_keys = (_side(ref, s.shape) for ref in sides.segments)
        seen.append(of_queries == of_keys)
    return jnp.where(functools.reduce(jnp.logical_and, seen), s, -jnp.inf)


def _coordinates(here: Block, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The queries and the keys of a block, counted from the first of the head."""
    keys, queries = shape
    row = lax.broadcasted_iota(jnp.int32, shape, 1) + here.i * queries
    column = lax.broadcasted_iota(jnp.int32, shape, 0) + here.j * keys
    return row, column


def _side(side: Side, shape: tuple[int, ...]) -> jax.Array:
    """A block of an array of `Sides`, keys x queries."""
    x, (keys, queries) = side.ref[...], shape
    x = x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32)
    return jnp.broadcast_to(x, (queries, keys)).T if side.is_turned else jnp.broadcast_to(x, shape)


def _keep(
    problem: Problem, scalars: Scalars, here: Block, shape: tuple[int, ...]
) -> jax.Array | None:
    """Which weights are kept; None for all."""
    if scalars.words is None:
        return None
    keys, queries = shape
    words: Any = [scalars.words[at] for at in range(scalars.words.shape[0])]
    mask = Mask(words, scalars.last[0], scalars.low[here.head], scalars.high[here.head])
    row = lax.broadcasted_iota(jnp.int32, (1, queries), 1) + here.i * queries
    row += scalars.row[here.head]
    column = lax.broadcasted_iota(jnp.int32, (keys, 1), 0)
    bits = _problem.bits(problem, mask, row, here.j * keys, column)
    return None if bits is None else bits <= mask.last


def _drop(keep: jax.Array | None, x: jax.Array) -> jax.Array:
    return x if keep is None else jnp.where(keep, x, 0.0)
