"""Attention with dropout in Flax's modules. See `jaxdrop.functional.attention`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional import attention
from jaxdrop.functional.attention import Products
from jaxdrop.layers.attention import (
    Cache,
    checked_rate,
    knows_places,
    stand_in,
    with_attributes,
    with_options,
)
from jaxdrop.linen._base import Hinted
from jaxdrop.linen._forced import Forced

__all__ = ["MultiHeadAttention", "MultiHeadDotProductAttention", "dot_product_attention"]


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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., jax.Array] | None = None,
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    *,
    is_causal: bool = False,
    spec: PartitionSpec | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    query_offset: int | jax.Array | None = None,
    query_seq_lengths: jax.Array | None = None,
    key_value_seq_lengths: jax.Array | None = None,
    segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """`jaxdrop.dot_product_attention` with the arguments of `flax.linen.dot_product_attention`, for
    its `attention_fn`.

    In evaluation the outputs are Flax's, and with a threefry key so are the masks. Memory grows
    with the length, not with its square. The softmax is computed in float32 or wider. A query that
    may see no key gets 0; in Flax it gets the mean of all values.

    An array of all attention weights is made only with `module`, with matrix products of the
    caller's own (`einsum_dot_general`, `qk_attn_weights_einsum`, `attn_weights_value_einsum`), and
    for complex numbers. Masks and results are the same.

    Args:
      query: `(batch..., queries, heads, depth)`.
      key: the keys of attention, `(batch..., keys, heads, depth)`.
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
      force_fp32_for_softmax: if True, the weights, where they are sown, and the result are of
        float32 at least, as in Flax. The softmax is so in any case.
      einsum_dot_general: takes the place of `jax.lax.dot_general` in both products.
      qk_attn_weights_einsum: takes the place of `jnp.einsum` for the logits. Only together with the
        next one.
      attn_weights_value_einsum: takes the place of `jnp.einsum` for the output.
      is_causal: whether a query sees only the keys up to its own place. Flax's modules do not pass
        it: a function that does, or `functools.partial(dot_product_attention, is_causal=True)`, is
        their `attention_fn`.
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
      ValueError: one einsum without the other, or both with `precision` or `einsum_dot_general`.
    """
    products = None
    if qk_attn_weights_einsum is not None and attn_weights_value_einsum is not None:
        products = Products(qk_attn_weights_einsum, attn_weights_value_einsum)
    elif qk_attn_weights_einsum is not None or attn_weights_value_einsum is not None:
        raise ValueError(
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified together."
        )
    if products and (precision or einsum_dot_general):
        raise ValueError(
            "precision/einsum_dot_general and qk_attn_weights_einsum/attn_weights_value_einsum are"
            " mutually exclusive. Please specify only one of them."
        )
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
            else functools.partial(module.sow, "intermediates", "attention_weights")
        ),
        force_fp32_for_softmax=force_fp32_for_softmax,
        products=products,
        dot_general=einsum_dot_general,
    )


@cites("vaswani2017attention")
class MultiHeadDotProductAttention(Hinted, nn.MultiHeadDotProductAttention):
    """`flax.linen.MultiHeadDotProductAttention` in memory that grows with the length and not with
    its square.

    Its attributes and parameters are Flax's, with two other defaults: `attention_fn` is
    `jaxdrop.linen.dot_product_attention`, and `broadcast_dropout` is False, so that each example
    and head has a mask of its own. `spec` is that of `jaxdrop.dot_product_attention`: how the axes
    of the query, `(batch..., length, heads, depth)`, are divided inside `shard_map` and `pmap`.

    Decoding takes one token a call, or several, such as a prompt. With dropout, and the same key in
    each call, a token gets the mask that one call on the whole text gives it, if the text is as
    long as the cache. (An `attention_fn` that takes no `query_offset` decodes as in Flax: one token
    a call, all with the mask of the first.)

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
    """

    broadcast_dropout: bool = False
    attention_fn: Callable[..., jax.Array] = dot_product_attention
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        *args: Any,
        deterministic: bool | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
        query_seq_lengths: jax.Array | None = None,
        key_value_seq_lengths: jax.Array | None = None,
        segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """As Flax's layer is called. `rate` takes the place of `dropout_rate`; both may be traced:
        `schedule(step)`. `spec` takes the place of the attribute. Padding and packed sequences are
        told by `query_seq_lengths`, `key_value_seq_lengths` and `segment_ids`, as
        `jaxdrop.dot_product_attention` is.
        """
        takes_rate = "dropout_rate" in inspect.signature(self.attention_fn).parameters
        if rate is not None and not takes_rate:
            raise TypeError(
                f"rate={rate!r} was given in the call, but attention_fn={self.attention_fn!r} takes"
                " no dropout_rate."
            )
        name = type(self).__name__
        known = checked_rate(self.dropout_rate, name)
        known = known if rate is None else _checks.check_rate(rate)
        _checks.check_flag(self.broadcast_dropout, "broadcast_dropout")
        own = self.deterministic
        if isinstance(deterministic, Forced):
            own, deterministic = None, deterministic.off
        for off in (own, deterministic):
            if off is not None and not (
                isinstance(off, jax.core.Tracer) and masks.is_number(known, 0)
            ):
                _checks.check_flag(off, "deterministic")
        attention_fn = with_options(
            self.attention_fn,
            name,
            dropout_rate=known if takes_rate else None,
            spec=self.spec if spec is None else spec,
            query_seq_lengths=query_seq_lengths,
            key_value_seq_lengths=key_value_seq_lengths,
            segment_ids=segment_ids,
        )
        from_cache = self.decode and knows_places(self.attention_fn)
        layer = with_attributes(
            self,
            attention_fn=self._from_cache(attention_fn) if from_cache else attention_fn,
            dropout_rate=stand_in(known),
            deterministic=own,
            decode=self.decode and not from_cache,
        )
        return FLAX_ATTENTION(layer, *args, deterministic=deterministic, **kwargs)

    def _from_cache(self, attention_fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """An `attention_fn` that takes all keys and values so far, of which Flax's variables keep
        the new ones. The first call, without a cache, makes one of the length of its inputs.
        """

        @functools.wraps(attention_fn)
        def attend(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
            is_made = self.has_variable("cache", "cached_key")
            variables = (
                self.variable("cache", "cached_key", jnp.zeros, key.shape, key.dtype),
                self.variable("cache", "cached_value", jnp.zeros, value.shape, value.dtype),
                self.variable("cache", "cache_index", lambda: jnp.array(0, jnp.int32)),
            )
            if not is_made:
                return attention_fn(query, key, value, **options)
            place = variables[-1].value
            cache, query = Cache(*(variable.value for variable in variables)).extended(
                type(self).__name__, query, key, value
            )
            for variable, changed in zip(variables, cache, strict=True):
                variable.value = changed
            options |= {"is_causal": True, "query_offset": place}
            return attention_fn(query, cache.key, cache.value, **options)

        return attend


# Without Flax's wrapper around methods, which has entered the module already: entered twice, its
# output would be captured twice.
FLAX_ATTENTION = inspect.unwrap(nn.MultiHeadDotProductAttention.__call__)


class MultiHeadAttention(MultiHeadDotProductAttention):
    """`MultiHeadDotProductAttention` under its shorter name, as in Flax."""
