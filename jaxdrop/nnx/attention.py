"""Attention with dropout in Flax's modules. See `jaxdrop.functional.attention`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional import attention
from jaxdrop.layers.attention import (
    Cache,
    checked_rate,
    knows_places,
    stand_in,
    with_attributes,
    with_options,
)
from jaxdrop.nnx._base import show_signature
from jaxdrop.nnx._streams import stream_of
from jaxdrop.nnx._told import Told, follow

__all__ = ["MultiHeadAttention", "dot_product_attention"]


@cites(attention.dot_product_attention)
@_checks.hinted
def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: jax.Array | None = None,
    dropout_rate: masks.Rate = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: nnx.Module | None = None,
    promote_dtype: Callable[..., tuple[jax.Array, ...]] | None = None,
    is_causal: bool = False,
    *,
    spec: PartitionSpec | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    query_offset: int | jax.Array | None = None,
    query_seq_lengths: jax.Array | None = None,
    key_value_seq_lengths: jax.Array | None = None,
    segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """`jaxdrop.dot_product_attention` with the arguments of `flax.nnx.dot_product_attention`, for
    its `attention_fn`.

    In evaluation the outputs are Flax's, and with a threefry key so are the masks. Memory grows
    with the length, not with its square. The softmax is computed in float32 or wider. A query that
    may see no key gets 0; in Flax it gets the mean of all values.

    An array of all attention weights is made only with `module`, and for complex numbers. Masks and
    results are the same.

    Args:
      query: `(batch..., queries, heads, depth)`.
      key: the keys of attention, `(batch..., keys, groups, depth)`, where `heads` is a multiple of
        `groups`.
      value: of the shape of `key`; only the depth may differ.
      bias: an array that is added to the logits.
      mask: True, or not 0, where a query may see a key.
      broadcast_dropout: whether one mask is shared over batch and heads: True by default, as in
        Flax.
      dropout_rng: a key; only with dropout.
      dropout_rate: the probability of dropping a weight: a number or a traced scalar.
      deterministic: if True, nothing is dropped.
      dtype: the dtype of the computation; by default that of the inputs.
      precision: the precision of the matrix products.
      module: a module that sows the attention weights, before dropout.
      promote_dtype: as in Flax, a function of `(query, key, value)` and `dtype` that brings them to
        one dtype.
      is_causal: whether a query sees only the keys up to its own place.
      spec: as in `jaxdrop.dot_product_attention`, inside `shard_map` and `pmap`.
      local_window_size: as in `jaxdrop.dot_product_attention`. Flax's modules do not pass it:
        `functools.partial(dot_product_attention, local_window_size=(64, 0))` is their
        `attention_fn`.
      query_offset: as in `jaxdrop.dot_product_attention`; the layers of this module pass it when
        they decode.
      query_seq_lengths: how many queries of each example are no padding, as in
        `jaxdrop.dot_product_attention`. The layers of this module take it in the call, as they take
        the next two.
      key_value_seq_lengths: the same of the keys.
      segment_ids: of packed sequences, as in `jaxdrop.dot_product_attention`.

    Returns:
      `(batch..., length, heads, depth)`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dot_product_attention`.
    """
    if promote_dtype is not None:
        query, key, value = promote_dtype((query, key, value), dtype=dtype)
        dtype = None
    return attention.flax_dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        broadcast_dropout=broadcast_dropout,
        dropout_rng=dropout_rng,
        dropout_rate=dropout_rate,
        deterministic=deterministic,
        dtype=dtype,
        precision=precision,
        is_causal=is_causal,
        spec=spec,
        local_window_size=local_window_size,
        query_offset=query_offset,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        segment_ids=segment_ids,
        sow=(
            None
            if module is None
            else functools.partial(module.sow, nnx.Intermediate, "attention_weights")
        ),
    )


@cites("vaswani2017attention")
@follow
class MultiHeadAttention(nnx.MultiHeadAttention):
    """`flax.nnx.MultiHeadAttention` in memory that grows with the length and not with its square.

    Its arguments and parameters are Flax's, with two other defaults: `attention_fn` is
    `jaxdrop.nnx.dot_product_attention`, and `broadcast_dropout` is False, so that each example and
    head has a mask of its own. `spec` is that of `jaxdrop.dot_product_attention`: how the axes of
    the query, `(batch..., length, heads, depth)`, are divided inside `shard_map` and `pmap`.

    Decoding takes one token a call, or several, such as a prompt. With dropout, and the same key in
    each call, `rngs=key`, a token gets the mask that one call on the whole text gives it, if the
    text is as long as the cache. (An `attention_fn` that takes no `query_offset` decodes as in
    Flax: one token a call, each with the mask of the first.)

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
    """

    told: Told | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):  # which `help` would show with this class's arguments
            show_signature(cls)

    def __init__(
        self,
        *args: Any,
        dropout_rate: float = 0.0,
        broadcast_dropout: bool = False,
        attention_fn: Callable[..., jax.Array] = dot_product_attention,
        spec: PartitionSpec | None = None,
        **kwargs: Any,
    ) -> None:
        rate = checked_rate(dropout_rate, "MultiHeadAttention")
        for name in kwargs.keys() & {"deterministic", "decode"}:
            if kwargs[name] is not None and not isinstance(kwargs[name], jax.core.Tracer):
                _checks.check_flag(kwargs[name], name)
        if "rngs" in kwargs and not isinstance(kwargs["rngs"], nnx.Rngs):
            raise TypeError(
                "rngs must be an nnx.Rngs, for parameters are made from it, got"
                f" {_checks.quoted(kwargs['rngs'])}"
            )
        if kwargs.get("keep_rngs", True) and stand_in(rate) and "rngs" in kwargs:
            way = "take a key in each call: keep_rngs=False"
            stream_of(kwargs["rngs"], "dropout", "MultiHeadAttention", way)
        given = {
            **kwargs,
            "dropout_rate": stand_in(rate),
            "attention_fn": attention_fn,
            "broadcast_dropout": _checks.check_flag(broadcast_dropout, "broadcast_dropout"),
        }
        try:
            super().__init__(*args, **given)
        except TypeError:
            _checks.check_fit(
                nnx.MultiHeadAttention.__init__, "MultiHeadAttention", (self, *args), given
            )
            raise
        self.dropout_rate = rate
        self.spec = spec

    def __call__(
        self,
        *args: Any,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
        query_seq_lengths: jax.Array | None = None,
        key_value_seq_lengths: jax.Array | None = None,
        segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """As Flax's layer is called.

        `rngs` may also be a key. `rate` takes the place of `dropout_rate`; both may be traced:
        `schedule(step)`. `spec` takes the place of the constructor's. A layer that was made without
        dropout has kept no `rngs`, and takes them in the call. Padding and packed sequences are
        told by `query_seq_lengths`, `key_value_seq_lengths` and `segment_ids`, as
        `jaxdrop.dot_product_attention` is.
        """
        rate = _checks.check_rate(self.dropout_rate if rate is None else rate)
        off = self.deterministic if kwargs.get("deterministic") is None else kwargs["deterministic"]
        if off is not None and not masks.is_number(rate, 0):
            _checks.check_flag(off, "deterministic")
        if not (rngs is None or isinstance(rngs, (nnx.Rngs, nnx.RngStream, jax.Array, np.ndarray))):
            raise TypeError(
                "rngs must be an nnx.Rngs, an nnx.RngStream or a JAX key, got"
                f" {_checks.quoted(rngs)}"
            )
        decodes = self.decode if kwargs.get("decode") is None else kwargs["decode"]
        from_cache = decodes and knows_places(self.attention_fn)
        if decodes:
            # The mask of the cache is causal already. Flax before 0.12.12 would add one by which
            # the only query sees the first key alone.
            kwargs |= {"is_causal": False, "decode": not from_cache}
        if isinstance(rngs, nnx.Rngs):
            way = "pass a key: layer(x, rngs=key)"
            draws = stand_in(rate) and not off
            rngs = stream_of(rngs, "dropout", "MultiHeadAttention", way) if draws else None
        # Flax takes a key by calling `rngs`.
        is_key = isinstance(rngs, (jax.Array, np.ndarray))
        source = (lambda: _checks.check_key(rngs, "MultiHeadAttention", "rngs")) if is_key else rngs
        spec = self.spec if spec is None else spec
        attend = with_options(
            self.attention_fn,
            "MultiHeadAttention",
            dropout_rate=rate,
            spec=spec,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            segment_ids=segment_ids,
        )

        def attention_fn(
            *operands: jax.Array, module: nnx.Module | None = None, **options: Any
        ) -> jax.Array:
            if from_cache:
                options |= {"is_causal": True, "query_offset": self._place()}
                operands = self._through_cache(*operands)
            # What is sown in a copy of the layer would be lost.
            return attend(*operands, **options, module=None if module is None else self)

        layer = with_attributes(self, attention_fn=attention_fn, dropout_rate=stand_in(rate))
        output: Any = super(MultiHeadAttention, layer).__call__(*args, rngs=source, **kwargs)
        return output

    def _place(self) -> jax.Array:
        """The number of tokens in the cache."""
        if self.cache_index is None:
            raise ValueError(
                "MultiHeadAttention has no cache yet. Before it decodes, call"
                " init_cache((batch..., length, features)), with the greatest length of a text."
            )
        return self.cache_index[...]

    def _through_cache(self, query: jax.Array, *new: jax.Array) -> tuple[jax.Array, ...]:
        """The queries, and all keys and values so far, of which the cache keeps the new ones."""
        variables = self.cached_key, self.cached_value, self.cache_index
        cache, query = Cache(*(variable[...] for variable in variables)).extended(
            "MultiHeadAttention", query, *new
        )
        for variable, changed in zip(variables, cache, strict=True):
            variable[...] = changed
        return query, cache.key, cache.value


show_signature(
    MultiHeadAttention,
    *list(inspect.signature(nnx.MultiHeadAttention.__init__).parameters.values())[1:],
)
