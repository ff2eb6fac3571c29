"""Attention with dropout in Flax's modules. See `jaxdrop.functional.attention`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import attention


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
    qk_attn_weights_einsum: Callable[..., jax.Array] | None = None,
    attn_weights_value_einsum: Callable[..., jax.Array] | None = None,
    is_causal: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """`jaxdrop.dot_product_attention` with the arguments of `flax.linen.dot_product_attention`, for its `attention_fn`.

    The same outputs in evaluation, and with a threefry key the same masks, in memory that grows with the length and not with its
    square. The softmax is in float32. A query that may see no key gets 0, where Flax averages all values.

    Args:
      query: `(batch..., queries, heads, depth)`.
      key: the keys of attention, `(batch..., keys, heads, depth)`.
      value: of the shape of `key`, but for the depth.
      bias: is added to the logits.
      mask: True, or not 0, where a query may see a key.
      broadcast_dropout: whether one mask is shared over batch and heads: True by default, as in Flax.
      dropout_rng: a key; only with dropout.
      dropout_rate: the probability of dropping a weight.
      deterministic: if True, nothing is dropped.
      dtype: of the computation; of the inputs by default.
      precision: of the matrix products.
      module: the module that is to sow the weights. There has to be an array of them, and Flax's own function is called.
      qk_attn_weights_einsum: with it too Flax's own function is called.
      attn_weights_value_einsum: likewise.
      is_causal: whether a query sees only the keys up to its own place. Flax's modules do not pass it: a function that does, or
        `functools.partial(dot_product_attention, is_causal=True)`, is their `attention_fn`.
      spec: as in `jaxdrop.dot_product_attention`, inside `shard_map` and `pmap`.

    Returns:
      `(batch..., length, heads, depth)`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dot_product_attention`.
    """
    options: dict[str, Any] = {
        "bias": bias,
        "mask": mask,
        "broadcast_dropout": broadcast_dropout,
        "dropout_rng": dropout_rng,
        "dropout_rate": dropout_rate,
        "deterministic": deterministic,
        "dtype": dtype,
        "precision": precision,
    }
    if module is not None or qk_attn_weights_einsum is not None or attn_weights_value_einsum is not None:
        attention.no_weights(spec)
        if is_causal:
            causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
            options["mask"] = nn.combine_masks(mask, jnp.expand_dims(causal, range(query.ndim - 2)))
        einsums = {"qk_attn_weights_einsum": qk_attn_weights_einsum, "attn_weights_value_einsum": attn_weights_value_einsum}
        return nn.dot_product_attention(query, key, value, module=module, **einsums, **options)
    return attention.for_flax(query, key, value, is_causal=is_causal, spec=spec, **options)


@dataclasses.dataclass(frozen=True)
class _Local:
    """A function of attention on one device's part of the arrays. (Unlike partial functions, two of the same are equal.)"""

    attention_fn: Callable[..., jax.Array]
    spec: PartitionSpec

    def __call__(self, *operands: jax.Array, **options: Any) -> jax.Array:
        return self.attention_fn(*operands, **options, spec=self.spec)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.attention_fn)  # Flax passes what is named there, and nothing else


class MultiHeadDotProductAttention(nn.MultiHeadDotProductAttention):
    """`flax.linen.MultiHeadDotProductAttention` in memory that grows with the length and not with its square.

    Its attributes and parameters are Flax's, with two other defaults: `attention_fn` is `jaxdrop.linen.dot_product_attention`,
    and `broadcast_dropout` is False, so that each example and head has a mask of its own. `dropout_rate` is a number, for Flax
    looks at it; a traced rate goes in by an `attention_fn` that holds it. `spec` is that of `jaxdrop.dot_product_attention`: how
    the axes of the query, `(batch..., length, heads, depth)`, are divided inside `shard_map` and `pmap`.

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
    """

    broadcast_dropout: bool = False
    attention_fn: Callable[..., jax.Array] = dot_product_attention
    spec: PartitionSpec | None = None

    def __post_init__(self) -> None:
        function = self.attention_fn.attention_fn if isinstance(self.attention_fn, _Local) else self.attention_fn
        self.attention_fn = function if self.spec is None else _Local(function, self.spec)
        super().__post_init__()


class MultiHeadAttention(MultiHeadDotProductAttention):
    """`MultiHeadDotProductAttention` under its shorter name, as in Flax."""
