"""Operands of attention as kernels take them: padded to whole blocks, with all leading axes merged
into one, `(heads, length, depth)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _lengths, _mapped_axes, masks
from jaxdrop.functional.attention import _sight
from jaxdrop.functional.attention._block import Operands, Plan, Scores
from jaxdrop.functional.attention._problem import LOG2_E, Inputs, Mask, Place, Problem, Sides
from jaxdrop.functional.attention._splitting import anchor
from jaxdrop.random import _drawing
from jaxdrop.random._positions import linear


def described(
    plan: Plan,
    operands: Operands,
    block: tuple[int, int],
    *,
    of_keys: bool,
    lengths: tuple[int, int],
    depth: int | None,
    tiles: Any,
    interpret: Any,
) -> tuple[Problem, Mask | None, Inputs]:
    """The static description of the problem, the arrays from which its mask is drawn, and the
    operands.

    Args:
      plan: the static part of the call.
      operands: the operands.
      block: the numbers of queries and of keys in a block.
      of_keys: whether a program of the kernel computes a block of keys, and not of queries.
      lengths: the numbers of queries and of keys, padded to whole blocks.
      depth: of the padded heads; None to leave them as they are.
      tiles: kept in the description.
      interpret: kept in the description.
    """
    scores = Scores.of(plan, operands)
    problem = Problem(
        lengths=plan.lengths,
        share=share(operands),
        scale=plan.scale,
        before=plan.before,
        after=plan.after,
        mask_size=0 if scores.lead is None else math.prod(scores.lead.mask_shape),
        draw=None if operands.key is None else _drawing.words_and_draw(operands.key)[1],
        precision=plan.precision,
        tiles=tiles,
        interpret=interpret,
    )
    whole = _whole(operands, lengths, depth)
    row = scores.row if _is_moved(plan, operands) else np.int32(0)
    seen = _sight.stretches(plan, whole, row, block, of_keys=of_keys)
    lead = operands.q.shape[:-2]
    seen = jnp.broadcast_to(jnp.asarray(seen), (*lead, *seen.shape[-2:]))
    place = Place(
        _by_head(scores.row, lead).astype(jnp.int32),
        merged(seen, 2),
        jnp.reshape(operands.scale, 1),
    )
    sides = Sides(
        () if whole.bias is None else (whole.bias,),
        tuple(mask.astype(jnp.int8) for mask in whole.allowed),
        whole.segments or (),
    )
    arrays = (merged(x, 2) for x in (whole.q, whole.k, whole.v))
    return problem, _mask(scores), Inputs(place, sides, lead, *arrays)


def _mask(scores: Scores) -> Mask | None:
    operands, lead = scores.operands, scores.lead
    if operands.key is None or lead is None:
        return None
    q = operands.q
    zero = jnp.zeros((1,) * q.ndim, jnp.uint32)
    low_and_high = linear((*lead.coordinates, zero, zero), lead.mask_shape)
    low, high = (
        _by_head(jnp.zeros((), jnp.uint32) if x is None else x, q.shape[:-2])
        for x in (low_and_high.low, low_and_high.high)
    )
    words, _ = _drawing.words_and_draw(operands.key)
    return Mask(words, jnp.reshape(masks.last_kept(operands.threshold), 1), low, high)


def _whole(operands: Operands, lengths: tuple[int, int], depth: int | None) -> Operands:
    def side(x: jax.Array) -> jax.Array:
        queries, keys = (
            1 if own == 1 else length for own, length in zip(x.shape[-2:], lengths, strict=True)
        )
        return padded(padded(x, -2, queries), -1, keys)

    def deep(x: jax.Array, length: int) -> jax.Array:
        return padded(padded(x, -2, length), -1, x.shape[-1] if depth is None else depth)

    segments = operands.segments
    return operands._replace(
        q=deep(operands.q, lengths[0]),
        k=deep(operands.k, lengths[1]),
        v=deep(operands.v, lengths[1]),
        bias=None if operands.bias is None else side(operands.bias),
        allowed=tuple(map(side, operands.allowed)),
        segments=None if segments is None else (side(segments[0]), side(segments[1])),
    )


def _is_moved(plan: Plan, operands: Operands) -> bool:
    """Whether the position of the first query is known only when the program runs."""
    divided, _ = _mapped_axes.names_and_size(plan.spec, [operands.q.ndim - 2])
    return bool(divided) or operands.offset is not None


def _by_head(x: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """A number, or an array with the axes of the weights, as `(heads, 1)`."""
    return jnp.broadcast_to(x, (*lead, 1, 1)).reshape(-1, 1)


def share(operands: Operands) -> int:
    """The number of heads that share keys and values."""
    return math.prod(operands.q.shape[:-2]) // math.prod(operands.k.shape[:-2])


def rounded_up(length: int, of: int) -> int:
    """The least multiple of `of` that is not below `length`."""
    return -(-length // of) * of


def log2_total(top: jax.Array, total: jax.Array) -> jax.Array:
    """The binary logarithm of a row's sum of exponentials, from its largest score, `top`, and the
    sum of `exp(score - top)`.
    """
    return top * LOG2_E + jnp.log2(total)


def refusal(plan: Plan, operands: Operands) -> str | None:
    """Why no kernel computes this, on whatever device; None if one may."""
    q = operands.q
    if not all(_lengths.is_known(length) for length in (*q.shape, *plan.lengths)):
        return "the shapes are symbolic"
    if any(axis >= q.ndim - 2 for axis in plan.shared):
        return "masks shared along queries or keys are for implementation='xla'"
    return None


def merged(x: jax.Array, last: int) -> jax.Array:
    """All axes but the last ones as one."""
    return x.reshape(-1, *x.shape[x.ndim - last :])


def padded(x: jax.Array, axis: int, length: int) -> jax.Array:
    """`x` with zeros at the end of an axis, up to `length`."""
    missing = length - x.shape[axis]
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if at == axis % x.ndim else 0) for at in range(x.ndim)])


def place(head: Any, lead: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Where a head's part is in an array whose leading axes are those of the heads, `lead`, or have
    length 1.
    """
    found: list[Any] = []
    inner = 1
    for length, own in zip(reversed(lead), reversed(shape), strict=True):
        found.insert(
            0, 0 if own == 1 else lax.rem(lax.div(head, np.int32(inner)), np.int32(length))
        )
        inner *= length
    return tuple(found)


def aligned(operands: Any) -> tuple[Any, Callable[..., jax.ShapeDtypeStruct]]:
    """Operands that all vary over the mesh axes of a `shard_map` over which any of them varies, and
    the constructor of output types that vary so.
    """
    zero = anchor(operands)
    kind = jax.typeof(zero).manual_axis_type

    def alike(x: jax.Array) -> jax.Array:
        return x if jax.typeof(x).manual_axis_type == kind else x + zero.astype(x.dtype)

    return jax.tree.map(alike, operands), functools.partial(
        jax.ShapeDtypeStruct, manual_axis_type=kind
    )
