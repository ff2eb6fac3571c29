"""The transpose of the derivative of attention by blocks. In the symbols of `_derivative`, from the
cotangents `a` of `(D W) v + (D P) dv` and `b` of `dL`,

    e = P (D (a v) + b),    dq = scale e k,    dk = scale e q,    dv = (D P) a,    dbias = e.

JAX derives the same from the derivative, but its sums over blocks have the dtype of the operands:
with many blocks of bfloat16, much of a gradient would be rounding. Here they are of float32. And
JAX makes, for each block of queries, an array of what it adds to the gradients of all keys. Here
each block adds to its part of the sum, in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _numerics
from jaxdrop.functional.attention import _target
from jaxdrop.functional.attention._block import Lead, Operands, Plan, Scores, kept_of
from jaxdrop.functional.attention._derivative import Block, Tangents, weights
from jaxdrop.functional.attention._parts import by_parts
from jaxdrop.functional.attention._splitting import anchor, at, put

Moving = tuple[bool, ...]
"""Which of `Tangents` there are."""


class Cotangents(NamedTuple):
    """The cotangents of the results of the derivative."""

    out: jax.Array
    """Of `(D W) v + (D P) dv`."""
    spread: jax.Array
    """Of `dL`."""


def transposed(
    plan: Plan,
    operands: Operands,
    top: jax.Array,
    total: jax.Array,
    given: Cotangents,
    moving: Moving,
) -> Tangents:
    """The cotangents of the tangents that are moving, of their dtypes."""
    factors = of(moving, plan.scale, plan.scale, 1.0, 1.0)
    like = of(moving, operands.q, operands.k, operands.v, operands.bias)
    scale = operands.scale.astype(given.spread.dtype)
    # Weights get the scale of kept ones with the sum of their row, and not one by one.
    spread = jnp.where(scale == 0, 0, given.spread / jnp.where(scale == 0, 1, scale))
    given = Cotangents(given.out.astype(operands.v.dtype), spread)
    compute = functools.partial(_of_part, moving)
    found = by_parts(compute, plan, operands, top, total, given, like=like)
    return jax.tree.map(lambda x, by, like: (x * by).astype(like.dtype), found, factors, like)


def of(moving: Moving, *each: Any) -> Tangents:
    """`Tangents` of these, with None for what is not moving."""
    return Tangents(*(x if moves else None for x, moves in zip(each, moving, strict=True)))


def _of_part(
    moving: Moving,
    plan: Plan,
    operands: Operands,
    lead: Lead | None,
    top: jax.Array,
    total: jax.Array,
    given: Cotangents,
) -> Tangents:
    scores, (rows, columns), counts = Scores.of(plan, operands, lead), plan.blocks, plan.counts
    wide = _numerics.compute_dtype(operands.v.dtype)
    zero = anchor((operands, given)).astype(wide)

    def row(sums: Tangents, i: jax.Array) -> tuple[Tangents, None]:
        def block(sums: Tangents, j: jax.Array) -> Tangents:
            add = functools.partial(_added, Block(scores, top, total, i, j), given)
            return _within(add, _OF_KEYS, j, columns, sums)

        def over_columns(sums: Tangents) -> Tangents:
            return scores.over_columns(i, block, sums, jnp.arange(counts[1], dtype=jnp.int32))

        return _within(over_columns, _OF_QUERIES, i, rows, sums), None

    def start(x: jax.Array) -> jax.Array:
        is_sum = 1 in x.shape[-2:] or x is not operands.bias
        return (jnp.zeros_like(x, wide) + zero).astype(wide if is_sum else x.dtype)

    inputs = of(moving, operands.q, operands.k, operands.v, operands.bias)
    sums, numbers = jax.tree.map(start, inputs), jnp.arange(counts[0], dtype=jnp.int32)
    return row(sums, numbers[0])[0] if counts[0] == 1 else lax.scan(row, sums, numbers)[0]


_OF_QUERIES = {"q": -2, "bias": -2}
_OF_KEYS = {"k": -2, "v": -2, "bias": -1}
"""The axes of queries, and of keys."""


def _within(
    step: Callable[[Tangents], Tangents],
    axes: dict[str, int],
    index: jax.Array,
    length: int,
    sums: Tangents,
) -> Tangents:
    """`step` of sums that have of these axes only block `index`; the others stay as they are."""
    found = {name: getattr(sums, name) for name in axes}
    whole = {name: x for name, x in found.items() if x is not None}
    parts = {name: at(x, index, length, axes[name]) for name, x in whole.items()}
    new = step(sums._replace(**parts))
    back = {
        name: put(x, getattr(new, name), index, length, axes[name]) for name, x in whole.items()
    }
    return new._replace(**back)


def _added(block: Block, given: Cotangents, sums: Tangents) -> Tangents:
    """The sums of the parts that belong to the block, with its own added."""
    (scores, _, _, i, j), products = block, block.scores.products
    operands, (rows, columns) = scores.operands, scores.plan.blocks
    (p, mask), a = weights(block, operands.scale), at(given.out, i, rows, -2)
    if sums.v is not None:
        kept = kept_of(p, mask).astype(a.dtype)
        sums = sums._replace(v=sums.v + _over_queries(kept, a, products))
    if all(x is None for x in (sums.q, sums.k, sums.bias)):
        return sums
    e = jnp.einsum("...kgqd,...ksd->...kgqs", a, at(operands.v, j, columns, -2), **products)
    e = p * (kept_of(e, mask) + at(given.spread, i, rows, -1)[..., None])
    if sums.bias is not None:
        shared = [axis for axis, of in enumerate(sums.bias.shape) if of != e.shape[axis]]
        more = e.sum(shared, keepdims=True)
        sums = sums._replace(bias=sums.bias + more.astype(sums.bias.dtype))
    e = e.astype(operands.q.dtype)
    if _target.platform() == "tpu":
        e = lax.optimization_barrier(e)  # stored for both products, as `_formed_once` does
    if sums.q is not None:
        k = at(operands.k, j, columns, -2)
        sums = sums._replace(q=sums.q + jnp.einsum("...kgqs,...ksd->...kgqd", e, k, **products))
    if sums.k is not None:
        q = at(operands.q, i, rows, -2)
        sums = sums._replace(k=sums.k + _over_queries(e, q, products))
    return sums


def _over_queries(e: jax.Array, x: jax.Array, products: dict[str, Any]) -> jax.Array:
    """The sum over queries of `e`, for each key, times `x`, for each feature."""
    if _target.platform() != "cpu":
        return jnp.einsum("...kgqs,...kgqd->...ksd", e, x, **products)
    # The product of a CPU would begin with a transpose of `e`. So `x` is transposed, and the
    # result.
    found = jnp.einsum("...kgqd,...kgqs->...kds", x, e, **products)
    if x.dtype.itemsize == 2:
        # XLA would make one product of both, which it then cannot compute of these dtypes.
        found = lax.optimization_barrier(found)
    return found.mT
