"""Modules that end a residual branch. See `jaxdrop.functional.residuals`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import residuals
from jaxdrop.nnx._base import RngSource, Stochastic, check_init
from jaxdrop.nnx._dense import BIAS_INIT

SCALE_INIT = nnx.initializers.ones_init()


class BiasDropoutAdd(Stochastic):
    """`jaxdrop.bias_dropout_add` as an NNX module, with the bias as its parameter, `bias`.

    Args:
      num_features: the length of the bias.
      rate: the probability of dropping, a number in [0, 1].
      bias_init: the initializer of the bias.
      param_dtype: its dtype.
      deterministic, rng_collection, spec: as in `jaxdrop.nnx.Dropout`.
      rngs: for the bias, and the source of the keys.

    Raises:
      TypeError, ValueError: as `jaxdrop.bias_dropout_add`.
    """

    _draws_nothing_at = (0,)

    def __init__(
        self,
        num_features: int,
        rate: float,
        *,
        bias_init: Initializer = BIAS_INIT,
        param_dtype: Dtype = jnp.float32,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        check_init(rngs, param_dtype, bias_init=bias_init)
        num_features = _checks.check_count(num_features, "num_features", most=_checks.LONGEST)
        self.bias = nnx.Param(bias_init(rngs.params(), (num_features,), param_dtype))
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )

    def __call__(
        self,
        inputs: jax.Array,
        residual: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """`residual + dropout(inputs + bias)`. Other args: as `jaxdrop.nnx.Dropout`."""
        inputs = _checks.check_features(inputs, type(self).__name__, self.bias.shape[0])
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return residuals.bias_dropout_add(
            key, inputs, self.bias[...], residual, rate, deterministic=off, spec=spec
        )


class DropoutAddLayerNorm(Stochastic):
    """`jaxdrop.dropout_add_layer_norm` as an NNX module, with the parameters `scale` and `bias` of
    `flax.nnx.LayerNorm`.

    Args:
      num_features: the length of the last axis.
      rate: the probability of dropping, a number in [0, 1].
      epsilon: is added to the variance.
      prenorm: whether the sum in front of the normalization is returned too.
      use_scale, use_bias: whether there are these parameters.
      scale_init, bias_init: their initializers.
      param_dtype: their dtype.
      deterministic, rng_collection, spec: as in `jaxdrop.nnx.Dropout`.
      rngs: for the parameters, and the source of the keys.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout_add_layer_norm`.
    """

    _draws_nothing_at = (0,)

    def __init__(
        self,
        num_features: int,
        rate: float,
        *,
        epsilon: float = 1e-5,
        prenorm: bool = False,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: Initializer = SCALE_INIT,
        bias_init: Initializer = BIAS_INIT,
        param_dtype: Dtype = jnp.float32,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        check_init(rngs, param_dtype, scale_init=scale_init, bias_init=bias_init)
        use_scale, use_bias = (
            _checks.check_flag(use_scale, "use_scale"),
            _checks.check_flag(use_bias, "use_bias"),
        )
        shape = (_checks.check_count(num_features, "num_features", most=_checks.LONGEST),)
        self.scale = (
            nnx.Param(scale_init(rngs.params(), shape, param_dtype))
            if use_scale
            else nnx.data(None)
        )
        self.bias = (
            nnx.Param(bias_init(rngs.params(), shape, param_dtype)) if use_bias else nnx.data(None)
        )
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.epsilon = epsilon
        self.prenorm = prenorm

    def __call__(
        self,
        inputs: jax.Array,
        residual: jax.Array | None = None,
        *,
        row_scale: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """`LayerNorm(dropout(row_scale inputs) + residual)`. Other args: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        scale, bias = (
            None if parameter is None else parameter[...] for parameter in (self.scale, self.bias)
        )
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
