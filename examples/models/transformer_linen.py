"""The transformer of `transformer.py` in Flax Linen, with the same parameters under the same
names.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxdrop
import jaxdrop.linen

RESIDUAL = "batch", "length", None


class Block(nn.Module):
    """Attention and an MLP, each with a residual sum."""

    heads: int
    rate: float
    norm: Literal["pre", "post"]
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, path_rate: jax.Array, strength: jax.Array
    ) -> tuple[jax.Array, None]:
        width, rate = x.shape[-1], strength * self.rate

        def dropout(x: jax.Array) -> jax.Array:
            return jaxdrop.linen.Dropout(self.rate, deterministic=self.deterministic)(x, rate=rate)

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, dropout_rng: jax.Array, deterministic: bool
        ) -> jax.Array:
            return jaxdrop.dot_product_attention(
                dropout_rng, q, k, v, rate, is_causal=True, deterministic=deterministic
            )

        attention = jaxdrop.linen.MultiHeadAttention(
            self.heads,
            dropout_rate=self.rate,
            deterministic=self.deterministic,
            attention_fn=attend,
            name="attention",
        )

        def mlp(x: jax.Array) -> jax.Array:
            hidden = nn.gelu(nn.Dense(4 * width, name="up")(x))
            hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
            return nn.Dense(width, name="down")(dropout(hidden))

        for name, branch in (("attention", attention), ("mlp", mlp)):
            norm = nn.LayerNorm(name=f"{name}_norm")
            y = nn.with_logical_constraint(branch(norm(x) if self.norm == "pre" else x), RESIDUAL)
            y = dropout(y)
            x += jaxdrop.linen.DropPath(0.0, deterministic=self.deterministic)(y, rate=path_rate)
            x = norm(x) if self.norm == "post" else x
        return x, None


class Transformer(nn.Module):
    """Predicts the next token at every place. The attributes are the arguments of the NNX model."""

    vocabulary: int
    length: int
    width: int
    heads: int
    layers: int
    rate: float
    path_rate: float
    norm: Literal["pre", "post"] = "pre"

    @nn.compact
    def __call__(
        self, tokens: jax.Array, *, deterministic: bool = False, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """The logits, `(batch, length, vocabulary)`; `strength` multiplies all rates."""
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        x += nn.Embed(self.length, self.width, name="positions")(jnp.arange(tokens.shape[1])[None])
        x = jaxdrop.linen.Dropout(self.rate, deterministic=deterministic)(
            nn.with_logical_constraint(x, RESIDUAL), rate=strength * self.rate
        )
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            # Flax looks for what does not depend on the layer, and takes the check of a traced rate
            # for such a thing.
            check_constancy_invariants=False,
        )(self.heads, self.rate, self.norm, deterministic, name="blocks")
        path_rates = strength * jnp.array(jaxdrop.depth_rates(self.path_rate, self.layers))
        x, _ = blocks(x, path_rates, jnp.asarray(strength))
        logits = nn.Dense(self.vocabulary, name="head")(nn.LayerNorm(name="norm")(x))
        return nn.with_logical_constraint(logits, ("batch", "length", "vocabulary"))
