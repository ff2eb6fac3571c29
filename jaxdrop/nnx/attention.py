"""Attention with dropout in Flax's modules. See `jaxdrop.functional.attention`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
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
    module: nnx.Module | None = None,
    is_causal: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """`jaxdrop.dot_product_attention` with the arguments of `flax.nnx.dot_product_attention`, for its `attention_fn`.

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
      is_causal: whether a query sees only the keys up to its own place.
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
    if module is not None:
        attention.no_weights(spec)
        return nnx.dot_product_attention(query, key, value, module=module, is_causal=is_causal, **options)
    return attention.for_flax(query, key, value, is_causal=is_causal, spec=spec, **options)


class MultiHeadAttention(nnx.MultiHeadAttention):
    """`flax.nnx.MultiHeadAttention` in memory that grows with the length and not with its square.

    Its arguments and parameters are Flax's, with two other defaults: `attention_fn` is `jaxdrop.nnx.dot_product_attention`, and
    `broadcast_dropout` is False, so that each example and head has a mask of its own. `spec` is that of
    `jaxdrop.dot_product_attention`: how the axes of the query, `(batch..., length, heads, depth)`, are divided inside `shard_map`
    and `pmap`.

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
    """

    def __init__(
        self,
        *args: Any,
        broadcast_dropout: bool = False,
        attention_fn: Callable[..., jax.Array] = dot_product_attention,
        spec: PartitionSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, broadcast_dropout=broadcast_dropout, attention_fn=attention_fn, **kwargs)
        self.spec = spec

    def __call__(self, *args: Any, rate: masks.Rate | None = None, **kwargs: Any) -> jax.Array:
        """As Flax's layer is called. `rate` takes the place of `dropout_rate`, and may be traced: `schedule(step)`.

        A layer that was made without dropout has kept no `rngs`, and takes them in the call.
        """
        others = {name: given for name, given in (("dropout_rate", rate), ("spec", self.spec)) if given is not None}
        if not others:
            return super().__call__(*args, **kwargs)

        def attention_fn(*operands: jax.Array, module: nnx.Module | None = None, **options: Any) -> jax.Array:
            own = None if module is None else self
            return self.attention_fn(*operands, **options | others, module=own)

        # Flax does not let a layer from outside of a transformation be assigned to, not even a copy.
        layer = copy.copy(self)
        layer.__dict__["attention_fn"] = attention_fn
        if rate is not None:
            # Flax looks at the layer's rate to see whether it needs a key, and cannot look at a traced one.
            layer.__dict__["dropout_rate"] = 0.0 if masks.is_number(masks.check_rate(rate), 0) else 0.5
        return nnx.MultiHeadAttention.__call__(layer, *args, **kwargs)
