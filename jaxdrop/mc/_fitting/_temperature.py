"""Temperature scaling: a classifier's probabilities are fitted to held-out labels."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _labels, _reduction
from jaxdrop.mc._fitting._minimum import minimum
from jaxdrop.mc._reduction import masked, reduction

_RANGE = 100.0
# Takes the place of a logit of -inf, whose product with a slope of 0 would be NaN. Its product with
# the inverse temperature is still finite.
_RULED_OUT = -1e30


@cites("guo2017calibration", "rahaman2021uncertainty")
class FittedTemperature(NamedTuple):
    """The temperature that makes held-out labels most likely."""

    temperature: jax.Array
    """The divisor of the logits: above 1 if the classifier is too certain."""
    nll: jax.Array
    """The mean negative log-likelihood of the held-out labels at this temperature, in nats."""


@cites(FittedTemperature)
@_checks.hinted
def fit_temperature(
    labels: _inputs.ArrayLike,
    logits: _inputs.ArrayLike,
    *,
    pooled: bool = False,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> FittedTemperature:
    """The temperature T, by which logits are divided, that minimizes the negative log-likelihood of
    held-out labels.

    With samples, the logits of each sample are divided, and the likelihood is that of the
    predictive mean, `-log 1/S sum_s softmax(logits_s / T)[y]`:

        fitted = mc.fit_temperature(held_out_labels, held_out_logits)
        summary = mc.classification(logits=logits / fitted.temperature)

    If `pooled`, the logarithm of the mean is divided, `-log softmax(log p / T)[y]`: this can
    sharpen a predictive mean that is not certain enough. Then `jax.nn.softmax(summary.log_mean /
    fitted.temperature)` is the prediction.

    T is found in [0.01, 100], by a grid and bisection, in one compilation. If the classifier is
    right on every label, a lower T is always better, and T is near the lower bound. Traceable:
    `jax.vmap` runs over splits or models.

    Args:
      labels: integers in [0, C), any shape (...), not those of training. If `binary`, booleans or
        integers 0 and 1.
      logits: shape (S, ..., C) of samples, or (..., C) of a deterministic model. If `binary`, those
        of the label 1, whose sigmoid is its probability: shape (S, ...) or (...).
      pooled: whether to divide the logarithm of the mean (if `binary`, the log-odds of the mean)
        and not the logits of each sample.
      binary: whether labels have two values, one or several for each example.
      where: booleans, the labels that count, as in `mc.metrics`: `where=labels != 255`.

    Returns:
      A `FittedTemperature`, of two numbers. Under `jit` they are NaN where a ValueError would be
      raised outside.

    Raises:
      TypeError: labels are not integers, or logits not floating numbers.
      ValueError: shapes do not fit, no labels count, one that counts is out of range, or all
        samples give it a probability of 0.

    References:
      Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017,
      arXiv:1706.04599. Rahaman & Thiery, "Uncertainty quantification and deep ensembles", NeurIPS
      2021, arXiv:2007.08792 (pooled or not).
    """
    pooled, binary = _checks.check_flag(pooled, "pooled"), _checks.check_flag(binary, "binary")
    y = _labels.integers("fit_temperature", labels, binary=binary)
    logits = _inputs.floating("fit_temperature", "logits", logits)
    axes = logits.ndim - y.ndim - (not binary)
    if axes not in (0, 1) or not logits.size:
        shape = "(S, ...) or (...)" if binary else "(S, ..., C) or (..., C)"
        raise ValueError(
            f"fit_temperature takes labels of shape (...), and logits of shape {shape} for them, at"
            f" least one, got {y.shape} and {logits.shape}. Labels with two values have logits of"
            " the label 1 alone if binary=True."
        )
    if not axes:
        logits = logits[None]
    _labels.fit("fit_temperature", y, logits.shape[1:], name="logits", binary=binary)
    selected = _inputs.selection(where, y.shape)
    y = _labels.within(y, 2 if binary else logits.shape[-1], selected, of="logits")
    fitted = _fit_temperature(y, logits, selected, pooled=pooled, binary=binary)
    if not _inputs.holds(np.isfinite, fitted.nll):
        raise ValueError(
            "logits give a label a probability of 0 at every temperature, or are NaN or infinite"
        )
    return fitted


@reduction("fit_temperature")
def _fit_temperature(
    labels: jax.Array, logits: jax.Array, where: jax.Array | None, *, pooled: bool, binary: bool
) -> FittedTemperature:
    if binary:  # two classes with the logits 0 and that of the label 1, less their maximum
        logits = jnp.stack([jnp.minimum(-logits, 0), jnp.minimum(logits, 0)], axis=-1)
    labels, inside = _labels.valid(labels, logits.shape[-1])
    logits = masked(None if where is None else where[None, ..., None], logits)
    if pooled:
        logits = _log_mean(jax.nn.log_softmax(logits))[None]

    def loss(log_temperature: jax.Array, logits: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(logits * jnp.exp(-log_temperature))
        picked = _log_mean(jnp.take_along_axis(log_probs, labels[None, ..., None])[..., 0])
        return -_reduction.mean(picked, where)

    finite = jnp.where(jnp.isneginf(logits), _RULED_OUT, logits)
    most = jnp.asarray(np.log(_RANGE), logits.dtype)
    best = minimum(lambda log_temperature: loss(log_temperature, finite), -most, most)
    least = loss(best, logits)
    known = masked(where, inside, fill=True).all() & jnp.isfinite(least)
    return FittedTemperature(
        jnp.where(known, jnp.exp(best), jnp.nan), jnp.where(known, least, jnp.nan)
    )


def _log_mean(log_probs: jax.Array) -> jax.Array:
    return logsumexp(log_probs, axis=0) - np.log(log_probs.shape[0]).astype(log_probs.dtype)
