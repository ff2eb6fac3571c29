"""A decoder-only transformer in Flax NNX, with dropout in its four places, and drop path.

The places: the embedding, the attention weights, the end of each residual branch, and the hidden
layer of each MLP. It decodes with a cache, and then draws for each token the masks that one call on
the whole text draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import jaxdrop
import jaxdrop.nnx

from .layout import ATTENTION_SAVEABLE, BRANCH, RESIDUAL, constrain

Norm: TypeAlias = Literal["pre", "post"]
Branch: TypeAlias = Callable[[jax.Array], jax.Array]
_KEYS = 7
"""How many keys a block takes at most: four for dropout, two for drop path, one for random-LTD."""


class Skip(NamedTuple):
    """What a training step does not compute. These rates set shapes: they are numbers, which no
    `strength` multiplies.
    """

    units: float = 0.0
    """The share of the hidden units of each MLP (`jaxdrop.dropout_mlp`), in place of dropout."""
    pattern: jaxdrop.subsets.Pattern = "unit"
    """`'unit'`, `'block'` of 128 units, or `'slice'`."""
    examples: float = 0.0
    """That of the examples, in each residual branch (`jaxdrop.drop_path_add`), instead of drop
    path.
    """
    tokens: float = 0.0
    """That of the tokens, in all blocks but the first and the last (`jaxdrop.random_ltd`)."""
    groups: int = 1
    """How many groups of units, and of examples, keep equally many: a multiple of the number of
    devices that divide them, and then nothing is communicated.
    """


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
        skip: Skip,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm, self.skip = norm, skip
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
        self.drop_path_add = jaxdrop.nnx.DropPathAdd(skip.examples, groups=skip.groups)

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
            if self.skip.units and rngs is not None:
                return self._skipping_mlp(x, rngs)
            hidden = constrain(nnx.gelu(self.up(x)), ("batch", "length", "mlp"))
            return self.down(dropout(hidden))

        for branch, norm in ((attention, self.attention_norm), (mlp, self.mlp_norm)):

            def residual(
                x: jax.Array, branch: Branch = branch, norm: nnx.LayerNorm = norm
            ) -> jax.Array:
                y = branch(constrain(norm(x) if self.norm == "pre" else x, BRANCH))
                return dropout(constrain(constrain(y, BRANCH), RESIDUAL))

            if self.skip.examples:
                x = self.drop_path_add(x, residual, rngs=rngs)
            else:
                x += self.drop_path(residual(x), rate=path_rate, rngs=rngs)
            x = norm(x) if self.norm == "post" else x
        return x

    def _skipping_mlp(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        up, down, skip = self.up, self.down, self.skip
        return jaxdrop.dropout_mlp(
            rngs.dropout(),
            x,
            up.kernel[...],
            down.kernel[...],
            skip.units,
            b_in=up.bias[...],
            b_out=down.bias[...],
            activation=nnx.gelu,
            pattern=skip.pattern,
            groups=skip.groups,
            deterministic=bool(self.dropout.deterministic),
        )


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
      skip: what a training step does not compute; nothing by default.
      remat_policy: what the backward pass does not compute again, of `jax.checkpoint_policies`;
        the results of attention by default.
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
        skip: Skip | None = None,
        remat_policy: Callable[..., bool] = ATTENTION_SAVEABLE,
        rngs: nnx.Rngs,
    ) -> None:
        self.rate, self.length, skip = rate, length, skip or Skip()
        self.remat_policy = remat_policy
        self.path_rates = jaxdrop.depth_rates(path_rate, layers)
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)
        keys = jax.random.split(rngs.params(), layers)
        block = functools.partial(Block, width, heads, groups or heads, window, rate, norm, skip)
        self.random_ltd = jaxdrop.nnx.RandomLTD(skip.tokens)
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
        keys = None if rngs is None else _keys(rngs.dropout(), layers)
        graph, params = nnx.split(self.blocks)

        def block(
            x: jax.Array, own: Any, cache: Any = None, *, some: bool = False
        ) -> tuple[jax.Array, None]:
            params, drawn = own
            block = nnx.merge(graph, params)
            if cache is not None:
                attention = block.attention
                attention.cached_key, attention.cached_value, attention.cache_index = cache
            if drawn is None:
                return block(x, 0.0, 0.0, None, part), None
            path_rate, keys = drawn
            rngs = None if keys is None else jaxdrop.nnx.rngs_from_keys(keys)

            def whole(x: jax.Array) -> jax.Array:
                return block(x, rate, path_rate, rngs, part)

            return self.random_ltd(x, whole, rngs=rngs) if some else whole(x), None

        drawn = path_rates, keys
        if decode:
            for at, cache in enumerate(self.caches):
                own = params, drawn if at >= first else None
                x, _ = block(x, jax.tree.map(lambda leaf, at=at: leaf[at], own), cache)
        else:
            # The scan stands between a layer and its copy in the backward pass, so no barrier has
            # to (`prevent_cse`).
            def through(x: jax.Array, start: int, end: int, some: bool = False) -> jax.Array:
                own = params, drawn if start >= first else None
                own = (
                    jax.tree.map(lambda leaf: leaf[start:end], own) if end - start < layers else own
                )
                run = functools.partial(block, some=some)
                again = jax.checkpoint(run, prevent_cse=False, policy=self.remat_policy)
                return lax.scan(again, x, own)[0]

            if first > 0:
                x = through(x, 0, first)
            if self.random_ltd.rate and layers - first > 2:
                x = through(x, first, first + 1)
                x = through(x, first + 1, layers - 1, some=True)
                x = through(x, layers - 1, layers)
            else:
                x = through(x, first, layers)
        logits = self.head(constrain(self.norm(x), BRANCH))
        return constrain(logits, ("batch", "length", "vocabulary"))


def _keys(key: jax.Array, layers: int) -> jax.Array:
    """The keys of all blocks, `(layers, _KEYS)`: those that `nnx.Rngs` would derive from one key
    for each block, here by one hash for the compiler to meet, outside of the loop.
    """
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold_in(jax.random.split(key, layers), jnp.arange(_KEYS, dtype=jnp.uint32))
