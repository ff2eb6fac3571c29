"""Calibration of a classifier: its confidence against its accuracy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _reduction
from jaxdrop.mc._labels import Predictions
from jaxdrop.mc._reduction import reduction
from jaxdrop.mc.metrics._bins import Reliability, equal_mass_bins, equal_width_bins
from jaxdrop.mc.metrics._classification import predicted, predictions, ready


@cites(Reliability)
@_checks.hinted
def reliability(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    equal_mass: bool = False,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> Reliability:
    """Sorts predictions into bins by confidence, to be compared with the accuracy of each bin.

    The confidence is `max_c p_c`, and the predicted class the first one of equals. If `binary`, the
    confidence is the probability of the label 1, and the accuracy is the share of labels that are
    1.

    Bins are `[0, 1/B), [1/B, 2/B), ..., [1 - 1/B, 1]`: a confidence on an edge belongs to the bin
    above, and one of exactly 1 to the last. (Guo et al. have `(lower, upper]`.) With `equal_mass`,
    the predictions in order of confidence are cut into B parts of equal size; if B does not divide
    their number, the first parts are larger by one. Predictions of equal confidence count with
    their mean accuracy, so that the bins do not depend on the order of the data.

    Args:
      labels: integers in [0, C), shape (...). If `binary`, booleans or integers 0 and 1.
      probs: predictive probabilities, shape (..., C). If `binary`, of the shape of the labels.
      num_bins: B, at least 1.
      equal_mass: whether bins have equal sizes, in place of equal widths.
      binary: whether labels have two values. Several labels of one example are along the last axis.
      where: booleans, the labels that count, as in `mc.metrics`.

    Returns:
      A `Reliability`.

    Raises:
      TypeError, ValueError: as `nll`, or `num_bins` is below 1.

    References:
      Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017,
      arXiv:1706.04599.
    """
    binary, equal_mass = (
        _checks.check_flag(binary, "binary"),
        _checks.check_flag(equal_mass, "equal_mass"),
    )
    judged = predictions("reliability", labels, probs, binary, where)
    count = _checks.check_count(num_bins, "num_bins")
    return _reliability(judged, binary=binary, num_bins=count, equal_mass=equal_mass)


@reduction("reliability")
def _reliability(
    judged: Predictions, *, binary: bool, num_bins: int, equal_mass: bool
) -> Reliability:
    labels, probs = ready(judged, binary)
    confidence = probs if binary else probs.max(-1)
    correct = labels == 1 if binary else predicted(probs) == labels
    where = None if judged.where is None else judged.where.ravel()
    sort = equal_mass_bins if equal_mass else equal_width_bins
    return sort(confidence.ravel(), correct.ravel(), where, num_bins)


@cites("naeini2015obtaining", "guo2017calibration")
@_checks.hinted
def ece(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The expected calibration error `sum_b n_b/N |accuracy_b - confidence_b|` over bins of equal
    width.

    Args, bins and Raises are those of `reliability`.

    References:
      Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
      AAAI 2015. Guo et al., 2017, arXiv:1706.04599.
    """
    return _errors("ece", labels, probs, num_bins, binary, where)[0]


@cites("nixon2019measuring")
@_checks.hinted
def adaptive_ece(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """As `ece`, with bins that hold equally many predictions.

    Args, bins and Raises are those of `reliability`.

    References:
      Nixon, Dusenberry, Jerfel, Nguyen, Liu, Zhang & Tran, "Measuring calibration in deep
      learning", 2019, arXiv:1904.01685 (whose adaptive calibration error also averages over
      classes).
    """
    return _errors("adaptive_ece", labels, probs, num_bins, binary, where, equal_mass=True)[0]


@cites("naeini2015obtaining", "guo2017calibration")
@_checks.hinted
def mce(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The maximum calibration error `max_b |accuracy_b - confidence_b|` over bins that are not
    empty.

    Args, bins and Raises are those of `reliability`.

    References:
      Naeini, Cooper & Hauskrecht, 2015. Guo et al., 2017, arXiv:1706.04599.
    """
    return _errors("mce", labels, probs, num_bins, binary, where)[1]


def _errors(
    caller: str,
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    num_bins: int,
    binary: bool,
    where: _inputs.ArrayLike | None,
    equal_mass: bool = False,
) -> tuple[jax.Array, jax.Array]:
    binary = _checks.check_flag(binary, "binary")
    judged = predictions(caller, labels, probs, binary, where)
    count = _checks.check_count(num_bins, "num_bins")
    return _calibration_errors(judged, binary=binary, num_bins=count, equal_mass=equal_mass)


@reduction("calibration_errors")
def _calibration_errors(
    judged: Predictions, *, binary: bool, num_bins: int, equal_mass: bool
) -> tuple[jax.Array, jax.Array]:
    bins = _reliability(judged, binary=binary, num_bins=num_bins, equal_mass=equal_mass)
    return bins.ece, bins.mce


@cites("kull2019beyond")
@_checks.hinted
def classwise_ece(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`1/C sum_c sum_b n_bc/N |frequency_bc - probability_bc|`: the mean over the classes of the
    error of each.

    For class c, predictions are sorted by `p_c`, whether it is the largest or not, into bins of
    equal width as those of `reliability`, and in each bin the mean of `p_c` is compared with the
    share of labels that are c. If `binary`, the classes are the labels along the last axis, which
    do not exclude each other, and N is the number of labels of a class that count.

    Args and Raises are those of `reliability`.

    References:
      Kull, Perello Nieto, Kängsepp, Silva Filho, Song & Flach, "Beyond temperature scaling:
      obtaining well-calibrated multi-class probabilities with Dirichlet calibration", NeurIPS 2019,
      arXiv:1910.12656.
    """
    binary = _checks.check_flag(binary, "binary")
    judged = predictions("classwise_ece", labels, probs, binary, where)
    if binary and judged.given.ndim < 2:
        raise ValueError(
            "classwise_ece takes several labels along the last axis, shape (..., L), if binary,"
            f" got {judged.given.shape}. For one label an example there is ece."
        )
    return _classwise_ece(judged, binary=binary, num_bins=_checks.check_count(num_bins, "num_bins"))


@reduction("classwise_ece")
def _classwise_ece(judged: Predictions, *, binary: bool, num_bins: int) -> jax.Array:
    labels, probs = ready(judged, binary)
    classes = probs.shape[-1]
    present = labels == 1 if binary else jax.nn.one_hot(labels, classes)
    where = judged.where
    if where is not None and not binary:
        where = jnp.broadcast_to(where[..., None], probs.shape)
    columns: list[Any] = [
        None if x is None else jnp.reshape(x, (-1, classes)) for x in (probs, present, where)
    ]

    def one(prob: jax.Array, here: jax.Array, where: jax.Array | None) -> jax.Array:
        return equal_width_bins(prob, here, where, num_bins).ece

    return _reduction.mean(jax.vmap(one, in_axes=(1, 1, None if where is None else 1))(*columns))
