"""The choice of how attention is computed: on each device its part, by cuDNN, kernels or blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop._in_full import in_full
from jaxdrop._kernel import kernel
from jaxdrop.functional.attention import _block_sizes, _blocked, _whole
from jaxdrop.functional.attention._block import Operands, Plan
from jaxdrop.functional.attention._layout import Arrays, by_device

Implementation = Literal["xla", "pallas"]


class Settings(NamedTuple):
    """The static arguments of `compute`."""

    block_sizes: tuple[int, int] | None
    implementation: Implementation | None
    scale: float
    before: int | None
    after: int | None
    shared: tuple[int, ...]
    precision: Any
    spec: PartitionSpec | None


def as_masks(*inside: jax.Array | None) -> list[jax.Array]:
    """Which queries, and which keys, are no padding, as masks of the weights; those that there
    are.
    """
    return [
        jnp.expand_dims(x, axes)
        for x, axes in zip(inside, ((-3, -1), (-3, -2)), strict=True)
        if x is not None
    ]


def only(inside: jax.Array | None, x: jax.Array) -> jax.Array:
    """`x`, of shape `(batch..., length, heads, depth)`, with zeros where it is padding.

    Padding may hold anything, and in a product 0 times NaN is NaN: in the output for a value, in
    gradients for all.
    """
    return (
        x
        if inside is None
        else jnp.where(jnp.expand_dims(inside, (-2, -1)), x, jnp.zeros((), x.dtype))
    )


@kernel("dot_product_attention", checkpoint=False)
def compute(arrays: Arrays, *, settings: Settings) -> jax.Array:
    return by_device(
        functools.partial(_by_blocks, settings), arrays, settings.spec, lambda layout: layout.like_q
    )


def _by_blocks(settings: Settings, arrays: Arrays, spec: PartitionSpec | None) -> jax.Array:
    special = (
        arrays.key,
        arrays.bias,
        *arrays.inside,
        arrays.segments,
        arrays.offset,
        settings.before,
        settings.implementation,
    )
    plain = all(x is None for x in special) and not arrays.allowed
    blocked = functools.partial(_blocked_attention, settings, arrays, spec)
    if plain and settings.after in (None, 0) and arrays.q.ndim == 4 and not in_full.value:
        return _fused(
            blocked,
            arrays.q,
            arrays.k,
            arrays.v,
            scale=settings.scale,
            is_causal=settings.after == 0,
        )
    of_queries, of_keys = arrays.inside
    return blocked(only(of_queries, arrays.q), only(of_keys, arrays.k), only(of_keys, arrays.v))


def _fused(
    blocked: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    is_causal: bool,
) -> jax.Array:
    """Attention without dropout by cuDNN, where JAX has it for these operands, and otherwise
    `blocked`.
    """
    if jax.default_backend() != "gpu" or q.dtype.itemsize != 2:
        return blocked(q, k, v)
    cudnn = functools.partial(
        jax.nn.dot_product_attention, scale=scale, is_causal=is_causal, implementation="cudnn"
    )
    try:
        jax.eval_shape(cudnn, q, k, v)
    except (
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # a depth, a dtype or a version that it does not have
        return blocked(q, k, v)
    return jax.lax.platform_dependent(q, k, v, cuda=cudnn, default=blocked)


def _blocked_attention(
    settings: Settings,
    arrays: Arrays,
    spec: PartitionSpec | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """Heads stand in groups, in front of the length: `(batch..., groups, heads of a group, length,
    depth)`.
    """
    *batch, queries, heads, depth = q.shape
    groups, head = k.shape[-2], len(batch)
    lengths = queries, k.shape[-3]
    lead = *batch, groups
    parts = _block_sizes.parts(lengths, lead, heads // groups)
    together = [length // of for length, of in zip(lead, parts, strict=True)]
    blocks = _block_sizes.block_sizes(settings.block_sizes, lengths, together, heads // groups)

    def grouped(x: jax.Array) -> jax.Array:
        lead = (1, 1) if x.shape[head] == 1 else (groups, heads // groups)
        return x.reshape(*x.shape[:head], *lead, *x.shape[head + 1 :])

    shared = {axis + (axis > head) for axis in settings.shared} | {
        head + 1 for axis in settings.shared if axis == head
    }
    entries = [*(spec or ()), *[None] * q.ndim]
    plan = Plan(
        lengths=lengths,
        blocks=blocks,
        scale=settings.scale,
        before=settings.before,
        after=settings.after,
        shared=tuple(sorted(shared)),
        spec=(
            None
            if spec is None
            else PartitionSpec(*entries[:head], entries[head + 1], None, entries[head], None)
        ),
        precision=settings.precision,
        kernels={None: None, "xla": False, "pallas": True}[settings.implementation],
        parts=parts,
    )
    segments, offset = arrays.segments, arrays.offset
    allowed = [*arrays.allowed, *as_masks(*arrays.inside)]
    if segments is not None:
        segments = (
            jnp.expand_dims(segments[0], (head, head + 1, -1)),
            jnp.expand_dims(segments[1], (head, head + 1, -2)),
        )
    if offset is not None and offset.ndim:
        offset = jnp.expand_dims(offset, range(-4, 0))
    out = (_whole if in_full.value else _blocked).attend(
        plan,
        Operands(
            key=arrays.key,
            threshold=arrays.threshold,
            scale=arrays.scale,
            q=jnp.moveaxis(q.reshape(*batch, queries, groups, heads // groups, depth), -4, -2),
            k=jnp.moveaxis(k, -3, -2),
            v=jnp.moveaxis(v, -3, -2),
            bias=None if arrays.bias is None else grouped(arrays.bias),
            allowed=tuple(map(grouped, allowed)),
            segments=segments,
            offset=offset,
        ),
    )
    out = jnp.moveaxis(out, -2, -4)
    return out.reshape(*out.shape[:-3], heads, out.shape[-1])
