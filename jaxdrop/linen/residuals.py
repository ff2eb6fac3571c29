"""Modules that end a residual branch. See `jaxdrop.functional.residuals`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import residuals
from jaxdrop.linen._base import Stochastic


class BiasDropoutAdd(Stochastic):
    """`jaxdrop.bias_dropout_add` as a Linen module, with the bias as its parameter, `bias`.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      use_bias: whether there is a bias.
      bias_init: its initializer.
      param_dtype: its dtype.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.bias_dropout_add`.
    """

    _draws_nothing_at = (0,)

    rate: float
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    param_dtype: Any = jnp.float32
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        residual: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """`residual + dropout(inputs + bias)`. Other args: as `jaxdrop.linen.Dropout`."""
        inputs = _checks.check_features(inputs, type(self).__name__)
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        use_bias = _checks.check_flag(self.use_bias, "use_bias")
        bias = self._param("bias", self.bias_init, inputs.shape[-1:]) if use_bias else None
        return residuals.bias_dropout_add(
            key, inputs, bias, residual, rate, deterministic=off, spec=spec
        )


class DropoutAddLayerNorm(Stochastic):
    """`jaxdrop.dropout_add_layer_norm` as a Linen module, with the parameters `scale` and `bias` of
    `flax.linen.LayerNorm`.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      epsilon: is added to the variance.
      prenorm: whether the sum in front of the normalization is returned too.
      use_scale, use_bias: whether there are these parameters.
      scale_init, bias_init: their initializers.
      param_dtype: their dtype.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout_add_layer_norm`.
    """

    _draws_nothing_at = (0,)

    rate: float
    epsilon: float = 1e-5
    prenorm: bool = False
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    param_dtype: Any = jnp.float32
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        residual: jax.Array | None = None,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        row_scale: jax.Array | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """`LayerNorm(dropout(row_scale inputs) + residual)`. Other args: as
        `jaxdrop.linen.Dropout`.
        """
        inputs = _checks.check_features(inputs, type(self).__name__)
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        shape = inputs.shape[-1:]
        use_scale, use_bias = (
            _checks.check_flag(self.use_scale, "use_scale"),
            _checks.check_flag(self.use_bias, "use_bias"),
        )
        scale = self._param("scale", self.scale_init, shape) if use_scale else None
        bias = self._param("bias", self.bias_init, shape) if use_bias else None
        return residuals.dropout_add_layer_norm(
            key,
            inputs,
            residual,
            scale,
            bias,
            rate,
            row_scale=row_scale,
            epsilon=self.epsilon,
            prenorm=self.prenorm,
            deterministic=off,
            spec=spec,
        )
