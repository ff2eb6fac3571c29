"""Modules that learn how much to drop. See `jaxdrop.functional.learned`, also for the loss that
their divergences belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.sharding import PartitionSpec

from jaxdrop import _checks
from jaxdrop.functional import learned
from jaxdrop.nnx._base import RngSource, Stochastic
from jaxdrop.nnx._dense import BIAS_INIT, KERNEL_INIT, Dense


class ConcreteDropout(Stochastic):
    """`jaxdrop.concrete_dropout` as an NNX module, whose parameter is the logit of the rate.

    `kl(kernel)` is the divergence of the layer that follows, for the loss.

    Args:
      rate: the rate to start from, a number in (0, 1).
      temperature: of the relaxed mask; 2/3 is usual for the spatial form.
      broadcast_dims: axes along which all entries share one mask value; (1, 2) for the spatial
        form.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.concrete_dropout`.
    """

    _has_rate = False
    _draws_nothing_at = ()

    def __init__(
        self,
        rate: float = 0.1,
        *,
        temperature: float = 0.1,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.logit = nnx.Param(jnp.asarray(learned.starting_logit(rate)))
        self.temperature = temperature
        self.broadcast_dims = _checks.axis_numbers(broadcast_dims)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """An array like `inputs`. Further arguments as in `jaxdrop.nnx.Dropout`."""
        off, key, value, spec = self._settle(deterministic, rngs, self.logit[...], spec)
        return learned.concrete_dropout(
            key,
            inputs,
            value,
            temperature=self.temperature,
            broadcast_dims=self.broadcast_dims,
            deterministic=off,
            spec=spec,
        )

    def learned_rate(self) -> jax.Array:
        """The rate that the parameter stands for."""
        return jax.nn.sigmoid(self.logit[...])

    def kl(self, kernel: jax.Array, *, lengthscale: float = 1e-2) -> jax.Array:
        """`jaxdrop.concrete_kl`, in nats, of the kernel that is multiplied by this module's
        output.
        """
        return learned.concrete_kl(self.logit[...], kernel, lengthscale=lengthscale)


class VariationalDropout(Stochastic):
    """`jaxdrop.variational_dropout` as an NNX module, whose parameter is log alpha: noise on the
    inputs (type A).

    Args:
      features: the length of the input's last axis.
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each "feature" or the "layer" has an alpha.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.variational_dropout`.
    """

    _has_rate = False
    _draws_nothing_at = ()

    def __init__(
        self,
        features: int,
        rate: float = 0.1,
        *,
        per: Literal["feature", "layer"] = "feature",
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        _checks.check_one_of(per, "per", Literal["feature", "layer"])
        self.features = features = _checks.check_count(features, "features", most=_checks.LONGEST)
        self.log_alpha = nnx.Param(
            jnp.full((features,) if per == "feature" else (), learned.starting_logit(rate))
        )

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """An array like `inputs`. Further arguments as in `jaxdrop.nnx.Dropout`."""
        inputs = _checks.check_features(inputs, type(self).__name__, self.features)
        off, key, log_alpha, spec = self._settle(deterministic, rngs, self.log_alpha[...], spec)
        return learned.variational_dropout(key, inputs, log_alpha, deterministic=off, spec=spec)

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the features."""
        return learned.variational_kl(jnp.broadcast_to(self.log_alpha[...], (self.features,))).sum()


class VariationalDense(Dense):
    """`jaxdrop.variational_dense` and a bias, as an NNX module with the parameter log alpha: noise
    on the weights (type B).

    Parameters are cast to the dtype of the input.

    Args:
      in_features: the length of the input's last axis.
      out_features: that of the output's.
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each "weight", each input "feature" or the "layer" has an alpha.
      use_bias, param_dtype, kernel_init, bias_init: as in `flax.nnx.Linear`.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.variational_dense`.
    """

    _has_rate = False
    _draws_nothing_at = ()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rate: float = 0.1,
        *,
        per: Literal["weight", "feature", "layer"] = "weight",
        use_bias: bool = True,
        param_dtype: Dtype = jnp.float32,
        kernel_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = BIAS_INIT,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            None,
            use_bias=use_bias,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            spec=spec,
        )
        _checks.check_one_of(per, "per", Literal["weight", "feature", "layer"])
        shape = {"weight": (in_features, out_features), "feature": (in_features, 1), "layer": ()}[
            per
        ]
        self.log_alpha = nnx.Param(jnp.full(shape, learned.starting_logit(rate), param_dtype))

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in_features) to (..., out_features). Further arguments as in
        `jaxdrop.nnx.Dropout`.
        """
        inputs = self._checked(inputs)
        off, key, log_alpha, spec = self._settle(deterministic, rngs, self.log_alpha[...], spec)
        outputs = learned.variational_dense(
            key, inputs, self._weights(inputs), log_alpha, deterministic=off, spec=spec
        )
        return self._shifted(outputs)

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the weights."""
        return learned.variational_kl(
            jnp.broadcast_to(self.log_alpha[...], self.kernel.shape)
        ).sum()


class SparseVariationalDense(Dense):
    """`jaxdrop.sparse_variational_dense` and a bias, as an NNX module with the log variance of each
    weight as a parameter.

    Parameters are cast to the dtype of the input.

    Args:
      in_features: the length of the input's last axis.
      out_features: that of the output's.
      log_sigma2: log variance of the weights to start from.
      threshold: of log alpha, from which on a weight is pruned in evaluation.
      use_bias, param_dtype, kernel_init, bias_init: as in `flax.nnx.Linear`.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.sparse_variational_dense`.
    """

    _has_rate = False
    _draws_nothing_at = ()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        log_sigma2: float = -10.0,
        *,
        threshold: float = 3.0,
        use_bias: bool = True,
        param_dtype: Dtype = jnp.float32,
        kernel_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = BIAS_INIT,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            None,
            use_bias=use_bias,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            spec=spec,
        )
        start = learned.starting_log_variance(log_sigma2)
        self.log_sigma2 = nnx.Param(jnp.full((in_features, out_features), start, param_dtype))
        self.threshold = threshold

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in_features) to (..., out_features). Further arguments as in
        `jaxdrop.nnx.Dropout`.
        """
        inputs = self._checked(inputs)
        off, key, log_sigma2, spec = self._settle(deterministic, rngs, self.log_sigma2[...], spec)
        outputs = learned.sparse_variational_dense(
            key,
            inputs,
            self._weights(inputs),
            log_sigma2,
            threshold=self.threshold,
            deterministic=off,
            spec=spec,
        )
        return self._shifted(outputs)

    def log_alpha(self) -> jax.Array:
        """How noisy each weight is, in [-8, 8]."""
        return learned.sparse_log_alpha(self.kernel[...], self.log_sigma2[...])

    def kl(self) -> jax.Array:
        """`jaxdrop.sparse_kl`, in nats, summed over the weights."""
        return learned.sparse_kl(self.log_alpha()).sum()

    def sparsity(self) -> jax.Array:
        """The fraction of the weights that evaluation prunes."""
        return (self.log_alpha() >= self.threshold).mean()
