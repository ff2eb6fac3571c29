"""The transformer of `transformer.py` in Flax Linen, with the same parameters under the same
names.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxdrop
import jaxdrop.linen
from jaxdrop import Part

from .layout import ATTENTION_SAVEABLE, BRANCH, RESIDUAL, constrain


class Block(nn.Module):
    """Attention and an MLP, each with a residual sum."""

    heads: int
    rate: float
    norm: Literal["pre", "post"]
    deterministic: bool
    window: int | None
    decode: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, path_rate: jax.Array, strength: jax.Array, part: Part | None
    ) -> tuple[jax.Array, None]:
        width, rate = x.shape[-1], strength * self.rate

        def dropout(x: jax.Array) -> jax.Array:
            layer = jaxdrop.linen.Dropout(self.rate, deterministic=self.deterministic)
            return layer(x, rate=rate, part=part)

        attention_layer = jaxdrop.linen.MultiHeadAttention(
            self.heads,
            dropout_rate=self.rate,
            deterministic=self.deterministic,
            attention_fn=functools.partial(
                jaxdrop.linen.dot_product_attention,
                is_causal=True,
                local_window_size=None if self.window is None else (self.window, 0),
            ),
            decode=self.decode,
            name="attention",
        )

        def attention(x: jax.Array) -> jax.Array:
            return attention_layer(x, rate=rate)

        def mlp(x: jax.Array) -> jax.Array:
            hidden = nn.gelu(nn.Dense(4 * width, name="up")(x))
            hidden = constrain(hidden, ("batch", "length", "mlp"))
            return nn.Dense(width, name="down")(dropout(hidden))

        for name, branch in (("attention", attention), ("mlp", mlp)):
            norm = nn.LayerNorm(name=f"{name}_norm")
            y = branch(constrain(norm(x) if self.norm == "pre" else x, BRANCH))
            y = dropout(constrain(constrain(y, BRANCH), RESIDUAL))
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
    window: int | None = None
    norm: Literal["pre", "post"] = "pre"
    decode: bool = False

    @nn.compact
    def __call__(
        self, tokens: jax.Array, *, deterministic: bool = False, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """The logits, `(batch, length, vocabulary)`; `strength` multiplies all rates.

        With `decode`, `init` of a whole text makes a cache, and the tokens of a call continue those
        of the calls before, if the collection `cache` is mutable.
        """
        start: int | jax.Array = 0
        if self.decode:
            has_cache = self.has_variable("cache", "start")
            stored = self.variable("cache", "start", jnp.int32, 0)
            start = stored.value
            stored.value += tokens.shape[1] if has_cache else 0
        part = Part(start, self.length) if self.decode else None
        places = start + jnp.arange(tokens.shape[1])[None]
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        x += nn.Embed(self.length, self.width, name="positions")(places)
        x = jaxdrop.linen.Dropout(self.rate, deterministic=deterministic)(
            constrain(x, RESIDUAL), rate=strength * self.rate, part=part
        )
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False, policy=ATTENTION_SAVEABLE),
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            # Flax looks for what does not depend on the layer, and takes the check of a traced rate
            # for such a thing.
            check_constancy_invariants=False,
        )(
            self.heads,
            self.rate,
            self.norm,
            deterministic,
            self.window,
            self.decode,
            name="blocks",
        )
        path_rates = strength * jnp.array(jaxdrop.depth_rates(self.path_rate, self.layers))
        x, _ = blocks(x, path_rates, jnp.asarray(strength), part)
        x = constrain(nn.LayerNorm(name="norm")(x), BRANCH)
        logits = nn.Dense(self.vocabulary, name="head")(x)
        return constrain(logits, ("batch", "length", "vocabulary"))
