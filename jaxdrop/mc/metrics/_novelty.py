"""Detection of unknown inputs by their uncertainty, scored by scikit-learn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, _optional
from jaxdrop.mc import _inputs


@_checks.hinted
def auroc(inside: _inputs.ArrayLike, outside: _inputs.ArrayLike) -> float:
    """The area under the ROC curve: the probability that an input from outside is less certain than
    one from inside.

    An input from outside the distribution is a positive, its uncertainty the score; equal scores
    count a half.

    Args:
      inside: the uncertainty of known inputs, such as `Classification.mutual_information`; any
        shape.
      outside: the uncertainty of unknown inputs; any shape.

    Returns:
      A number in [0, 1]; one half is chance.

    Raises:
      ImportError: scikit-learn is not installed, as it is by `pip install 'jaxdrop[metrics]'`.
      TypeError: under `jit`: this function needs values. Or one array holds booleans, or integers
        where the other has floating numbers: labels and scores, as scikit-learn takes them.
      ValueError: an array is empty or holds NaN.
    """
    metrics, positive, score = _judged("auroc", inside, outside)
    return float(metrics.roc_auc_score(positive, score))


@_checks.hinted
def aupr(inside: _inputs.ArrayLike, outside: _inputs.ArrayLike) -> float:
    """The area under the precision-recall curve of finding inputs from outside, as the average
    precision.

    `sum_k (recall_k - recall_{k-1}) precision_k` over thresholds. (The trapezoid rule would give a
    larger number.) An uncertainty without information scores the share of inputs from outside, so
    the number depends on this share. Args and Raises are those of `auroc`.
    """
    metrics, positive, score = _judged("aupr", inside, outside)
    return float(metrics.average_precision_score(positive, score))


@_checks.hinted
def fpr95(inside: _inputs.ArrayLike, outside: _inputs.ArrayLike) -> float:
    """The share of inputs from inside that are rejected at the first threshold that rejects 95 % of
    those from outside.

    Thresholds are not interpolated. Less is better. Args and Raises are those of `auroc`.
    """
    metrics, positive, score = _judged("fpr95", inside, outside)
    false, true, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def _judged(
    caller: str, inside: _inputs.ArrayLike, outside: _inputs.ArrayLike
) -> tuple[Any, np.ndarray, np.ndarray]:
    """scikit-learn's metrics, which of all inputs are positives, and their scores."""
    metrics = _optional.load("sklearn.metrics", f"mc.metrics.{caller}", "scikit-learn", "metrics")
    scores, kinds = [], []
    for name, x in (("inside", inside), ("outside", outside)):
        if isinstance(x, jax.core.Tracer):
            raise TypeError(
                f"mc.metrics.{caller} needs values, but {name} is traced. Call it outside jax.jit."
            )
        found = _inputs.array(x, f"mc.metrics.{caller}", f"{name} of real numbers")
        if np.issubdtype(found.dtype, np.complexfloating):
            raise TypeError(f"mc.metrics.{caller} takes real {name}, got {found.dtype}")
        kinds.append(found.dtype)
        known = np.asarray(found, np.float64).ravel()
        if not known.size or np.isnan(known).any():
            raise ValueError(
                f"{name} must hold at least one number and no NaN, got shape {found.shape} with"
                f" {np.isnan(known).sum()} NaN. Leave out what does not count, as in"
                f" {name}[~np.isnan({name})]."
            )
        # scikit-learn takes finite scores only. Ranks do, since only the order of the scores
        # counts.
        scores.append(np.clip(known, np.finfo(np.float64).min, np.finfo(np.float64).max))
    floating = {jnp.issubdtype(kind, jnp.floating) for kind in kinds}
    if np.bool_ in kinds or len(floating) > 1:
        raise TypeError(
            f"mc.metrics.{caller} takes the uncertainty of known inputs, and the same of unknown"
            " ones, got what looks like labels and scores. Pass scores[labels == 0] and"
            " scores[labels == 1]."
        )
    return metrics, np.repeat([False, True], [len(x) for x in scores]), np.concatenate(scores)
