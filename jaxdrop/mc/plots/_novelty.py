"""Uncertainty in and out of distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, metrics
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_checks.hinted
def novelty(
    inside: _inputs.ArrayLike,
    outside: _axes.Arrays,
    *,
    name: str = "predictive entropy (nats)",
    num_bins: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draws histograms of the uncertainty of known and of unknown inputs. Each histogram sums to 1.

    The legend has the AUROC of each kind of unknown inputs, as `mc.metrics.auroc`.

    Args:
      inside: the uncertainty of known inputs, such as `Classification.predictive_entropy`; any
        shape.
      outside: that of unknown inputs; or several, under names: `{"noise": ..., "rotated": ...}`.
      name: the name of the uncertainty, and its unit.
      num_bins: the number of bins of equal width, from the least to the largest value of all.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib or scikit-learn is not installed.
      TypeError: not real numbers.
      ValueError: an array is empty, or holds NaN or infinities, or `num_bins` is below 1.
    """
    _axes.check_axes(ax)
    name = _axes.text("name", name)
    num_bins = _checks.check_count(num_bins, "num_bins")
    known = _axes.numbers("inside", inside).ravel()
    curves = [
        (curve, _axes.numbers("outside", curve.values).ravel())
        for curve in _axes.curves(outside, "outside")
    ]
    labels = [f"{curve.name}, AUROC {metrics.auroc(known, values):.3f}" for curve, values in curves]
    ax = _axes.axes(ax)
    edges = np.histogram_bin_edges(
        np.concatenate([known, *(values for _, values in curves)]), num_bins
    ).tolist()
    ax.hist(
        known, edges, weights=np.full(known.size, 1 / known.size), color="#BBBBBB", label="inside"
    )
    for (curve, values), label in zip(curves, labels, strict=True):
        weights = np.full(values.size, 1 / values.size)
        ax.hist(
            values,
            edges,
            weights=weights,
            histtype="step",
            linewidth=1.8,
            label=label,
            **curve.style,
        )
    ax.set(
        xlabel=name,
        ylabel="share of inputs",
        title="Uncertainty in and out of distribution",
        xlim=(edges[0], edges[-1]),
    )
    _axes.legend_above(ax, "upper right")
    return ax
