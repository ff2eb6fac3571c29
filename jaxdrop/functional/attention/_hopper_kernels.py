"""The kernels of attention on a Hopper GPU, in Pallas' Mosaic GPU dialect. `_hopper` calls them.

Each is one warpgroup's part, from its own blocks, in shared memory, to its results. The mask is
that of the dense weights: a warpgroup draws the bits of a block from the block's position.
Exponentials are to base 2, which the hardware has.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.functional.attention._hopper_parts import COMPUTE, Part
from jaxdrop.functional.attention._hopper_scores import (
    Accumulator,
    added,
    filled,
    keeper,
    limits,
    products,
)
from jaxdrop.functional.attention._problem import LOG2_E


def forward(part: Part) -> tuple[jax.Array, ...]:
    """The attention of a block of queries, its highest scores and sums of exponentials."""
    problem, (keys, values), (queries,) = part.problem, part.shared.walked, part.own()
    scores = Accumulator((part.tile.queries // COMPUTE, part.tile.keys), turned=False)
    factor, row = np.float32(problem.scale * LOG2_E), part.place.row[part.head, 0] + part.first
    keep = keeper(problem, part.mask, part.head, scores)

    def step(
        stage: jax.Array, start: jax.Array, carry: tuple[jax.Array, ...], *, partly: bool
    ) -> tuple[jax.Array, ...]:
        highest, sums, out = carry
        keys.wait(stage)
        (s,) = products(problem, [(queries, keys.arrays[0].at[stage])], part.change)
        part.release(keys, stage)
        s = _seen(part, scores, s, row, start, partly)
        higher = jnp.maximum(highest, s.max(1) * factor)
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p, lower = jnp.exp2(s * factor - scores.of_queries(base)), jnp.exp2(highest - base)
        sums = sums * lower + p.sum(1)
        out = out * lax.broadcast_in_dim(lower, out.shape, (0,))
        p = _rounded(keep(row, start)(p), queries.dtype)
        higher, sums, out, p = lax.optimization_barrier((higher, sums, out, p))
        values.wait(stage)
        part.change()
        (out,) = added(problem, [(out, p, values.arrays[0].at[stage])])
        part.release(values, stage)
        return higher, sums, out

    empty = functools.partial(filled, (queries.shape[0],), layout=scores.per_query())
    carry = empty(value=-jnp.inf), empty(value=0.0), filled(queries.shape, 0.0)
    limited = bool(limits(problem, scores, row, 0))
    highest, sums, out = part.walk(part.tile.keys, step, limited, carry)
    sees = sums > 0
    sums = jnp.where(sees, sums, 1.0)
    out *= lax.broadcast_in_dim(part.place.scale[0] / sums, out.shape, (0,))
    return out, jnp.where(sees, highest * np.float32(1 / LOG2_E), 0.0), sums


def of_queries(part: Part) -> tuple[jax.Array, ...]:
    """The cotangent of a block of queries."""
    problem, (keys, values) = part.problem, part.shared.walked
    queries, given, base, spread = part.own()
    scores = Accumulator((part.tile.queries // COMPUTE, part.tile.keys), turned=False)
    factor, row = np.float32(problem.scale * LOG2_E), part.place.row[part.head, 0] + part.first
    kept, keep = part.place.scale[0], keeper(problem, part.mask, part.head, scores)
    base, spread = scores.loaded(base), scores.loaded(spread)

    def step(stage: jax.Array, start: jax.Array, dq: jax.Array, *, partly: bool) -> jax.Array:
        keys.wait(stage)
        values.wait(stage)
        here, value = keys.arrays[0].at[stage], values.arrays[0].at[stage]
        s, dp = products(problem, [(queries, here), (given, value)], part.change)
        part.release(values, stage)
        s = _seen(part, scores, s, row, start, partly)
        p = jnp.exp2(s * factor - base)
        ds = p * (keep(row, start)(dp) * kept + spread)
        dq, ds = lax.optimization_barrier((dq, ds.astype(queries.dtype)))
        part.change()
        (dq,) = added(problem, [(dq, ds, here)])
        part.release(keys, stage)
        return dq

    limited = bool(limits(problem, scores, row, 0))
    dq = part.walk(part.tile.keys, step, limited, filled(queries.shape, 0.0))
    return (dq * np.float32(problem.scale),)


def of_keys(part: Part) -> tuple[jax.Array, ...]:
    """The cotangents of a block of keys and of their values."""
    problem, (walked,), (keys, values) = part.problem, part.shared.walked, part.own()
    scores = Accumulator((part.tile.keys // COMPUTE, part.tile.queries), turned=True)
    factor, origin = np.float32(problem.scale * LOG2_E), part.place.row[part.head, 0]
    kept, keep = part.place.scale[0], keeper(problem, part.mask, part.head, scores)

    def step(
        stage: jax.Array, start: jax.Array, carry: tuple[jax.Array, ...], *, partly: bool
    ) -> tuple[jax.Array, ...]:
        dk, dv = carry
        walked.wait(stage)
        queries, given, base, spread = (x.at[stage] for x in walked.arrays)
        s, dp = products(problem, [(keys, queries), (values, given)], part.change)
        s = _seen(part, scores, s, origin + start, part.first, partly)
        p = jnp.exp2(s * factor - scores.loaded(base))
        drop = keep(origin + start, part.first)
        ds = (p * (drop(dp) * kept + scores.loaded(spread))).astype(keys.dtype)
        p = _rounded(drop(p), keys.dtype)
        dk, dv, p, ds = lax.optimization_barrier((dk, dv, p, ds))
        part.change()
        dv, dk = added(problem, [(dv, p, given), (dk, ds, queries)])
        part.release(walked, stage)
        return dk, dv

    limited = bool(limits(problem, scores, origin, part.first))
    none = filled(keys.shape, 0.0)
    dk, dv = part.walk(part.tile.queries, step, limited, (none, none))
    return dk * np.float32(problem.scale), dv * kept


def _seen(
    part: Part, scores: Accumulator, s: jax.Array, row: Any, column: Any, partly: bool
) -> jax.Array:
    """Scores, minus infinity where a query may not see a key if `partly`."""
    if not partly:
        return s
    seen = limits(part.problem, scores, row, column)
    return jnp.where(functools.reduce(jnp.logical_and, seen), s, -jnp.inf)


def _rounded(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` with dropped weights, in 16 bits. The compiler would otherwise drop them behind the
    rounding, where it takes more instructions.
    """
    return lax.optimization_barrier(x).astype(dtype)
