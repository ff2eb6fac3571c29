"""Layers that learn how much to drop. See `jaxdrop.functional.learned`, also for the loss that
their divergences belong to.

In Linen, a divergence is a method for a parent module to call behind the layer itself, or through
`module.apply(variables, method="kl")`.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop.functional import learned
from jaxdrop.layers._parameters import DENSE
from jaxdrop.layers._variant import Variant

__all__ = [
    "ConcreteDropout",
    "PerFeature",
    "PerWeight",
    "SparseVariationalDense",
    "VariationalDense",
    "VariationalDropout",
]

PerFeature: TypeAlias = Literal["feature", "layer"]
PerWeight: TypeAlias = Literal["weight", "feature", "layer"]


_STARTS = MappingProxyType({"rate": lambda rate, _: learned.starting_logit(rate)})


class ConcreteDropout(Variant, function=learned.concrete_dropout):
    """`jaxdrop.concrete_dropout` as a layer, whose parameter `logit` is that of the rate.

    `kl(kernel)` is the divergence of the layer that follows, for the loss.

    Args:
      rate: the rate to start from, a number in (0, 1).
      temperature: of the relaxed mask, above 0; 2/3 is usual for the spatial form.
      broadcast_dims: axes along which all entries share one mask value; (1, 2) for the spatial
        form.
    """

    learned = "logit"
    call = "An array like `inputs`."
    rate: float = 0.1
    temperature: float = 0.1
    broadcast_dims: Sequence[int] = ()
    checks = _STARTS

    def learned_rate(self) -> jax.Array:
        """The rate that the parameter stands for."""
        return jax.nn.sigmoid(self._parameter("logit"))

    def kl(self, kernel: jax.Array, *, lengthscale: float = 1e-2) -> jax.Array:
        """`jaxdrop.concrete_kl`, in nats, of the kernel that is multiplied by this module's
        output.
        """
        return learned.concrete_kl(self._parameter("logit"), kernel, lengthscale=lengthscale)


class VariationalDropout(Variant, function=learned.variational_dropout):
    """`jaxdrop.variational_dropout` as a layer, whose parameter is `log_alpha`: noise on the inputs
    (type A). `kl()` is its divergence, for the loss.

    Args:
      features: the length of the input's last axis.
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each `'feature'` or the `'layer'` has an alpha.
    """

    learned = "log_alpha"
    call = "An array like `inputs`."
    features: int
    rate: float = 0.1
    per: PerFeature = "feature"
    checks = _STARTS

    def _check_operands(self, *operands: Any) -> Sequence[Any]:
        """Checks that the inputs have as many features as the layer."""
        (inputs,) = operands
        return (_checks.check_features(inputs, type(self).__name__, self.features),)

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the features."""
        log_alpha = jnp.broadcast_to(self._parameter("log_alpha"), (self.features,))
        return learned.variational_kl(log_alpha).sum()


class VariationalDense(Variant, function=learned.variational_dense):
    """`jaxdrop.variational_dense` and a bias, as a layer with the parameter `log_alpha`: noise on
    the weights (type B). `kl()` is its divergence, for the loss.

    Parameters are cast to the dtype of the input.

    Args:
      rate: that of the dropout with as much noise, to start from: a number in (0, 1).
      per: whether each `'weight'`, each input `'feature'` or the `'layer'` has an alpha.
    """

    learned = "log_alpha"
    call = DENSE
    rate: float = 0.1
    per: PerWeight = "weight"
    checks = _STARTS

    def kl(self) -> jax.Array:
        """`jaxdrop.variational_kl`, in nats, summed over the weights."""
        shape = self._parameter("kernel").shape
        return learned.variational_kl(jnp.broadcast_to(self._parameter("log_alpha"), shape)).sum()


class SparseVariationalDense(Variant, function=learned.sparse_variational_dense):
    """`jaxdrop.sparse_variational_dense` and a bias, as a layer with the parameter `log_sigma2`,
    the log variance of each weight. `kl()` is its divergence, for the loss.

    Parameters are cast to the dtype of the input.

    Args:
      log_sigma2: log variance of the weights to start from, a finite number.
      threshold: of log alpha, from which on a weight is pruned in evaluation.
    """

    learned = "log_sigma2"
    call = DENSE
    amount = "log_sigma2"
    log_sigma2: float = -10.0
    threshold: float = 3.0
    checks = MappingProxyType({"log_sigma2": lambda value, _: learned.starting_log_variance(value)})

    def log_alpha(self) -> jax.Array:
        """How noisy each weight is, in [-8, 8]."""
        return learned.sparse_log_alpha(self._parameter("kernel"), self._parameter("log_sigma2"))

    def kl(self) -> jax.Array:
        """`jaxdrop.sparse_kl`, in nats, summed over the weights."""
        return learned.sparse_kl(self.log_alpha()).sum()

    def sparsity(self) -> jax.Array:
        """The fraction of the weights that evaluation prunes."""
        return (self.log_alpha() >= self.threshold).mean()
