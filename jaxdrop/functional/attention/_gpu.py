"""Attention on a GPU: when the kernels of `_triton` and `_hopper` take the place of the blocks of
`_blocked`, and how the arrays are laid out for them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from jaxdrop.functional.attention import _flat
from jaxdrop.functional.attention._block import Operands, Plan
from jaxdrop.functional.attention._problem import Cotangents, Tiles

PLATFORM = "cuda"
INTERPRET = False
"""Whether the kernels run in Pallas' interpreter, which computes anywhere: for tests."""
HOPPER = False
"""Whether the kernels of `_hopper` compute what they can, and those of `_triton` only the rest: for
`scripts/check_accelerator.py`. No GPU has run them.
"""
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


@functools.cache
def _loaded_for_hopper() -> Any:
    """The module `_hopper`, or None: Pallas' Mosaic GPU dialect changes from JAX to JAX, and one
    that the kernels do not know computes by those of `_triton`.
    """
    try:
        from jaxdrop.functional.attention import _hopper
    except ImportError:
        return None
    return _hopper if _hopper.IS_KNOWN else None


def _chosen(plan: Plan, operands: Operands) -> Any:
    """The module whose kernels compute this."""
    hopper = _loaded_for_hopper() if HOPPER else None
    takes = hopper and (INTERPRET or hopper.is_here()) and hopper.takes(plan, operands)
    return hopper if takes else _loaded()


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
    return _flat.refusal(plan, operands)


def pays(plan: Plan, operands: Operands) -> bool:
    """Whether the kernels are faster here, as far as `scripts/check_accelerator.py` has measured
    it, which compares each option with dense attention, too.

    Never with several devices: the compiler may have to divide the operands, and it cannot divide a
    kernel.
    """
    return (
        jax.device_count() == 1 and min(plan.lengths) >= _SHORT and refusal(plan, operands) is None
    )


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `_blocked._attend`."""
    q, v = operands.q, operands.v
    kernels = _chosen(plan, operands)
    found = kernels.forward(*_settled(kernels, plan, operands, "forward"))
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
    """The cotangents of `q`, `k` and `v` from those of the results of `_derivative.derivative`."""
    kernels = _chosen(plan, operands)
    settled = functools.partial(_settled, kernels, plan, operands)
    queries, depth = _whole(kernels, operands.q), _depth(kernels, operands.q)
    share = _flat.share(operands)
    given = Cotangents(
        _flat.padded(_flat.merged(_flat.log2_total(top, total), 1), 1, queries),
        _flat.padded(_flat.padded(_flat.merged(moved, 2), 1, queries), 2, depth).astype(
            operands.v.dtype
        ),
        _flat.padded(_flat.merged(spread, 1), 1, queries),
    )
    dq = kernels.of_queries(*settled("of_queries"), given)
    dk, dv = kernels.of_keys(*settled("of_keys"), given)

    def like(found: jax.Array, x: jax.Array, share: int = 1) -> jax.Array:
        found = found.reshape(-1, share, *found.shape[1:]).sum(1)[:, : x.shape[-2], : x.shape[-1]]
        return found.reshape(x.shape).astype(x.dtype)

    return like(dq, operands.q), like(dk, operands.k, share), like(dv, operands.v, share)


def _settled(kernels: Any, plan: Plan, operands: Operands, kernel: str) -> tuple[Any, Any, Any]:
    """The static description of the problem, the arrays from which its mask is drawn, and the
    operands, padded, with all leading axes merged.
    """
    q, k = operands.q, operands.k
    depth = _depth(kernels, q)
    tiles = kernels.TILES[depth]
    arrays = [*operands.allowed, *([] if operands.bias is None else [operands.bias])]
    if any(1 not in x.shape[-2:] for x in arrays):
        # A block of such an array takes room in the shared memory for each stage.
        tiles = Tiles(*(tile._replace(stages=2) for tile in tiles))
    tile = getattr(tiles, kernel)
    return _flat.described(
        plan,
        operands,
        (tile.queries, tile.keys),
        of_keys=kernel == "of_keys",
        lengths=(_whole(kernels, q), _whole(kernels, k)),
        depth=depth,
        tiles=tiles,
        interpret=INTERPRET,
    )


def _whole(kernels: Any, x: jax.Array) -> int:
    return _flat.rounded_up(x.shape[-2], kernels.PADDED)


def _depth(kernels: Any, q: jax.Array) -> int:
    return min(depth for depth in kernels.TILES if depth >= q.shape[-1])
