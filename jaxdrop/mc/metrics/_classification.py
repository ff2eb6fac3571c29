"""How likely a classifier holds what is true."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.mc import _inputs, _labels, _reduction
from jaxdrop.mc._labels import Predictions
from jaxdrop.mc._reduction import keep, reduction


def nll(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike | None = None,
    *,
    log_probs: _inputs.ArrayLike | None = None,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The negative log-likelihood `mean_n -log p_n[y_n]`, in nats.

    If `binary`, `mean_n -y_n log p_n - (1 - y_n) log(1 - p_n)`: the cross-entropy of each label with
    two values, and over several labels an example their mean.

    Args:
      labels: integers in [0, C), shape (...). If `binary`, booleans or integers 0 and 1.
      probs: predictive probabilities, such as `Classification.mean`, shape (..., C). If `binary`,
        those of the label 1, of the shape of the labels.
      log_probs: in their place, their logarithms, such as `Classification.log_mean`: right also
        where a probability is too small for a float.
      binary: labels with two values; several of one example along the last axis.
      where: booleans, the labels that count, as in `mc.metrics`.

    Returns:
      A number; infinite if a label has probability 0.

    Raises:
      TypeError: labels are not integers, or both or neither of `probs` and `log_probs` are given.
      ValueError: shapes do not fit, a label that counts is out of range, or its probabilities do
        not sum to 1 (if `binary`: do not lie in [0, 1]).
    """
    if (probs is None) == (log_probs is None):
        raise TypeError(f"nll takes either probs or log_probs=..., got {'neither' if probs is None else 'both'}")
    binary = _inputs.flag("binary", binary)
    if probs is not None:
        return _nll(predictions("nll", labels, probs, binary, where), binary=binary, logs=False)
    assert log_probs is not None
    checked = _labels.predictions("nll", labels, log_probs, name="log_probs", binary=binary, where=where)
    if not _inputs.holds(lambda x: _plausible(np.exp(x), binary), checked.given, checked.where):
        raise ValueError(f"log_probs must be the logarithms of probabilities {_rule(binary)}")
    return _nll(checked, binary=binary, logs=True)


@reduction("nll")
def _nll(judged: Predictions, *, binary: bool, logs: bool) -> jax.Array:
    if binary:
        labels, given = ready(judged, binary, np.log(0.5) if logs else 0.5, logs)
        # 1 - p keeps its digits as 1 - exp(log p) where p is close to 1, and as -p where it is small.
        other = jnp.log(-jnp.expm1(given)) if logs else jnp.log1p(-given)
        picked = jnp.where(labels == 1, given if logs else jnp.log(given), other)
        return -_reduction.mean(picked, judged.where)
    num_classes = judged.given.shape[-1]
    labels, given = ready(judged, binary, -np.log(num_classes) if logs else 1 / num_classes, logs)
    picked = jnp.take_along_axis(given, labels[..., None], axis=-1)[..., 0]
    return -_reduction.mean(picked if logs else jnp.log(picked), judged.where)


def brier(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The Brier score `mean_n sum_c (p_nc - 1[y_n = c])^2`, in [0, 2].

    It is summed over the classes. If `binary`, it is `mean_n (p_n - y_n)^2`, in [0, 1], as most have
    it for two classes: half of what the two probabilities score.

    Args and Raises are those of `nll`.

    References:
      Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review
      78(1), 1950.
    """
    binary = _inputs.flag("binary", binary)
    return _brier(predictions("brier", labels, probs, binary, where), binary=binary)


@reduction("brier")
def _brier(judged: Predictions, *, binary: bool) -> jax.Array:
    labels, probs = ready(judged, binary)
    if binary:
        return _reduction.mean((probs - labels.astype(probs.dtype)) ** 2, judged.where)
    truth = jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype)
    return _reduction.mean(((probs - truth) ** 2).sum(-1), judged.where)


def accuracy(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The share of predictions that are right, `mean_n 1[argmax_c p_nc = y_n]`, the first one of equals.

    If `binary`, the share of labels with `p_n > 1/2` where they are 1, and `p_n <= 1/2` where 0.

    Args and Raises are those of `nll`.
    """
    binary = _inputs.flag("binary", binary)
    return _accuracy(predictions("accuracy", labels, probs, binary, where), binary=binary)


@reduction("accuracy")
def _accuracy(judged: Predictions, *, binary: bool) -> jax.Array:
    labels, probs = ready(judged, binary)
    predicted = (probs > 0.5).astype(labels.dtype) if binary else probs.argmax(-1).astype(labels.dtype)
    right = (predicted == labels).astype(probs.dtype)
    unknown = jnp.isnan(probs if binary else probs[..., 0])
    return _reduction.mean(jnp.where(unknown, jnp.nan, right), judged.where)


def predictions(
    caller: str,
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    binary: bool,
    where: _inputs.ArrayLike | None,
) -> Predictions:
    """Checked labels and probabilities."""
    checked = _labels.predictions(caller, labels, probs, binary=binary, where=where)
    if not binary:
        _inputs.probabilities("probs", checked.given, checked.where)
    elif not _inputs.holds(lambda x: _plausible(x, binary), checked.given, checked.where):
        raise ValueError(
            f"probs must lie in [0, 1] if binary, got {_inputs.range_of(checked.given)}. Are they logits? Probabilities are"
            " their sigmoid, jax.nn.sigmoid(logits)."
        )
    return checked


def ready(judged: Predictions, binary: bool, fill: float = 0.5, logs: bool = False) -> tuple[jax.Array, jax.Array]:
    """Labels in range, and what was predicted: NaN where either is impossible, `fill` where it does not count."""
    labels, inside = _labels.valid(judged.labels, 2 if binary else judged.given.shape[-1])
    possible = inside & _plausible(jnp.exp(judged.given) if logs else judged.given, binary)

    def along(x: jax.Array) -> jax.Array:
        return x if binary else x[..., None]

    where = None if judged.where is None else along(judged.where)
    return labels, keep(where, jnp.where(along(possible), judged.given, jnp.nan), fill)


def _plausible(probs: jax.Array | np.ndarray, binary: bool) -> jax.Array | np.ndarray:
    """Whether probabilities are such, of each label."""
    return (probs >= 0) & (probs <= 1) if binary else _inputs.are_probabilities(probs)


def _rule(binary: bool) -> str:
    return "in [0, 1]" if binary else "that must sum to 1 along the last axis"
