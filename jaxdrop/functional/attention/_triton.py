"""Attention by blocks as GPU kernels: the forward pass of `_blocked`, and the transpose of its
derivative.

Arrays are as in `_blocked`, with all leading axes merged into one: `(heads, length, depth)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxdrop.functional.attention import _flat, _triton_kernels
from jaxdrop.functional.attention._problem import (
    Cotangents,
    Inputs,
    Mask,
    Place,
    Problem,
    Sides,
    Tiles,
)
from jaxdrop.functional.attention._triton_kernels import Tile

# The fastest tiles for each depth of the heads, measured on an H200 in bfloat16 by
# scripts/tune_attention.py.
TILES = {
    64: Tiles(Tile(64, 128, 4, 3), Tile(64, 64, 4, 3), Tile(64, 64, 4, 3)),
    128: Tiles(Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(128, 64, 8, 4)),
}
PADDED = 128
"""Lengths are padded to a multiple of this; it is a multiple of all blocks."""


def forward(
    problem: Problem, mask: Mask | None, inputs: Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention, and for each query its highest score and its sum of exponentials (0 and 1 for
    a query that sees no key).
    """
    q, k, v = inputs.q, inputs.k, inputs.v
    tile = problem.tiles.forward
    last_first = _last_first(q.shape[1] // tile.queries)
    operands, moved = _flat.aligned((mask or (), inputs.place, inputs.sides, q, k, v))
    out = [
        moved(q.shape, v.dtype),
        moved(q.shape[:2], jnp.float32),
        moved(q.shape[:2], jnp.float32),
    ]
    call = pl.pallas_call(
        _partial(_triton_kernels.forward, problem, tile, q.shape[1] // tile.queries),
        grid=(q.shape[1] // tile.queries, q.shape[0]),
        in_specs=[
            *_common(mask, inputs, (tile.queries, None), last_first),
            _block(tile.queries, q, last_first),
            _whole(k, problem.share),
            _whole(v, problem.share),
        ],
        out_specs=[_block(tile.queries, x, last_first) for x in out],
        out_shape=out,
        name="attention_forward",
        **_options(problem, tile),
    )
    out, top, total = call(*operands)
    return out, top, total


def of_queries(problem: Problem, mask: Mask | None, inputs: Inputs, given: Cotangents) -> jax.Array:
    """The cotangent of `q`, float32."""
    q, k, v = inputs.q, inputs.k, inputs.v
    operands, moved = _flat.aligned((mask or (), inputs.place, inputs.sides, q, k, v, *given))
    tile = problem.tiles.of_queries
    last_first = _last_first(q.shape[1] // tile.queries)
    rows = functools.partial(_block, tile.queries, order=last_first)
    call = pl.pallas_call(
        _partial(_triton_kernels.of_queries, problem, tile, q.shape[1] // tile.queries),
        grid=(q.shape[1] // tile.queries, q.shape[0]),
        in_specs=[
            *_common(mask, inputs, (tile.queries, None), last_first),
            rows(q),
            *(_whole(x, problem.share) for x in (k, v)),
            *(rows(x) for x in given),
        ],
        out_specs=rows(q),
        out_shape=moved(q.shape, jnp.float32),
        name="attention_of_queries",
        **_options(problem, tile),
    )
    return call(*operands)


def of_keys(
    problem: Problem, mask: Mask | None, inputs: Inputs, given: Cotangents
) -> tuple[jax.Array, jax.Array]:
    """The cotangents of `k` and `v`, float32, one for each head of `q`: not yet summed over the
    heads that share keys.
    """
    q, k, v = inputs.q, inputs.k, inputs.v
    operands, moved = _flat.aligned((mask or (), inputs.place, inputs.sides, q, k, v, *given))
    tile = problem.tiles.of_keys
    found = [moved((q.shape[0], *x.shape[1:]), jnp.float32) for x in (k, v)]
    call = pl.pallas_call(
        _partial(_triton_kernels.of_keys, problem, tile),
        grid=(k.shape[1] // tile.keys, q.shape[0]),
        in_specs=[
            *_common(mask, inputs, (None, tile.keys), _in_order),
            _whole(q),
            *(_block(tile.keys, x, _in_order, problem.share) for x in (k, v)),
            *(_whole(x) for x in given),
        ],
        out_specs=[_block(tile.keys, x, _in_order) for x in found],
        out_shape=found,
        name="attention_of_keys",
        **_options(problem, tile),
    )
    dk, dv = call(*operands)
    return dk, dv


# -- how arrays reach a kernel

_Order = Callable[[Any], Any]
"""Which block a program computes, by its place in the grid."""


def _in_order(i: Any) -> Any:
    return i


def _last_first(count: int) -> _Order:
    """Block `i` from the end: in causal attention the last blocks take longest, so they start
    first.
    """
    return lambda i: count - 1 - i


def _partial(kernel: Callable[..., None], *settings: Any) -> Callable[..., None]:
    """A kernel that gets None for the references of a mask if there is none."""
    return lambda mask, *refs: kernel(*settings, mask or None, *refs)


def _common(
    mask: Mask | None, inputs: Inputs, block: tuple[int | None, int | None], order: _Order
) -> tuple[Any, Place, Sides]:
    """The mask, the place and the sides. `block` has the number of queries or of keys in a block of
    the program, and None for the axis that the program runs over.
    """
    one: Any = pl.BlockSpec((1,), lambda i, head: (0,))
    own: Any = pl.BlockSpec((None, 1), lambda i, head: (head, 0))
    stretch = pl.BlockSpec((None, None, 4), lambda i, head: (head, order(i), 0))
    drawn: Any = ()
    if mask is not None:
        words: Any = pl.BlockSpec(mask.words.shape, lambda i, head: (0,))
        drawn = Mask(words, one, own, own)
    sides = jax.tree.map(lambda x: _side(x, inputs.lead, block, order), inputs.sides)
    return drawn, Place(own, stretch, one), sides


def _side(
    x: jax.Array, lead: tuple[int, ...], block: tuple[int | None, int | None], order: _Order
) -> pl.BlockSpec:
    """An array of `Sides`: along the axes of length 1 there is nothing to choose."""

    def index(i: Any, head: Any) -> tuple[Any, ...]:
        return *_flat.place(head, lead, x.shape[:-2]), *(
            0 if size is None or own == 1 else order(i) for own, size in last
        )

    last = tuple(zip(x.shape[-2:], block, strict=True))
    shape = (own if size is None or own == 1 else size for own, size in last)
    return pl.BlockSpec((*[None] * len(lead), *shape), index)


def _whole(x: Any, share: int = 1) -> pl.BlockSpec:
    """A block with all queries of a head, or all of the keys or values that it shares."""
    return pl.BlockSpec(
        (None, *x.shape[1:]), lambda i, head: (lax.div(head, np.int32(share)), *(0,) * (x.ndim - 1))
    )


def _block(length: int, x: Any, order: _Order, share: int = 1) -> pl.BlockSpec:
    """A program's block along the second axis."""
    return pl.BlockSpec(
        (None, length, *x.shape[2:]),
        lambda i, head: (lax.div(head, np.int32(share)), order(i), *(0,) * (len(x.shape) - 2)),
    )


def _options(problem: Problem, tile: Tile) -> dict[str, Any]:
    parameters = triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
    return {"compiler_params": parameters, "interpret": problem.interpret}
