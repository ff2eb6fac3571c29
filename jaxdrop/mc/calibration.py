"""Making a classifier's probabilities match how often it is right, on held-out data."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel
from jaxdrop.mc import _inputs
from jaxdrop.mc._minimum import minimum

_RANGE = 100.0
# Stands for a logit of -inf, whose product with a slope would be NaN; times the range it is still a float.
_RULED_OUT = -1e30


class FittedTemperature(NamedTuple):
    """The temperature that makes held-out labels most likely."""

    temperature: jax.Array
    """What logits are divided by: above 1 where the classifier is too sure."""
    nll: jax.Array
    """The mean negative log-likelihood of the held-out labels at this temperature, in nats."""


def fit_temperature(labels: _inputs.ArrayLike, logits: _inputs.ArrayLike, *, pooled: bool = False) -> FittedTemperature:
    """The T that minimizes the negative log-likelihood of held-out labels, where logits are divided by T.

    With samples, each one's logits are divided and the predictive mean is judged, `-log 1/S sum_s softmax(logits_s / T)[y]`:

        fitted = mc.fit_temperature(held_out_labels, held_out_logits)
        summary = mc.classification(logits=logits / fitted.temperature)

    If `pooled`, the mean is formed first, and its logarithm divided: `-log softmax(log p / T)[y]`, which sharpens a mean that
    is not sure enough by itself. Then `jax.nn.softmax(summary.log_mean / fitted.temperature)` is the prediction.

    T is sought in [0.01, 100], by a grid and bisection, in one compilation. Where every label is right with certainty, less is
    always better, and T is near the lower bound. Traceable: `jax.vmap` runs over splits or models.

    Args:
      labels: integers in [0, C), any shape (...), not those of training.
      logits: shape (S, ..., C) of samples, or (..., C) of a deterministic model.
      pooled: divide the logarithm of the mean, not the logits of each sample.

    Returns:
      A `FittedTemperature`, of two numbers.

    Raises:
      TypeError: labels are not integers, or logits not floating numbers.
      ValueError: shapes do not fit, there are no labels, one is out of range, or all samples give it a probability of 0.

    References:
      Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599. Rahaman & Thiery,
      "Uncertainty quantification and deep ensembles", NeurIPS 2021, arXiv:2007.08792 (pooled or not).
    """
    labels, logits = _inputs.integers("fit_temperature", labels), _inputs.floating("fit_temperature", "logits", logits)
    if logits.ndim == labels.ndim + 1:
        logits = logits[None]
    if logits.ndim != labels.ndim + 2 or not logits.size:
        raise ValueError(
            "fit_temperature takes labels of shape (...), and logits of shape (S, ..., C) or (..., C) for them, at least one, got"
            f" {labels.shape} and {logits.shape}"
        )
    labels = _inputs.labels("fit_temperature", labels, logits.shape[1:-1], logits.shape[-1])
    fitted = _fit_temperature(labels, logits, pooled=_arguments.is_true(pooled))
    if not _inputs.holds(np.isfinite, fitted.nll):
        raise ValueError(f"logits give a label a probability of 0 at every temperature, or are NaN: the NLL is {fitted.nll}")
    return fitted


@kernel("fit_temperature", checkpoint=False)
def _fit_temperature(labels: jax.Array, logits: jax.Array, *, pooled: bool) -> FittedTemperature:
    if pooled:
        logits = _log_mean(jax.nn.log_softmax(logits, axis=-1))[None]

    def loss(log_temperature: jax.Array, logits: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(logits * jnp.exp(-log_temperature), axis=-1)
        return -_log_mean(jnp.take_along_axis(log_probs, labels[None, ..., None], axis=-1)).mean()

    finite = jnp.where(jnp.isneginf(logits), _RULED_OUT, logits)
    most = jnp.asarray(np.log(_RANGE), logits.dtype)
    best = minimum(lambda log_temperature: loss(log_temperature, finite), -most, most)
    return FittedTemperature(jnp.exp(best), loss(best, logits))


def _log_mean(log_probs: jax.Array) -> jax.Array:
    return logsumexp(log_probs, axis=0) - np.log(log_probs.shape[0]).astype(log_probs.dtype)
