"""The derivative of attention by blocks. In the symbols of `_blocked`,

    ds = scale (dq k + q dk) + dbias,    W = P ds = exp(s - m) ds / t,    dL = sum W,
    do = (D W) v + (D P) dv - dL o.

It is linear in the tangents; `_transpose` has its transpose. It is a sum over blocks that do not
depend on each other.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _numerics
from jaxdrop.functional.attention import _target
from jaxdrop.functional.attention._block import Lead, Operands, Plan, Scores
from jaxdrop.functional.attention._parts import by_parts
from jaxdrop.functional.attention._splitting import at, join, over, split


class Tangents(NamedTuple):
    """The tangents of the inputs, None for an input that has none."""

    q: jax.Array | None
    k: jax.Array | None
    v: jax.Array | None
    bias: jax.Array | None


def derivative(
    plan: Plan, operands: Operands, top: jax.Array, total: jax.Array, moving: Tangents
) -> tuple[jax.Array, jax.Array]:
    """`(D W) v + (D P) dv` and `dL` of the module's formula."""
    return by_parts(_of_part, plan, operands, top, total, moving)


def _of_part(
    plan: Plan,
    operands: Operands,
    lead: Lead | None,
    top: jax.Array,
    total: jax.Array,
    moving: Tangents,
) -> tuple[jax.Array, jax.Array]:
    scores = Scores.of(plan, operands, lead)
    # Tangents with an axis of queries are split for the outer loop, those with an axis of keys for
    # the inner loop.
    outer = Tangents(*(_split(x, -2, plan.counts[0]) for x in (moving.q, None, None, moving.bias)))
    keys, values = (_split(x, -2, plan.counts[1]) for x in (moving.k, moving.v))

    def row(i: jax.Array, d: Tangents) -> tuple[jax.Array, jax.Array]:
        bias = moving.bias if d.bias is None else d.bias
        biases = _split(bias, -1, plan.counts[1])

        def block(
            carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, Tangents]
        ) -> tuple[jax.Array, jax.Array]:
            j, part = x
            part = part._replace(q=d.q, bias=bias if part.bias is None else part.bias)
            found = _of_block(Block(scores, top, total, i, j), part)
            return carry[0] + found[0], carry[1] + found[1]

        zeros, initial = scores.start(at(operands.q, i, plan.blocks[0], -2), (operands, moving))
        xs = jnp.arange(plan.counts[1], dtype=jnp.int32), Tangents(None, keys, values, biases)
        return scores.over_columns(i, block, (initial, zeros), xs)

    found = over(plan.counts[0], row, outer)
    return join(found[0], -2), join(found[1], -1)


class Block(NamedTuple):
    """A block, and what its derivative is computed from."""

    scores: Scores
    top: jax.Array
    total: jax.Array
    i: jax.Array
    j: jax.Array


def _of_block(block: Block, d: Tangents) -> tuple[jax.Array, jax.Array]:
    scores, _, _, i, j = block
    operands, (rows, columns) = scores.operands, scores.plan.blocks
    wide = _numerics.compute_dtype(operands.v.dtype)
    p, mask = weights(block, jnp.ones(()))
    ds = jnp.zeros((), wide)
    if d.q is not None:
        ds += scores.product(d.q, at(operands.k, j, columns, -2))
    if d.k is not None:
        ds += scores.product(at(operands.q, i, rows, -2), d.k)
    if d.bias is not None:
        ds += d.bias.astype(wide)
    w = p * ds
    out = scores.values(mask, w, at(operands.v, j, columns, -2))
    if d.v is not None:
        out += scores.values(mask, p, d.v)
    return out * operands.scale.astype(wide), w.sum(-1)


def weights(block: Block, times: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The weights `P` of a block times a number, and which of them are kept, or None for all."""
    scores, top, total, i, j = block
    rows = scores.plan.blocks[0]
    s, factor = scores.logits(i, j, at(scores.operands.q, i, rows, -2))
    p = jnp.exp(s * factor - at(top, i, rows, -1)[..., None])
    times = times.astype(s.dtype) / at(total, i, rows, -1)
    return _formed_once(p * times[..., None], scores.mask(i, j))


def _formed_once(p: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """`p` and `mask`, on a TPU from one array that is stored: `p` with the sign for the mask.
    There, XLA would otherwise compute the exponential and draw the mask in each product of matrices
    that takes them. On a CPU, to store them changes nothing; on a GPU it has not been tried.
    """
    if _target.platform() != "tpu":
        return p, mask
    if mask is None:
        return lax.optimization_barrier(p), None
    signed = lax.optimization_barrier(jnp.where(mask, p, -p))
    return jnp.abs(signed), ~jnp.signbit(signed)


def _split(x: jax.Array | None, axis: int, count: int) -> jax.Array | None:
    """The `count` blocks of `x`, along a new first axis; None if `x` is None, or if its
    one entry along `axis` is shared by several blocks.
    """
    return None if x is None or (x.shape[axis] == 1 and count != 1) else split(x, axis, count)
