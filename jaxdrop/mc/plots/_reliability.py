"""Accuracy against confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, metrics
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_checks.hinted
def reliability(
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    *,
    num_bins: int = 15,
    binary: bool = False,
    where: _inputs.ArrayLike | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draws a reliability diagram: accuracy against confidence in each bin, and below it how many
    predictions each bin holds.

    A calibrated classifier's points lie on the diagonal. A bar joins the point of a bin to it:
    above the diagonal the classifier is not certain enough, below it too certain. The title has the
    calibration error.

    Args:
      labels: integers in [0, C), shape (...). If `binary`, booleans or integers 0 and 1.
      probs: predictive probabilities, such as `Classification.mean`, shape (..., C). If `binary`,
        those of the label 1, of the shape of the labels.
      num_bins: the number of bins of equal width, as in `mc.metrics.reliability`.
      binary: labels with two values: the share that is 1 against the probability of it.
      where: booleans, the labels that count, as in `mc.metrics`.
      title: the text before the calibration error.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes. Those of the histogram are its only `child_axes`.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.reliability`.
    """
    _axes.check_axes(ax)
    title = _axes.text("title", title)
    _axes.drawable(labels=labels, probs=probs, where=where)
    bins = metrics.reliability(labels, probs, num_bins=num_bins, binary=binary, where=where)
    ax = _axes.axes(ax)
    horizontal, vertical = (
        ("probability of 1", "share of 1") if binary else ("confidence", "accuracy")
    )
    filled = np.asarray(bins.count) > 0
    confidence, accuracy, count = (
        np.asarray(x)[filled] for x in (bins.confidence, bins.accuracy, bins.count)
    )
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="calibrated")
    ax.vlines(confidence, confidence, accuracy, color=_axes.BLUE, alpha=0.4, linewidth=3)
    ax.plot(confidence, accuracy, "o", color=_axes.BLUE, clip_on=False, label="bins")
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        ylabel=vertical,
        title=f"{title}{', ' if title else ''}ECE {bins.ece:.3f}",
    )
    bars = _axes.Bars(np.flatnonzero(filled) / num_bins, count, _axes.BLUE)
    _axes.histogram_below(ax, [bars], 1 / num_bins, horizontal)
    return ax
