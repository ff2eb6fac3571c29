"""Attention by blocks as kernels for Hopper GPUs: what `_triton` has, by other instructions.

Arrays are as in `_triton`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional.attention import _flat, _hopper_kernels, _hopper_parts
from jaxdrop.functional.attention._block import Operands, Plan, lead_of
from jaxdrop.functional.attention._hopper_parts import COMPUTE, Blocks, Part, Shared, Tile
from jaxdrop.functional.attention._hopper_scores import plgpu
from jaxdrop.functional.attention._problem import Cotangents, Inputs, Mask, Problem, Tiles

IS_KNOWN = hasattr(plgpu, "InterpretGPUParams")
"""Whether the dialect is one that the kernels are written for: that of JAX 0.11 or later."""


TILES = {
    64: Tiles(Tile(128, 128, 2), Tile(64, 128, 2), Tile(128, 64, 2)),
    128: Tiles(Tile(128, 128, 2), Tile(64, 128, 2), Tile(128, 64, 2)),
}
PADDED = 128
"""Lengths are padded to a multiple of this; it is a multiple of all blocks."""


def is_here() -> bool:
    """Whether the GPU multiplies by warpgroups: one of compute capability 9.0."""
    return getattr(jax.devices()[0], "compute_capability", None) == "9.0"


def takes(plan: Plan, operands: Operands) -> bool:
    """Whether the kernels compute this, which `_gpu.refusal` lets pass: masks by position alone,
    and random bits at positions of one word.
    """
    lead = lead_of(plan, operands)
    return (
        operands.bias is None
        and not operands.allowed
        and operands.segments is None
        and plan.scale > 0
        and (lead is None or math.prod(lead.mask_shape) <= 2**32)
    )


def forward(
    problem: Problem, mask: Mask | None, inputs: Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention, and for each query its highest score and its sum of exponentials (0 and 1 for
    a query that sees no key).
    """
    q, k, v = inputs.q, inputs.k, inputs.v
    number = q.shape[:2], jnp.float32
    out, top, total = _run(
        _hopper_kernels.forward,
        problem,
        problem.tiles.forward,
        mask,
        inputs,
        ((q,), ((k,), (v,))),
        [(q.shape, v.dtype), number, number],
    )
    return out, top, total


def of_queries(problem: Problem, mask: Mask | None, inputs: Inputs, given: Cotangents) -> jax.Array:
    """The cotangent of `q`, float32."""
    q, k, v = inputs.q, inputs.k, inputs.v
    (dq,) = _run(
        _hopper_kernels.of_queries,
        problem,
        problem.tiles.of_queries,
        mask,
        inputs,
        ((q, given.out, given.base, given.spread), ((k,), (v,))),
        [(q.shape, jnp.float32)],
    )
    return dq


def of_keys(
    problem: Problem, mask: Mask | None, inputs: Inputs, given: Cotangents
) -> tuple[jax.Array, jax.Array]:
    """The cotangents of `k` and `v`, float32, one for each head of `q`: not yet summed over the
    heads that share keys.
    """
    q, k, v = inputs.q, inputs.k, inputs.v
    dk, dv = _run(
        _hopper_kernels.of_keys,
        problem,
        problem.tiles.of_keys,
        mask,
        inputs,
        ((k, v), ((q, given.out, given.base, given.spread),)),
        [((q.shape[0], *x.shape[1:]), jnp.float32) for x in (k, v)],
    )
    return dk, dv


def _run(
    kernel: Callable[[Part], tuple[jax.Array, ...]],
    problem: Problem,
    tile: Tile,
    mask: Mask | None,
    inputs: Inputs,
    arrays: tuple[tuple[jax.Array, ...], tuple[tuple[jax.Array, ...], ...]],
    results: list[tuple[tuple[int, ...], Any]],
) -> tuple[jax.Array, ...]:
    """Runs a kernel. Each warpgroup that computes holds a block of the arrays in `arrays[0]`, and
    walks over the blocks of those in `arrays[1]`, which are groups of arrays that are copied
    together.
    """
    of_keys = kernel is _hopper_kernels.of_keys
    ours, theirs = (tile.keys, tile.queries) if of_keys else (tile.queries, tile.keys)
    (mask, place, (own, walked)), moved = _flat.aligned((mask, inputs.place, arrays))
    found = [moved(shape, dtype) for shape, dtype in results]
    length = ours // COMPUTE
    shared = Shared(
        Blocks(
            tuple(_blocks(COMPUTE, length, x.shape[2:], x.dtype) for x in own),
            plgpu.Barrier(num_arrivals=len(own), num_barriers=COMPUTE),
            None,
        ),
        tuple(
            Blocks(
                tuple(_blocks(tile.stages, theirs, x.shape[2:], x.dtype) for x in together),
                plgpu.Barrier(num_arrivals=len(together), num_barriers=tile.stages),
                plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=tile.stages),
            )
            for together in walked
        ),
        tuple(_blocks(COMPUTE, length, *kind) for kind in _hopper_parts.kinds(found)),
        plgpu.Barrier(num_arrivals=COMPUTE),
    )
    call = plgpu.kernel(
        functools.partial(_hopper_parts.program, kernel, problem, tile, of_keys),
        out_type=found,
        scratch_types=(shared,),
        grid=(results[0][0][0], own[0].shape[1] // ours),
        grid_names=("heads", "programs"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroups",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if problem.interpret else None,
        kernel_name=f"attention_{kernel.__name__}",
    )
    return tuple(call(mask, place, own, walked))


def _blocks(count: int, length: int, depth: tuple[int, ...], dtype: Any) -> Any:
    """Blocks in shared memory; those of matrices are laid out as the tensor cores read them."""
    if not depth:
        return plgpu.SMEM((count, length), dtype)
    line = 128 // jnp.dtype(dtype).itemsize
    transforms = plgpu.TilingTransform((8, line)), plgpu.SwizzleTransform(128)
    return plgpu.SMEM((count, length, *depth), dtype, transforms=transforms)
