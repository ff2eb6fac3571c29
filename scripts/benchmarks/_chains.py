"""Dropout with its neighbors in a transformer, which XLA fuses or not."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._peers import RATE

Chain = Callable[[jax.Array | None, jax.Array, jax.Array], jax.Array]
"""A function of a key, or None for no dropout, of an array and of a residual stream."""


def chains(width: int) -> dict[str, Chain]:
    """Each over rows of `width` entries."""
    scale, bias = jnp.ones(width, jnp.bfloat16), jnp.zeros(width, jnp.bfloat16)

    def drop(key: jax.Array | None, x: jax.Array) -> jax.Array:
        return jaxdrop.dropout(key, x, RATE, deterministic=key is None)

    def norm(x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-6)
        return (y * scale + bias).astype(x.dtype)

    def fused(key: jax.Array | None, x: jax.Array, residual: jax.Array) -> jax.Array:
        y = jaxdrop.dropout_add_layer_norm(
            key, x, residual, scale, bias, RATE, deterministic=key is None
        )
        assert isinstance(y, jax.Array)
        return y

    return {
        "bias + GELU + dropout": lambda key, x, residual: drop(key, jax.nn.gelu(x + bias)),
        "dropout + residual + layer norm": lambda key, x, residual: norm(residual + drop(key, x)),
        "dropout_add_layer_norm": fused,
    }
