"""Modules that learn how much to drop. See `jaxdrop.functional.learned`, also for the loss that
their divergences belong to.

A divergence is a method, for a parent module to call behind the layer itself, or through
`module.apply(variables, method="kl")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax.nn.initializers import constant
from jax.sharding import PartitionSpec

from jaxdrop import _checks
from jaxdrop.functional import learned
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen._dense import BIAS_INIT, KERNEL_INIT, Dense


class ConcreteDropout(Stochastic):
    """`jaxdrop.concrete_dropout` as a Linen module, whose parameter `logit` is that of the rate.

    `kl(kernel)` is the divergence of the layer that follows, for the loss.

    Attributes:
      rate: the rate to start from, a number in (0, 1).
      temperature: of the relaxed mask; 2/3 is usual for the spatial form.
      broadcast_dims: axes along which all entries share one mask value; (1, 2) for the spatial
        form.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.concrete_dropout`.
    """

    _draws_nothing_at = ()

    rate: float = 0.1
    temperature: float = 0.1
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """An array like `inputs`. Further arguments as in `jaxdrop.linen.Dropout`."""
        value = self.param("logit", constant(learned.starting_logit(self.rate)), ())
        off, key, value, spec = self._settle(deterministic, rng, value, spec)
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
        return jax.nn.sigmoid(self.get_variable("params", "logit"))

    def kl(self, kernel: jax.Array, *, lengthscale: float = 1e-2) -> jax.Array:
        """`jaxdrop.concrete_kl`, in nats, of the kernel that is multiplied by this module's
        output.
        """
        return learned.concrete_kl(
            self.get_variable("params", "logit"), kernel, lengthscale=lengthscale
        )


class VariationalDropout(Stochastic):
    """`jaxdrop.variational_dropout` as a Linen module, whose parameter is `log_alpha`: noise on the
    inputs (type A).

    Attributes:
      features: the length of the input's last axis.
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each "feature" or the "layer" has an alpha.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.variational_dropout`.
    """

    _draws_nothing_at = ()

    features: int
    rate: float = 0.1
    per: Literal["feature", "layer"] = "feature"
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """An array like `inputs`. Further arguments as in `jaxdrop.linen.Dropout`."""
        _checks.check_one_of(self.per, "per", Literal["feature", "layer"])
        inputs = _checks.check_features(
            inputs,
            type(self).__name__,
            _checks.check_count(self.features, "features", most=_checks.LONGEST),
        )
        shape = (self.features,) if self.per == "feature" else ()
        log_alpha = self.param("log_alpha", constant(learned.starting_logit(self.rate)), shape)
        off, key, log_alpha, spec = self._settle(deterministic, rng, log_alpha, spec)
        return learned.variational_dropout(key, inputs, log_alpha, deterministic=off, spec=spec)

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the features."""
        return learned.variational_kl(
            jnp.broadcast_to(self.get_variable("params", "log_alpha"), (self.features,))
        ).sum()


class VariationalDense(Dense):
    """`jaxdrop.variational_dense` and a bias, as a Linen module with the parameter `log_alpha`:
    noise on the weights (type B).

    Parameters are cast to the dtype of the input.

    Attributes:
      features: the length of the output's last axis.
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each "weight", each input "feature" or the "layer" has an alpha.
      use_bias, param_dtype, kernel_init, bias_init: as in `flax.linen.Dense`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.variational_dense`.
    """

    _draws_nothing_at = ()

    features: int
    rate: float = 0.1
    per: Literal["weight", "feature", "layer"] = "weight"
    use_bias: bool = True
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = BIAS_INIT
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in) to (..., features). Further arguments as in `jaxdrop.linen.Dropout`."""
        _checks.check_one_of(self.per, "per", Literal["weight", "feature", "layer"])
        inputs = self._checked(inputs)
        kernel = self._kernel(inputs)
        shape = {"weight": kernel.shape, "feature": (kernel.shape[0], 1), "layer": ()}[self.per]
        log_alpha = self.param(
            "log_alpha", constant(learned.starting_logit(self.rate)), shape, self.param_dtype
        )
        off, key, log_alpha, spec = self._settle(deterministic, rng, log_alpha, spec)
        return self._shifted(
            learned.variational_dense(key, inputs, kernel, log_alpha, deterministic=off, spec=spec)
        )

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the weights."""
        kernel, log_alpha = (self.get_variable("params", name) for name in ("kernel", "log_alpha"))
        return learned.variational_kl(jnp.broadcast_to(log_alpha, kernel.shape)).sum()


class SparseVariationalDense(Dense):
    """`jaxdrop.sparse_variational_dense` and a bias, as a Linen module with the parameter
    `log_sigma2`, one for each weight.

    Parameters are cast to the dtype of the input.

    Attributes:
      features: the length of the output's last axis.
      log_sigma2: log variance of the weights to start from.
      threshold: of log alpha, from which on a weight is pruned in evaluation.
      use_bias, param_dtype, kernel_init, bias_init: as in `flax.linen.Dense`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.sparse_variational_dense`.
    """

    _draws_nothing_at = ()

    features: int
    log_sigma2: float = -10.0
    threshold: float = 3.0
    use_bias: bool = True
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = BIAS_INIT
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in) to (..., features). Further arguments as in `jaxdrop.linen.Dropout`."""
        inputs = self._checked(inputs)
        kernel = self._kernel(inputs)
        log_sigma2 = self.param(
            "log_sigma2",
            constant(learned.starting_log_variance(self.log_sigma2)),
            kernel.shape,
            self.param_dtype,
        )
        off, key, log_sigma2, spec = self._settle(deterministic, rng, log_sigma2, spec)
        outputs = learned.sparse_variational_dense(
            key, inputs, kernel, log_sigma2, threshold=self.threshold, deterministic=off, spec=spec
        )
        return self._shifted(outputs)

    def log_alpha(self) -> jax.Array:
        """How noisy each weight is, in [-8, 8]."""
        return learned.sparse_log_alpha(
            *(self.get_variable("params", name) for name in ("kernel", "log_sigma2"))
        )

    def kl(self) -> jax.Array:
        """`jaxdrop.sparse_kl`, in nats, summed over the weights."""
        return learned.sparse_kl(self.log_alpha()).sum()

    def sparsity(self) -> jax.Array:
        """The fraction of the weights that evaluation prunes."""
        return (self.log_alpha() >= self.threshold).mean()
