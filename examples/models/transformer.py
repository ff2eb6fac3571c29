"""A decoder-only transformer in Flax NNX, with dropout in its four places, and drop path.

The places: the embedding, the attention weights, the end of each residual branch, and the hidden
layer of each MLP.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import with_logical_constraint as constrain
from jax import lax

import jaxdrop
import jaxdrop.nnx

Norm: TypeAlias = Literal["pre", "post"]
RESIDUAL = "batch", "length", None
"""The axes between two branches, by name. Without `flax.linen.logical_axis_rules` names do
nothing; with them, each device keeps its part of the batch in its hands, and parameters that are
divided among devices are gathered where they are used."""


def look_up(table: nnx.Embed, ids: jax.Array) -> jax.Array:
    """Rows of a table. It is gathered first where it is divided among devices: the compiler would
    rather gather the whole batch.
    """
    return jnp.take(constrain(table.embedding[...], (None, None)), ids, axis=0)


class Block(nnx.Module):
    """Attention and an MLP, each with a residual sum."""

    def __init__(self, width: int, heads: int, rate: float, norm: Norm, *, rngs: nnx.Rngs) -> None:
        self.rate = rate
        self.norm = norm
        self.attention = jaxdrop.nnx.MultiHeadAttention(
            heads,
            width,
            dropout_rate=rate,
            deterministic=False,
            decode=False,
            keep_rngs=False,
            rngs=rngs,
        )
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)
        self.drop_path = jaxdrop.nnx.DropPath(0.0)

    def __call__(
        self, x: jax.Array, path_rate: jax.Array, strength: float | jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        rate = strength * self.rate

        def attention(x: jax.Array) -> jax.Array:
            return self.attention(x, is_causal=True, rate=rate, rngs=rngs)

        def mlp(x: jax.Array) -> jax.Array:
            hidden = constrain(nnx.gelu(self.up(x)), ("batch", "length", "mlp"))
            return self.down(self.dropout(hidden, rate=rate, rngs=rngs))

        for branch, norm in ((attention, self.attention_norm), (mlp, self.mlp_norm)):
            y = branch(norm(x) if self.norm == "pre" else x)
            y = constrain(y, RESIDUAL)
            x += self.drop_path(self.dropout(y, rate=rate, rngs=rngs), rate=path_rate, rngs=rngs)
            x = norm(x) if self.norm == "post" else x
        return x


class Transformer(nnx.Module):
    """Predicts the next token at every place.

    Args:
      vocabulary: the number of tokens.
      length: the greatest number of tokens in a text.
      width: the number of features.
      heads: of attention.
      layers: the number of blocks. They run under `lax.scan`, and the backward pass computes each
        again.
      rate: of dropout, in all four places.
      path_rate: of drop path, in the last block; the first one has 0.
      norm: `'pre'`, at the start of each residual branch, or `'post'`, behind each residual sum.
      rngs: for the parameters.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int,
        width: int,
        heads: int,
        layers: int,
        rate: float,
        path_rate: float,
        norm: Norm = "pre",
        rngs: nnx.Rngs,
    ) -> None:
        self.rate = rate
        self.path_rates = jaxdrop.depth_rates(path_rate, layers)
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)
        keys = jax.random.split(rngs.params(), layers)
        self.blocks = nnx.vmap(lambda key: Block(width, heads, rate, norm, rngs=nnx.Rngs(key)))(
            keys
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(
        self, tokens: jax.Array, rngs: nnx.Rngs | None = None, *, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """The logits, `(batch, length, vocabulary)`.

        Args:
          tokens: integers, `(batch, length)`.
          rngs: where the keys come from, if anything is to be dropped. There is no stored stream.
          strength: multiplies all rates; a traced value, as of a schedule, does not recompile.
        """
        x = look_up(self.tokens, tokens) + look_up(
            self.positions, jnp.arange(tokens.shape[1])[None]
        )
        x = self.dropout(constrain(x, RESIDUAL), rate=strength * self.rate, rngs=rngs)

        layers = len(self.path_rates)
        path_rates = strength * jnp.array(self.path_rates)
        keys = None if rngs is None else jax.random.split(rngs.dropout(), layers)
        graph, params = nnx.split(self.blocks)

        def block(x: jax.Array, own: Any) -> tuple[jax.Array, None]:
            params, path_rate, key = own
            return (
                nnx.merge(graph, params)(
                    x, path_rate, strength, None if key is None else nnx.Rngs(key)
                ),
                None,
            )

        # The scan stands between a layer and its copy in the backward pass, so no barrier has to
        # (`prevent_cse`).
        x, _ = lax.scan(jax.checkpoint(block, prevent_cse=False), x, (params, path_rates, keys))
        return constrain(self.head(self.norm(x)), ("batch", "length", "vocabulary"))
