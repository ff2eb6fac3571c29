"""Sparse variational dropout: most weights learn to be noise, and are pruned."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._dense import gaussian, operands
from jaxdrop.functional.learned._parameters import Learned, any_shape, variance


def _threshold(threshold: Any, name: str) -> float:
    """The argument as a Python number. Infinity prunes no weight, -infinity all."""
    _checks.check_not_traced(threshold, name)
    infinite = isinstance(threshold, (float, np.floating)) and math.isinf(threshold)
    checked = threshold if infinite else _checks.check_number(threshold, name, least=-math.inf)
    if np.ndim(checked):
        raise TypeError(f"{name} must be one number, got {_checks.quoted(threshold)}")
    return float(checked)


@cites("molchanov2017variational")
@_checks.hinted
@_checks.facts(threshold=_threshold)
def sparse_variational_dense(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    log_sigma2: Learned,
    *,
    threshold: float = 3.0,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Sparse variational dropout: a dense layer with weights `N(w, sigma^2)`, all independent. Most
    weights learn to be noise, and can be pruned.

    Training draws pre-activations, as `variational_dense` does, with `alpha = sigma^2 / w^2` from
    `sparse_log_alpha`. Evaluation uses the mean weights, and sets to 0 those with `log alpha >=
    threshold`. For the loss see `sparse_kl`, once for each weight; the authors leave it out for 5
    epochs and let it grow to its full weight by the 20th.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating.
      w: shape (in, out), the mean weights.
      log_sigma2: log variance of the weights: a number, a scalar array, or an array that broadcasts
        to `w`. It gets its gradient. The authors start at -10.
      threshold: evaluation prunes the weights whose log alpha is at least this. A log alpha of 3 is
        that of a dropout rate of 0.95.
      deterministic: if True, `x w` is returned, with 0 in place of the pruned weights.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        output.

    Returns:
      Shape (..., out).

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `log_sigma2` for
        `rate`; ValueError also if the shapes do not fit.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    x, w = operands("sparse_variational_dense", x, w, real=True)
    log_sigma2 = _checks.check_parameter(log_sigma2, "log_sigma2", w.shape)
    threshold = _threshold(threshold, "threshold")
    spec = _checks.check_spec(spec, x.ndim)
    if _checks.check_flag(deterministic, "deterministic"):
        return x @ jnp.where(sparse_log_alpha(w, log_sigma2) < threshold, w, jnp.zeros_like(w))
    return _sparse_variational_dense(
        _checks.consume_key(key, "sparse_variational_dense"), x, w, log_sigma2, spec=spec
    )


@kernel("sparse_variational_dense")
def _sparse_variational_dense(
    key: jax.Array, x: jax.Array, w: jax.Array, log_sigma2: jax.Array, *, spec: PartitionSpec | None
) -> jax.Array:
    return gaussian(key, x, w, variance(w, sparse_log_alpha(w, log_sigma2)), spec)


@cites("molchanov2017variational")
@_checks.hinted
def sparse_log_alpha(w: jax.Array, log_sigma2: Learned) -> jax.Array:
    """`log sigma^2 - log(w^2 + 1e-8)`, clipped to [-8, 8]: how noisy each weight of
    `sparse_variational_dense` is.

    Args:
      w: the mean weights, any shape, floating.
      log_sigma2: log variance of the weights: a number, a scalar array, or an array that broadcasts
        to `w`.

    Returns:
      log alpha, of the shape of `w`, in float32 at least. Clipped entries have no gradient.

    Raises:
      TypeError: `w` is not floating, or `log_sigma2` not a real number.
      ValueError: `log_sigma2` does not fit `w`.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    w = _checks.check_real(w, "sparse_log_alpha", "w")
    kind = _numerics.compute_dtype(w.dtype)
    log_sigma2 = _numerics.expand(
        jnp.asarray(_checks.check_parameter(log_sigma2, "log_sigma2", w.shape), kind), w.ndim
    )
    return jnp.clip(log_sigma2 - jnp.log(w.astype(kind) ** 2 + 1e-8), -8, 8)


@cites("molchanov2017variational")
@_checks.hinted
def sparse_kl(log_alpha: Learned) -> jax.Array:
    """KL(N(w, alpha w^2) || log-uniform), for each entry: `k1 - k1 sigmoid(k2 + k3 log alpha) +
    log(1 + 1 / alpha) / 2`.

    Right to 0.0094 nats for every alpha; 0 at infinite alpha. The last term is computed as
    `softplus(-log alpha) / 2`, which stays finite if `1 / alpha` overflows.

    Args:
      log_alpha: any shape; usually the result of `sparse_log_alpha`.

    Raises:
      TypeError, ValueError: `log_alpha` is not a finite number, nor an array of floating numbers.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    log_alpha = any_shape(log_alpha)
    return (
        0.63576 * jax.nn.sigmoid(-(1.87320 + 1.48695 * log_alpha)) + jax.nn.softplus(-log_alpha) / 2
    )
