"""Attention by blocks as GPU kernels: the forward pass of `_blocked`, and the transpose of its
derivative.

Arrays are as in `_blocked`, with all leading axes merged into one: `(heads, length, depth)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxdrop.functional.attention import _triton_kernels
from jaxdrop.functional.attention._block import anchor
from jaxdrop.functional.attention._triton_kernels import Problem, Tile, Tiles

# The fastest tiles for each depth of the heads, measured on an H200 in bfloat16.
TILES = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(32, 128, 4, 3), Tile(64, 64, 4, 3)),
    128: Tiles(Tile(128, 64, 8, 2), Tile(64, 128, 8, 3), Tile(64, 64, 4, 3)),
}
PADDED = 128
"""Lengths are padded to a multiple of this; it is a multiple of all blocks."""


class Mask(NamedTuple):
    """The numbers from which a mask is drawn."""

    words: jax.Array
    """The words of the key."""
    last: jax.Array
    """The largest drawn word whose weight is kept, shape (1,)."""
    low: jax.Array
    """For each head the position of its first weight, modulo 2**32, shape (heads, 1)."""
    high: jax.Array
    """The position of the first weight divided by 2**32, shape (heads, 1)."""


class Inputs(NamedTuple):
    """The operands, padded to whole blocks."""

    row: jax.Array
    """The position of the first query among the queries of the whole array, shape (1,)."""
    scale: jax.Array
    """The factor of kept weights, shape (1,)."""
    q: jax.Array
    """`(heads, queries, depth)`."""
    k: jax.Array
    """`(heads / share, keys, depth)`."""
    v: jax.Array
    """As `k`."""


def forward(
    problem: Problem, mask: Mask | None, inputs: Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention, and for each query its highest score and its sum of exponentials (0 and 1 for
    a query that sees no key).
    """
    _, _, q, k, v = inputs
    heads, queries, _ = q.shape
    tile = problem.tiles.forward
    count = queries // tile.queries
    operands, moved = _aligned((*(mask or ()), *inputs))
    out = [
        moved(q.shape, v.dtype),
        moved(q.shape[:2], jnp.float32),
        moved(q.shape[:2], jnp.float32),
    ]
    call = pl.pallas_call(
        _with_mask(functools.partial(_triton_kernels.forward, problem, tile, count), mask),
        grid=(count, heads),
        in_specs=[
            *_numbers(mask),
            _last_first(tile.queries, q),
            _whole(k, problem.share),
            _whole(v, problem.share),
        ],
        out_specs=[_last_first(tile.queries, x) for x in out],
        out_shape=out,
        name="attention_forward",
        **_options(problem, tile),
    )
    out, top, total = call(*operands)
    return out, top, total


class Cotangents(NamedTuple):
    """The cotangents of the two results of the derivative, and the numbers of the forward pass that
    their transposes take.
    """

    top: jax.Array
    total: jax.Array
    out: jax.Array
    """The cotangent of `(D W) v + (D P) dv`, before it is scaled: `(heads, queries, depth)`, of the
    dtype of the values.
    """
    spread: jax.Array
    """The cotangent of `sum W`: `(heads, queries)`."""


def of_queries(problem: Problem, mask: Mask | None, inputs: Inputs, given: Cotangents) -> jax.Array:
    """The cotangent of `q`, float32."""
    _, _, q, k, v = inputs
    heads, queries, _ = q.shape
    operands, moved = _aligned((*(mask or ()), *inputs, *given))
    tile = problem.tiles.of_queries
    count = queries // tile.queries
    rows = functools.partial(_last_first, tile.queries)
    call = pl.pallas_call(
        _with_mask(functools.partial(_triton_kernels.of_queries, problem, tile, count), mask),
        grid=(count, heads),
        in_specs=[
            *_numbers(mask),
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
    _, _, q, k, v = inputs
    heads = q.shape[0]
    operands, moved = _aligned((*(mask or ()), *inputs, *given))
    tile = problem.tiles.of_keys
    found = [moved((heads, *x.shape[1:]), jnp.float32) for x in (k, v)]
    call = pl.pallas_call(
        _with_mask(functools.partial(_triton_kernels.of_keys, problem, tile), mask),
        grid=(k.shape[1] // tile.keys, heads),
        in_specs=[
            *_numbers(mask),
            _whole(q),
            *(_in_order(tile.keys, x, problem.share) for x in (k, v)),
            *(_whole(x) for x in given),
        ],
        out_specs=[_in_order(tile.keys, x) for x in found],
        out_shape=found,
        name="attention_of_keys",
        **_options(problem, tile),
    )
    dk, dv = call(*operands)
    return dk, dv


# -- how arrays reach a kernel


def _with_mask(kernel: Callable[..., None], mask: Mask | None) -> Callable[..., None]:
    """A kernel whose references of the mask are gathered into one argument."""
    count = 0 if mask is None else len(mask)
    return lambda *refs: kernel(refs[:count] or None, *refs[count:])


def _numbers(mask: Mask | None) -> list[pl.BlockSpec]:
    """The mask, the first row, and the scale of kept weights."""
    one = pl.BlockSpec((1,), lambda i, head: (0,))
    if mask is None:
        return [one, one]
    own = pl.BlockSpec((None, 1), lambda i, head: (head, 0))
    return [pl.BlockSpec(mask.words.shape, lambda i, head: (0,)), one, own, own, one, one]


def _whole(x: Any, share: int = 1) -> pl.BlockSpec:
    """A block with all queries of a head, or all of the keys or values that it shares."""
    return pl.BlockSpec(
        (None, *x.shape[1:]), lambda i, head: (lax.div(head, share), *(0,) * (x.ndim - 1))
    )


def _in_order(length: int, x: Any, share: int = 1) -> pl.BlockSpec:
    """Block `i` along the second axis."""
    return pl.BlockSpec(
        (None, length, *x.shape[2:]),
        lambda i, head: (lax.div(head, share), i, *(0,) * (len(x.shape) - 2)),
    )


def _last_first(length: int, x: Any) -> pl.BlockSpec:
    """Block `i` from the end: in causal attention the last blocks take longest, so they start
    first.
    """
    count = x.shape[1] // length
    return pl.BlockSpec(
        (None, length, *x.shape[2:]),
        lambda i, head: (head, count - 1 - i, *(0,) * (len(x.shape) - 2)),
    )


def _aligned(
    operands: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], Callable[..., jax.ShapeDtypeStruct]]:
    """Operands that all vary over the mesh axes of a `shard_map` over which any of them varies, and
    the constructor of output types that vary so.
    """
    zero = anchor(operands)
    name = next(
        name for name in ("manual_axis_type", "vma") if hasattr(jax.typeof(zero), name)
    )  # before JAX 0.10 `vma`
    kind = getattr(jax.typeof(zero), name)
    alike = (
        x if getattr(jax.typeof(x), name) == kind else x + zero.astype(x.dtype) for x in operands
    )
    return tuple(alike), functools.partial(jax.ShapeDtypeStruct, **{name: kind})


def _options(problem: Problem, tile: Tile) -> dict[str, Any]:
    parameters = triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
    return {"compiler_params": parameters, "interpret": problem.interpret}
