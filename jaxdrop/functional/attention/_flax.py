"""Attention with the arguments of Flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes, masks
from jaxdrop.functional.attention import _block_sizes, _weights
from jaxdrop.functional.attention._compute import as_masks, only
from jaxdrop.functional.attention._function import dot_product_attention
from jaxdrop.functional.attention._layout import Arrays
from jaxdrop.functional.attention._shapes import Shapes, check_spec
from jaxdrop.functional.attention._weights import Products


def flax_dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    *,
    broadcast_dropout: bool,
    dropout_rng: jax.Array | None,
    dropout_rate: masks.Rate,
    deterministic: bool,
    dtype: Any,
    precision: Any,
    is_causal: bool,
    spec: PartitionSpec | None,
    local_window_size: int | tuple[int, int] | None = None,
    query_offset: int | jax.Array | None = None,
    query_seq_lengths: jax.Array | None = None,
    key_value_seq_lengths: jax.Array | None = None,
    segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
    sow: Callable[[jax.Array], Any] | None,
    force_fp32_for_softmax: bool = False,
    products: Products | None = None,
    dot_general: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """`jaxdrop.dot_product_attention` with the arguments of Flax's function of that name.

    `key` holds the keys of attention, and a mask may hold numbers, of which 0 masks.
    """
    dtype = _common(query, key, value) if dtype is None else jnp.dtype(dtype)
    names = "query", "key", "value"
    for name, x in zip(names, (query, key, value), strict=True):
        if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name} is complex, of dtype {x.dtype}, and dtype={dtype} is not: its imaginary"
                " part would be lost."
            )
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    with _checks.renamed(rate="dropout_rate"):
        rate = _checks.check_rate(dropout_rate)
    mask = None if mask is None else jnp.asarray(mask, bool)
    shared = (
        tuple(range(query.ndim - 2))
        if _checks.check_flag(broadcast_dropout, "broadcast_dropout")
        else ()
    )
    wide = jnp.promote_types(dtype, jnp.float32) if force_fp32_for_softmax else dtype
    if all(x is None for x in (sow, products, dot_general)) and not jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        Shapes.of("dot_product_attention", query, key, value, names)
        return dot_product_attention(
            dropout_rng,
            query,
            key,
            value,
            rate,
            bias=bias,
            mask=mask,
            is_causal=is_causal,
            local_window_size=local_window_size,
            query_offset=query_offset,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            segment_ids=segment_ids,
            broadcast_dims=shared,
            deterministic=deterministic,
            precision=precision,
            spec=spec,
        ).astype(wide)

    shapes = Shapes.of("dot_product_attention", query, key, value, names, kind=jnp.inexact)
    _checks.check_one_rate(rate, "dot_product_attention takes one rate for all weights")
    draws = not (_checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0))
    distribution = masks.distribution(rate, dtype)
    layout = check_spec(spec, shapes)
    axes, parts = _mapped_axes.names_and_size(layout, [len(shapes.batch)])
    of_queries, of_keys = shapes.padding(query_seq_lengths, key_value_seq_lengths, axes)
    allowed = [] if mask is None else [shapes.like_weights("mask", mask, jnp.bool_)]
    allowed += as_masks(of_queries, of_keys)
    if segment_ids is not None:
        mine, others = shapes.segments(segment_ids)
        allowed.append(jnp.expand_dims(mine, (-3, -1)) == jnp.expand_dims(others, (-3, -2)))
    whole = shapes.queries * parts if draws else None
    arrays = Arrays(
        key=_checks.consume_key(dropout_rng, "dot_product_attention") if draws else None,
        threshold=distribution.threshold,
        scale=distribution.scale,
        q=only(of_queries, query),
        k=only(of_keys, key),
        v=only(of_keys, value),
        bias=None if bias is None else shapes.like_weights("bias", bias, jnp.inexact),
        allowed=tuple(allowed),
        inside=(None, None),
        segments=None,
        offset=None if query_offset is None else shapes.offset(query_offset, whole),
    )
    weights, output = _weights.attend(
        arrays,
        products or Products.of(precision, dtype, dot_general),
        window=_block_sizes.window(local_window_size, is_causal),
        broadcast_dims=shared,
        dtype=wide,
        spec=layout,
    )
    if sow is not None:
        sow(weights)
    return output if products else output.astype(wide)


def _common(*arrays: jax.Array) -> Any:
    dtype = jnp.result_type(*arrays)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.promote_types(dtype, jnp.float32)
