"""Layers that end a residual branch. See `jaxdrop.functional.residuals`."""

from __future__ import annotations

import jax.numpy as jnp
from jax.nn.initializers import Initializer, ones, zeros
from jax.typing import DTypeLike

from jaxdrop.functional import residuals
from jaxdrop.layers._variant import Variant

__all__ = ["BiasDropoutAdd", "DropoutAddLayerNorm"]


class BiasDropoutAdd(Variant, function=residuals.bias_dropout_add):
    """`jaxdrop.bias_dropout_add` as a layer, with the bias as its parameter, `bias`."""

    call = "`residual + dropout(inputs + bias)`."
    rate: float
    use_bias: bool = True
    bias_init: Initializer = zeros
    param_dtype: DTypeLike = jnp.float32


class DropoutAddLayerNorm(Variant, function=residuals.dropout_add_layer_norm):
    """`jaxdrop.dropout_add_layer_norm` as a layer, with the parameters `scale` and `bias` of Flax's
    `LayerNorm`.

    Args:
      epsilon: is added to the variance, any finite number from 0 on.
      prenorm: whether the sum in front of the normalization is returned too.
    """

    call = "`LayerNorm(dropout(row_scale inputs) + residual)`, and with `prenorm` the sum too."
    rate: float
    epsilon: float = 1e-5
    prenorm: bool = False
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    param_dtype: DTypeLike = jnp.float32
