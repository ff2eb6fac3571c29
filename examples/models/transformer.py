"""A decoder-only transformer in Flax NNX, with dropout in its four places, and drop path.

The places: the embedding, the attention weights, the end of each residual branch, and the hidden
layer of each MLP. It decodes with a cache, and then draws for each token the masks that one call on
the whole text draws.
"""

from __future__ import annotations

import functools
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

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        window: int | None,
        rate: float,
        norm: Norm,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm = norm
        self.attention = jaxdrop.nnx.MultiHeadAttention(
            heads,
            width,
            num_kv_heads=groups,
            dropout_rate=rate,
            attention_fn=functools.partial(
                jaxdrop.nnx.dot_product_attention,
                local_window_size=None if window is None else (window, 0),
            ),
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
        self,
        x: jax.Array,
        rate: float | jax.Array,
        path_rate: float | jax.Array,
        rngs: nnx.Rngs | None,
        part: jaxdrop.Part | None,
    ) -> jax.Array:
        def dropout(x: jax.Array) -> jax.Array:
            return self.dropout(x, rate=rate, rngs=rngs, part=part)

        def attention(x: jax.Array) -> jax.Array:
            decode = part is not None
            return self.attention(x, is_causal=True, rate=rate, rngs=rngs, decode=decode)

        def mlp(x: jax.Array) -> jax.Array:
            hidden = constrain(nnx.gelu(self.up(x)), ("batch", "length", "mlp"))
            return self.down(dropout(hidden))

        for branch, norm in ((attention, self.attention_norm), (mlp, self.mlp_norm)):
            y = branch(norm(x) if self.norm == "pre" else x)
            y = constrain(y, RESIDUAL)
            x += self.drop_path(dropout(y), rate=path_rate, rngs=rngs)
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
      groups: how many heads of keys and values there are; as many as `heads` by default.
      window: how many tokens before its own a token sees; all by default.
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
        groups: int | None = None,
        window: int | None = None,
        norm: Norm = "pre",
        rngs: nnx.Rngs,
    ) -> None:
        self.rate, self.length = rate, length
        self.path_rates = jaxdrop.depth_rates(path_rate, layers)
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)
        keys = jax.random.split(rngs.params(), layers)
        block = functools.partial(Block, width, heads, groups or heads, window, rate, norm)
        self.blocks = nnx.vmap(lambda key: block(rngs=nnx.Rngs(key)))(keys)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def init_cache(self, batch: int) -> None:
        """Makes an empty cache, with which `decode=True` works."""
        graph, params = nnx.split(self.blocks)
        first = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], params)).attention
        # An array for each block: a loop over tokens then writes a token into it in place. In one
        # array for all blocks, over which a loop runs, each token would copy the whole cache.
        self.caches = nnx.List([])
        for _ in self.path_rates:
            first.init_cache((batch, self.length, self.tokens.features))
            self.caches.append(nnx.List([first.cached_key, first.cached_value, first.cache_index]))

    def __call__(
        self,
        tokens: jax.Array,
        rngs: nnx.Rngs | None = None,
        *,
        strength: float | jax.Array = 1.0,
        first: int = 0,
        decode: bool = False,
    ) -> jax.Array:
        """The logits, `(batch, length, vocabulary)`.

        Args:
          tokens: integers, `(batch, length)`.
          rngs: where the keys come from, if anything is to be dropped. There is no stored stream.
          strength: multiplies all rates; a traced value, as of a schedule, does not recompile.
          first: the first block in which anything is dropped. What comes before it does not depend
            on the key, the embedding included if `first` is not 0, so samples share it.
          decode: whether the tokens continue those of the calls before: one token or more.
        """
        start = self.caches[0][-1][...] if decode else 0
        part = jaxdrop.Part(start, self.length) if decode else None
        places = start + jnp.arange(tokens.shape[1])[None]
        x = look_up(self.tokens, tokens) + look_up(self.positions, places)
        x, rate = constrain(x, RESIDUAL), strength * self.rate
        if first == 0:
            x = self.dropout(x, rate=rate, rngs=rngs, part=part)

        layers = len(self.path_rates)
        path_rates = strength * jnp.array(self.path_rates)
        keys = None if rngs is None else jax.random.split(rngs.dropout(), layers)
        graph, params = nnx.split(self.blocks)

        def block(x: jax.Array, own: Any, cache: Any = None) -> tuple[jax.Array, None]:
            params, drawn = own
            block = nnx.merge(graph, params)
            if cache is not None:
                attention = block.attention
                attention.cached_key, attention.cached_value, attention.cache_index = cache
            if drawn is None:
                return block(x, 0.0, 0.0, None, part), None
            path_rate, key = drawn
            return block(x, rate, path_rate, None if key is None else nnx.Rngs(key), part), None

        drawn = path_rates, keys
        if decode:
            for at, cache in enumerate(self.caches):
                own = params, drawn if at >= first else None
                x, _ = block(x, jax.tree.map(lambda leaf, at=at: leaf[at], own), cache)
        else:
            # The scan stands between a layer and its copy in the backward pass, so no barrier has
            # to (`prevent_cse`).
            again = jax.checkpoint(block, prevent_cse=False)
            if first > 0:
                x, _ = lax.scan(again, x, (jax.tree.map(lambda leaf: leaf[:first], params), None))
                params, drawn = jax.tree.map(lambda leaf: leaf[first:], (params, drawn))
            x, _ = lax.scan(again, x, (params, drawn))
        return constrain(self.head(self.norm(x)), ("batch", "length", "vocabulary"))
