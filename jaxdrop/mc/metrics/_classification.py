"""Scores of a classifier's probabilities for the true labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _labels, _reduction
from jaxdrop.mc._labels import Predictions
from jaxdrop.mc._reduction import masked, reduction


@_checks.hinted
def nll(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike | None = None,
    *,
    log_probs: _inputs.ArrayLike | None = None,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The negative log-likelihood `mean_n -log p_n[y_n]`, in nats.

    If `binary`, `mean_n -y_n log p_n - (1 - y_n) log(1 - p_n)`: the mean cross-entropy over all
    labels, of which an example may have several.

    Args:
      labels: integers in [0, C), shape (...). If `binary`, booleans or integers 0 and 1.
      probs: predictive probabilities, such as `Classification.mean`, shape (..., C). If `binary`,
        those of the label 1, of the shape of the labels.
      log_probs: the logarithms of the probabilities in place of `probs`, such as
        `Classification.log_mean`: right also if a probability is too small for a float.
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
        raise TypeError(
            f"nll takes either probs or log_probs=..., got {'neither' if probs is None else 'both'}"
        )
    binary = _checks.check_flag(binary, "binary")
    if probs is not None:
        return _nll(predictions("nll", labels, probs, binary, where), binary=binary, logs=False)
    assert log_probs is not None
    return _nll(
        predictions("nll", labels, log_probs, binary, where, logs=True), binary=binary, logs=True
    )


@reduction("nll")
def _nll(judged: Predictions, *, binary: bool, logs: bool) -> jax.Array:
    labels, given = ready(judged, binary, logs)
    if not binary:
        picked = jnp.take_along_axis(given, labels[..., None])[..., 0]
        return -_reduction.mean(picked if logs else jnp.log(picked), judged.where)
    # The probability of the other label may be 0, where the logarithm has no slope.
    half = jnp.asarray(np.log(0.5) if logs else 0.5, given.dtype)
    yes = labels == 1
    own, other = jnp.where(yes, given, half), jnp.where(yes, half, given)
    # Each form of log(1 - p) keeps all digits: one for p close to 1, given as a logarithm, the
    # other for p close to 0.
    no = jnp.log(-jnp.expm1(other)) if logs else jnp.log1p(-other)
    return -_reduction.mean(jnp.where(yes, own if logs else jnp.log(own), no), judged.where)


@cites("brier1950verification")
@_checks.hinted
def brier(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The Brier score `mean_n sum_c (p_nc - 1[y_n = c])^2`, in [0, 2].

    It is summed over the classes. If `binary`, it is `mean_n (p_n - y_n)^2`, in [0, 1], the usual
    form for two classes: half of the score of the two probabilities.

    Args and Raises are those of `nll`.

    References:
      Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review
      78(1), 1950.
    """
    binary = _checks.check_flag(binary, "binary")
    return _brier(predictions("brier", labels, probs, binary, where), binary=binary)


@reduction("brier")
def _brier(judged: Predictions, *, binary: bool) -> jax.Array:
    labels, probs = ready(judged, binary)
    if binary:
        return _reduction.mean((probs - labels.astype(probs.dtype)) ** 2, judged.where)
    truth = jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype)
    return _reduction.mean(((probs - truth) ** 2).sum(-1), judged.where)


@_checks.hinted
def accuracy(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The share of predictions that are right, `mean_n 1[argmax_c p_nc = y_n]`, the first one of
    equals.

    If `binary`, a label of 1 is right with `p_n > 1/2`, and a label of 0 with `p_n <= 1/2`.

    Args and Raises are those of `nll`.
    """
    binary = _checks.check_flag(binary, "binary")
    return _accuracy(predictions("accuracy", labels, probs, binary, where), binary=binary)


@reduction("accuracy")
def _accuracy(judged: Predictions, *, binary: bool) -> jax.Array:
    labels, probs = ready(judged, binary)
    right = ((probs > 0.5).astype(labels.dtype) if binary else predicted(probs)) == labels
    unknown = jnp.isnan(probs if binary else probs[..., 0])
    return _reduction.mean(jnp.where(unknown, jnp.nan, right.astype(probs.dtype)), judged.where)


def predictions(
    caller: str,
    labels: _inputs.ArrayLike,
    given: _inputs.ArrayLike,
    binary: bool,
    where: _inputs.ArrayLike | None,
    logs: bool = False,
) -> Predictions:
    """Checked labels and probabilities, or the logarithms of these."""
    name = "log_probs" if logs else "probs"
    checked = _labels.predictions(caller, labels, given, name=name, binary=binary, where=where)
    if not _inputs.holds(
        lambda x: _plausible(np.exp(x) if logs else x, binary), checked.given, checked.where
    ):
        rule = (
            "lie in [0, 1]" if binary else "not be negative and must sum to 1 along the last axis"
        )
        function = f"{'log_' if logs else ''}{'sigmoid' if binary else 'softmax'}"
        subject = "the exponentials of log_probs" if logs else "probs"
        sums = (
            ""
            if binary or logs
            else f" and their sums {_inputs.range_of(np.asarray(checked.given).sum(-1))}"
        )
        raise ValueError(
            f"{subject} must {rule}, but {name} are {_inputs.range_of(checked.given)}{sums}."
            + _inputs.nan_or_logits(checked.given, f" Pass {name}=jax.nn.{function}(logits).")
        )
    return checked


def ready(judged: Predictions, binary: bool, logs: bool = False) -> tuple[jax.Array, jax.Array]:
    """Labels in range, and predictions: NaN for an impossible label or prediction, one half (or its
    logarithm) for an entry that does not count.
    """
    labels, inside = _labels.valid(judged.labels, 2 if binary else judged.given.shape[-1])
    possible = inside & _plausible(jnp.exp(judged.given) if logs else judged.given, binary)

    def along(x: jax.Array) -> jax.Array:
        return x if binary else x[..., None]

    given = jnp.where(along(possible), judged.given, jnp.nan)
    if binary:  # rounding may leave the range, at whose ends `clip` would halve the slope
        least, most = (-jnp.inf, 0) if logs else (0, 1)
        given = jnp.where(given > most, most, jnp.where(given < least, least, given))
    where = None if judged.where is None else along(judged.where)
    return labels, masked(where, given, np.log(0.5) if logs else 0.5)


def predicted(probs: jax.Array) -> jax.Array:
    """The most probable class, the first one of equals, in the dtype of the labels of `ready`."""
    return lax.argmax(probs, probs.ndim - 1, jnp.int32)


def _plausible(probs: Any, binary: bool) -> Any:
    """Whether probabilities, of NumPy or JAX, are possible, for each label."""
    return (probs >= -1e-5) & (probs <= 1 + 1e-5) if binary else _inputs.are_probabilities(probs)
