"""Calibration of a regression's predictive distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, metrics
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_checks.hinted
def calibration(
    cdf: _axes.Arrays,
    *,
    proportion: metrics.Proportion = "interval",
    where: _inputs.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the share of observations inside the central interval of each probability, or below the
    quantile.

    A calibrated model's curve is the diagonal. Below it, intervals are too narrow. The legend has
    the area between the two, as `mc.metrics.miscalibration_area`.

    Args:
      cdf: `F(y)` of each observation, such as `Regression.cdf(y)` or `mc.cdf(y, samples, ...)`, any
        shape; or several, under names.
      proportion: `"interval"` or `"quantile"`, as in `mc.metrics.calibration_curve`.
      where: booleans, the observations that count, as in `mc.metrics`.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.calibration_curve`.
    """
    _axes.check_axes(ax)
    _axes.drawable(where=where)
    drawn = []
    for curve in _axes.curves(cdf, "observations"):
        found = metrics.calibration_curve(curve.values, proportion=proportion, where=where)
        area = metrics.miscalibration_area(curve.values, proportion=proportion, where=where)
        drawn.append((found, f"{curve.name}, area {area:.3f}", curve.style))
    ax = _axes.axes(ax)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="calibrated")
    for found, label, style in drawn:
        ax.plot(found.expected, found.observed, label=label, **style)
    place = "in the interval" if proportion == "interval" else "below the quantile"
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="probability",
        ylabel=f"share of observations {place}",
        title="Calibration of the predictive distribution",
    )
    ax.set_aspect("equal")
    _axes.legend(ax)
    return ax


@cites("gneiting2007probabilistic")
@_checks.hinted
def pit(
    cdf: _inputs.ArrayLike,
    *,
    num_bins: int = 20,
    where: _inputs.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the histogram of `F(y)`, the probability integral transform of the observations.

    It is flat if predictions are calibrated. A hump says that they are too wide, a valley that they
    are too narrow, a slope that they are shifted. Ninety-five percent of the bars of a calibrated
    model lie between the dashed lines.

    Args:
      cdf: `F(y)` of each observation, in [0, 1], as in `calibration`; any shape.
      num_bins: the number of bins of equal width.
      where: booleans, the observations that count, as in `mc.metrics`.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.calibration_curve`, or `num_bins` is below 1.

    References:
      Gneiting, Balabdaoui & Raftery, "Probabilistic forecasts, calibration and sharpness", JRSS B
      69(2), 2007.
    """
    _axes.check_axes(ax)
    num_bins = _checks.check_count(num_bins, "num_bins")
    _axes.drawable(cdf=cdf, where=where)
    metrics.calibration_curve(cdf, where=where)  # which checks the values
    selected = _inputs.selection(where, np.shape(cdf))
    values = np.asarray(cdf, float)[... if selected is None else np.asarray(selected)].ravel()
    ax = _axes.axes(ax)
    edges = np.linspace(0, 1, num_bins + 1)
    weights = np.full(values.size, num_bins / values.size)
    ax.hist(values, edges.tolist(), weights=weights, color=_axes.BLUE, edgecolor="white")
    ax.axhline(1, color="black", linewidth=0.8)
    # The number in a bin is binomial.
    spread = 1.96 * np.sqrt((num_bins - 1) / values.size)
    for level in (1 - spread, 1 + spread):
        ax.axhline(level, color="black", linewidth=0.8, linestyle="--")
    ax.set(
        xlim=(0, 1),
        ylim=(0, None),
        xlabel="F(y), the predicted probability of less",
        ylabel="density of observations",
        title="Probability integral transform",
    )
    return ax
