"""Attention on a GPU: when the kernels of `_triton` take the place of the blocks of `_blocked`, and
how the arrays are laid out for them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _mapped_axes, masks
from jaxdrop.functional.attention import _sight
from jaxdrop.functional.attention._block import Operands, Plan, Scores
from jaxdrop.random import _drawing
from jaxdrop.random._positions import linear

if TYPE_CHECKING:
    from jaxdrop.functional.attention import _triton

BY_DEFAULT = {
    "plain": True,
    "bias": False,
    "mask": False,
    "lengths": False,
    "segment_ids": False,
    "query_offset of each example": False,
}
"""Which calls the kernels compute by default: those that `scripts/check_accelerator.py` has shown
to be exact on a GPU. The others ask for them, by `implementation='pallas'`.
"""
INTERPRET = False
"""Whether the kernels run in Pallas' interpreter, which computes anywhere: for tests."""
_SHORT = 256
"""With fewer queries or keys than this the kernels gain little."""


@functools.cache
def _loaded() -> Any:
    """The module `_triton`, or None: Pallas' Triton dialect is deprecated, and a JAX without it
    computes by XLA's blocks.

    Loaded on first use: the dialect adds tens of milliseconds to an import, and only GPUs need it.
    """
    try:
        from jaxdrop.functional.attention import _triton
    except ImportError:
        return None
    return _triton


def refusal(plan: Plan, operands: Operands) -> str | None:
    """Why the kernels cannot compute this; None if they can."""
    q, v = operands.q, operands.v
    if not INTERPRET and jax.default_backend() != "gpu":
        return f"the backend is {jax.default_backend()}, not a GPU"
    triton = _loaded()
    if triton is None:
        return "this JAX has no Triton dialect of Pallas"
    if q.dtype.itemsize != 2 or v.dtype != q.dtype:
        return f"q is {q.dtype}, and they take bfloat16 and float16"
    if plan.precision is not None:
        return "they take no precision"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] > max(triton.TILES):
        return (
            f"they take keys and values of one depth up to {max(triton.TILES)}, not of"
            f" {q.shape[-1]} and {v.shape[-1]}"
        )
    if not all(isinstance(length, int) for length in (*q.shape, *plan.lengths)):
        return "the shapes are symbolic"
    if any(axis >= q.ndim - 2 for axis in plan.shared):
        return "masks shared along queries or keys are for implementation='xla'"
    return None


def are_chosen(plan: Plan, operands: Operands) -> bool:
    """Whether the kernels compute this call: if the plan asks for them, or leaves the choice open
    and they are faster.
    """
    if plan.kernels is None:
        return pays(plan, operands)
    if plan.kernels and (reason := refusal(plan, operands)):
        raise ValueError(
            f"implementation='pallas' does not take this: {reason}. Leave it out, or give"
            " implementation='xla'."
        )
    return plan.kernels


def pays(plan: Plan, operands: Operands) -> bool:
    """Whether the kernels are faster here, as far as it has been measured.

    Never with an option that no GPU has run. Never with several devices: the compiler may have to
    divide the operands, and it cannot divide a kernel.
    """
    return (
        jax.device_count() == 1
        and min(plan.lengths) >= _SHORT
        and all(BY_DEFAULT[option] for option in _options(operands))
        and refusal(plan, operands) is None
    )


def _options(operands: Operands) -> set[str]:
    """What of `BY_DEFAULT` a call has."""
    options = {"plain"}
    if operands.bias is not None:
        options.add("bias")
    for mask in operands.allowed:
        options.add("lengths" if 1 in mask.shape[-2:] else "mask")
    if operands.segments is not None:
        options.add("segment_ids")
    if operands.offset is not None and operands.offset.size != 1:
        options.add("query_offset of each example")
    return options


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `_blocked._attend`."""
    q, v = operands.q, operands.v
    found = _loaded().forward(*_settled(plan, operands, "forward"))
    out, top, total = (x.reshape(*q.shape[:-2], *x.shape[1:]) for x in found)
    queries = q.shape[-2]
    return out[..., :queries, : v.shape[-1]], top[..., :queries], total[..., :queries]


def transposed(
    plan: Plan,
    operands: Operands,
    top: jax.Array,
    total: jax.Array,
    moved: jax.Array,
    spread: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of `q`, `k` and `v` from those of the results of `_blocked._derivative`."""
    triton, settled = _loaded(), functools.partial(_settled, plan, operands)
    queries, depth = -(-operands.q.shape[-2] // triton.PADDED) * triton.PADDED, _depth(operands.q)
    share = math.prod(operands.q.shape[:-2]) // math.prod(operands.k.shape[:-2])
    given = triton.Cotangents(
        _padded(_merged(top * math.log2(math.e) + jnp.log2(total), 1), 1, queries),
        _padded(_padded(_merged(moved, 2), 1, queries), 2, depth).astype(operands.v.dtype),
        _padded(_merged(spread, 1), 1, queries),
    )
    dq = triton.of_queries(*settled("of_queries"), given)
    dk, dv = triton.of_keys(*settled("of_keys"), given)

    def like(found: jax.Array, x: jax.Array, share: int = 1) -> jax.Array:
        found = found.reshape(-1, share, *found.shape[1:]).sum(1)[:, : x.shape[-2], : x.shape[-1]]
        return found.reshape(x.shape).astype(x.dtype)

    return like(dq, operands.q), like(dk, operands.k, share), like(dv, operands.v, share)


def _settled(plan: Plan, operands: Operands, kernel: str) -> tuple[Any, Any, Any]:
    """The static description of the problem, the arrays from which its mask is drawn, and the
    operands, padded, with all leading axes merged.
    """
    triton, q = _loaded(), operands.q
    scores = Scores(plan, operands)
    problem = triton.Problem(
        lengths=plan.lengths,
        share=math.prod(q.shape[:-2]) // math.prod(operands.k.shape[:-2]),
        scale=plan.scale,
        before=plan.before,
        after=plan.after,
        mask_size=0 if operands.key is None else math.prod(scores.mask_shape),
        draw=None if operands.key is None else _drawing.words_and_draw(operands.key)[1],
        tiles=triton.TILES[_depth(q)],
        interpret=INTERPRET,
    )
    return problem, _mask(scores), _inputs(scores, getattr(problem.tiles, kernel), kernel)


def _mask(scores: Scores) -> Any:
    triton, operands = _loaded(), scores.operands
    if operands.key is None:
        return None
    q = operands.q
    zero = jnp.zeros((1,) * q.ndim, jnp.uint32)
    start = linear((*scores.lead, zero, zero), scores.mask_shape)
    first = [
        _by_head(jnp.zeros((), jnp.uint32) if x is None else x, q) for x in (start.low, start.high)
    ]
    words, _ = _drawing.words_and_draw(operands.key)
    return triton.Mask(words, jnp.reshape(masks.last_kept(operands.threshold), 1), *first)


def _inputs(scores: Scores, tile: Any, kernel: str) -> _triton.Inputs:
    triton, plan, operands = _loaded(), scores.plan, scores.operands
    q, k, v = operands.q, operands.k, operands.v
    queries, keys = (-(-x.shape[-2] // triton.PADDED) * triton.PADDED for x in (q, k))
    depth = _depth(q)
    padded = operands._replace(
        q=_padded(_padded(q, -2, queries), -1, depth),
        k=_padded(_padded(k, -2, keys), -1, depth),
        v=_padded(_padded(v, -2, keys), -1, depth),
        bias=None if operands.bias is None else _sides(operands.bias, queries, keys),
        allowed=tuple(_sides(mask, queries, keys) for mask in operands.allowed),
        segments=(
            None
            if operands.segments is None
            else (
                _sides(operands.segments[0], queries, keys),
                _sides(operands.segments[1], queries, keys),
            )
        ),
    )
    row = scores.row if _is_moved(plan, operands) else np.int32(0)
    seen = _sight.stretches(
        plan, padded, row, (tile.queries, tile.keys), of_keys=kernel == "of_keys"
    )
    lead = q.shape[:-2]
    seen = jnp.broadcast_to(jnp.asarray(seen), (*lead, *seen.shape[-2:]))
    place = triton.Place(
        _by_head(scores.row, q).astype(jnp.int32),
        seen.reshape(-1, *seen.shape[-2:]),
        jnp.reshape(jnp.asarray(operands.scale, jnp.float32), 1),
    )
    sides = triton.Sides(
        () if padded.bias is None else (padded.bias,),
        tuple(mask.astype(jnp.int8) for mask in padded.allowed),
        padded.segments or (),
    )
    arrays = (_merged(x, 2) for x in (padded.q, padded.k, padded.v))
    return triton.Inputs(place, sides, lead, *arrays)


def _is_moved(plan: Plan, operands: Operands) -> bool:
    """Whether the position of the first query is known only when the program runs."""
    divided, _ = _mapped_axes.names_and_size(plan.spec, [operands.q.ndim - 2])
    return bool(divided) or operands.offset is not None


def _by_head(x: jax.Array, q: jax.Array) -> jax.Array:
    """A number, or an array with the axes of the weights, as `(heads, 1)`."""
    return jnp.broadcast_to(x, (*q.shape[:-2], 1, 1)).reshape(-1, 1)


def _sides(x: jax.Array, queries: int, keys: int) -> jax.Array:
    """An array with the axes of the weights, padded with zeros where an axis has not length 1."""
    queries, keys = (
        1 if own == 1 else length for own, length in zip(x.shape[-2:], (queries, keys), strict=True)
    )
    return _padded(_padded(x, -2, queries), -1, keys)


def _depth(q: jax.Array) -> int:
    return min(depth for depth in _loaded().TILES if depth >= q.shape[-1])


def _merged(x: jax.Array, last: int) -> jax.Array:
    """All axes but the last ones as one."""
    return x.reshape(-1, *x.shape[x.ndim - last :])


def _padded(x: jax.Array, axis: int, length: int) -> jax.Array:
    """`x` with zeros at the end of an axis, up to `length`."""
    missing = length - x.shape[axis]
    return (
        jnp.pad(
            x,
            [(0, missing if at == axis % x.ndim else 0) for at in range(x.ndim)],
        )
        if missing
        else x
    )
