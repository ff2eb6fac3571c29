"""What a model has to know where its arrays are one device's part of the batch: inside `shard_map` and `pmap`."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec

import jaxdrop


def localize(model: nnx.Module, axis: str) -> None:
    """Makes a model draw its part of the masks of the whole batch, and take BatchNorm's statistics over the whole batch."""
    spec = PartitionSpec(axis)

    def attention(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        *,
        dropout_rng: Any,
        dropout_rate: Any,
        deterministic: bool,
        **options: Any,
    ) -> jax.Array:
        return jaxdrop.dot_product_attention(
            dropout_rng,
            query,
            key,
            value,
            dropout_rate,
            deterministic=deterministic,
            is_causal=options["is_causal"],
            spec=spec,
        )

    for _, module in nnx.iter_modules(model):
        if hasattr(module, "spec"):
            module.spec = spec
        if isinstance(module, nnx.MultiHeadAttention):
            module.attention_fn = attention
        if isinstance(module, nnx.BatchNorm):
            module.axis_name = axis
