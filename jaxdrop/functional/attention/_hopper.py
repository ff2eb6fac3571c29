"""Attention by blocks as kernels for Hopper GPUs: `_triton.forward`, by other instructions."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional.attention import _flat, _hopper_kernels
from jaxdrop.functional.attention._block import Operands, Plan, lead_of
from jaxdrop.functional.attention._hopper_kernels import (
    COMPUTE,
    Barriers,
    Shared,
    Tile,
    Tiles,
    plgpu,
)
from jaxdrop.functional.attention._problem import Inputs, Mask, Problem

if not hasattr(plgpu, "InterpretGPUParams"):
    raise ImportError("the kernels are written for the dialect from JAX 0.11 on")

TILES = {64: Tiles(Tile(128, 128, 2)), 128: Tiles(Tile(128, 128, 2))}
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
        and (lead is None or math.prod(lead.mask_shape) <= 2**32)
    )


def forward(
    problem: Problem, mask: Mask | None, inputs: Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention, and for each query its highest score and its sum of exponentials (0 and 1 for
    a query that sees no key).
    """
    q, k, v = inputs.q, inputs.k, inputs.v
    tile: Tile = problem.tiles.forward
    length = tile.queries // COMPUTE
    (mask, place, q, k, v), moved = _flat.aligned((mask, inputs.place, q, k, v))
    blocks = functools.partial(_blocks, dtype=q.dtype)
    depth = q.shape[-1]
    rows = plgpu.SMEM((COMPUTE, length), jnp.float32)
    shared = Shared(
        blocks(COMPUTE, length, depth),
        blocks(tile.stages, tile.keys, depth),
        blocks(tile.stages, tile.keys, depth),
        rows,
        rows,
    )
    filled = plgpu.Barrier(num_barriers=tile.stages)
    read = plgpu.Barrier(num_arrivals=COMPUTE, num_barriers=tile.stages)
    barriers = Barriers(
        plgpu.Barrier(num_barriers=COMPUTE),
        filled,
        filled,
        read,
        read,
        plgpu.Barrier(num_arrivals=COMPUTE),
    )
    call = plgpu.kernel(
        functools.partial(_hopper_kernels.forward, problem, tile),
        out_type=(
            moved(q.shape, v.dtype),
            moved(q.shape[:2], jnp.float32),
            moved(q.shape[:2], jnp.float32),
        ),
        scratch_types=(shared, barriers),
        grid=(q.shape[0], q.shape[1] // tile.queries),
        grid_names=("heads", "programs"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroups",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams() if problem.interpret else None,
        kernel_name="attention_forward",
    )
    out, top, total = call(mask, place, q, k, v)
    return out, top, total


def _blocks(count: int, length: int, depth: int, dtype: jnp.dtype) -> Any:
    """Blocks in shared memory, laid out as the tensor cores read them."""
    return plgpu.SMEM(
        (count, length, depth),
        dtype,
        transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)),
    )
