"""Attention on a GPU: when the kernels of `_triton` take the place of the blocks of `_blocked`, and
how the arrays are laid out for them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxdrop import masks
from jaxdrop.functional.attention._block import Operands, Plan, Scores
from jaxdrop.random import _drawing
from jaxdrop.random._positions import linear

if TYPE_CHECKING:
    from jaxdrop.functional.attention import _triton

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
    if operands.bias is not None or operands.allowed or operands.segments is not None:
        return "a bias, a mask, lengths and segments are for implementation='xla'"
    if operands.offset is not None and operands.offset.size != 1:
        return "a query_offset for each example is for implementation='xla'"
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

    Never with several devices: the compiler may have to divide the operands, and it cannot divide a
    kernel.
    """
    return (
        jax.device_count() == 1 and min(plan.lengths) >= _SHORT and refusal(plan, operands) is None
    )


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `_blocked._attend`."""
    q, v = operands.q, operands.v
    found = _loaded().forward(*_settled(plan, operands), _flat(plan, operands))
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
    triton, settled, inputs = _loaded(), _settled(plan, operands), _flat(plan, operands)
    (_, queries, depth), share = inputs.q.shape, inputs.q.shape[0] // inputs.k.shape[0]
    given = triton.Cotangents(
        _padded(_merged(top, 1), 1, queries),
        _padded(_merged(total, 1), 1, queries, 1),
        _padded(_padded(_merged(moved, 2), 1, queries), 2, depth).astype(operands.v.dtype),
        _padded(_merged(spread, 1), 1, queries),
    )
    dq, (dk, dv) = (
        triton.of_queries(*settled, inputs, given),
        triton.of_keys(*settled, inputs, given),
    )

    def like(found: jax.Array, x: jax.Array, share: int = 1) -> jax.Array:
        found = found.reshape(-1, share, *found.shape[1:]).sum(1)[:, : x.shape[-2], : x.shape[-1]]
        return found.reshape(x.shape).astype(x.dtype)

    return like(dq, operands.q), like(dk, operands.k, share), like(dv, operands.v, share)


def _settled(plan: Plan, operands: Operands) -> tuple[Any, Any]:
    """The static description of the problem, and the arrays from which its mask is drawn."""
    triton, q, mask, mask_size = _loaded(), operands.q, None, 0
    draw: Any = None
    if operands.key is not None:
        scores = Scores(plan, operands)
        words, draw = _drawing.words_and_draw(operands.key)
        mask_size = math.prod(scores.mask_shape)
        zero = jnp.zeros((1,) * (q.ndim), jnp.uint32)
        start = linear((*scores.lead, zero, zero), scores.mask_shape)
        first = [
            jnp.broadcast_to(
                jnp.zeros((), jnp.uint32) if x is None else x, (*q.shape[:-2], 1, 1)
            ).reshape(-1, 1)
            for x in (start.low, start.high)
        ]
        mask = triton.Mask(words, jnp.reshape(masks.last_kept(operands.threshold), 1), *first)
    problem = triton.Problem(
        lengths=plan.lengths,
        share=math.prod(q.shape[:-2]) // math.prod(operands.k.shape[:-2]),
        scale=plan.scale,
        before=plan.before,
        after=plan.after,
        mask_size=mask_size,
        draw=draw,
        tiles=triton.TILES[_depth(q)],
        interpret=INTERPRET,
    )
    return problem, mask


def _flat(plan: Plan, operands: Operands) -> _triton.Inputs:
    """The position of the first query, the scale of kept weights, and `q`, `k` and `v`, padded,
    with all leading axes merged.
    """
    triton = _loaded()
    row = jnp.reshape(Scores(plan, operands).row, 1).astype(jnp.int32)
    scale = jnp.reshape(jnp.asarray(operands.scale, jnp.float32), 1)
    depth = _depth(operands.q)
    arrays = (_merged(x, 2) for x in (operands.q, operands.k, operands.v))
    padded = (
        _padded(_padded(x, 1, -(-x.shape[1] // triton.PADDED) * triton.PADDED), 2, depth)
        for x in arrays
    )
    return triton.Inputs(row, scale, *padded)


def _depth(q: jax.Array) -> int:
    return min(depth for depth in _loaded().TILES if depth >= q.shape[-1])


def _merged(x: jax.Array, last: int) -> jax.Array:
    """All axes but the last ones as one."""
    return x.reshape(-1, *x.shape[x.ndim - last :])


def _padded(x: jax.Array, axis: int, length: int, value: int = 0) -> jax.Array:
    missing = length - x.shape[axis]
    return (
        jnp.pad(
            x, [(0, missing if at == axis else 0) for at in range(x.ndim)], constant_values=value
        )
        if missing
        else x
    )
