"""Selective prediction: the error that remains without the least certain predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, metrics
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_checks.hinted
def risk_coverage(
    errors: _inputs.ArrayLike,
    uncertainty: _axes.Arrays,
    *,
    name: str = "error",
    where: _inputs.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the mean error of the most certain predictions against their share of all predictions.

    It also draws the best curve, of an oracle that knows the errors, and the curve of a random
    order. The legend has the area under each, as `mc.metrics.aurc`; less is better.

    Args:
      errors: a loss of each prediction: `predicted != labels`, squared errors, ...; any shape.
      uncertainty: of the same shape, larger is less certain; or several, under names.
      name: the name of the errors, and their unit.
      where: booleans, the predictions that count, as in `mc.metrics`.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.risk_coverage`.
    """
    _axes.check_axes(ax)
    name = _axes.text("name", name)
    _axes.drawable(errors=errors, where=where)
    several = _axes.curves(uncertainty, "uncertainty")
    curves = [
        (curve, metrics.risk_coverage(errors, curve.values, where=where)) for curve in several
    ]
    oracle = metrics.risk_coverage(errors, _perfect(errors), where=where)
    ax = _axes.axes(ax)
    for curve, found in curves:
        ax.plot(
            found.coverage, found.risk, label=f"{curve.name}, AURC {found.aurc:.4g}", **curve.style
        )
    ax.plot(
        oracle.coverage,
        oracle.risk,
        color="black",
        linewidth=0.8,
        label=f"oracle, AURC {oracle.aurc:.4g}",
    )
    _random(ax, oracle.risk[-1], f"random, AURC {oracle.risk[-1]:.4g}")
    ax.set(
        xlim=(0, 1),
        xlabel="coverage: share of predictions kept",
        ylabel=f"risk: mean {name} of those kept",
    )
    ax.set(ylim=(0, None), title="Risk and coverage")
    _axes.legend_above(ax, "upper left")
    return ax


@_checks.hinted
def sparsification(
    errors: _inputs.ArrayLike,
    uncertainty: _axes.Arrays,
    *,
    name: str = "error",
    where: _inputs.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the mean error of the remaining predictions when the least certain ones are removed.

    It also draws the best curve, of an oracle that removes the largest errors, and the curve of a
    random order. The legend has the area between a curve and the best one, as `mc.metrics.ause`;
    less is better.

    Args:
      errors: as in `risk_coverage`.
      uncertainty: as in `risk_coverage`.
      name: the name of the errors, and their unit.
      where: booleans, the predictions that count, as in `mc.metrics`.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.sparsification`.
    """
    _axes.check_axes(ax)
    name = _axes.text("name", name)
    _axes.drawable(errors=errors, where=where)
    several = _axes.curves(uncertainty, "uncertainty")
    curves = [
        (curve, metrics.sparsification(errors, curve.values, where=where)) for curve in several
    ]
    best = metrics.sparsification(errors, _perfect(errors), where=where)
    ax = _axes.axes(ax)
    for curve, found in curves:
        ax.plot(
            found.removed, found.error, label=f"{curve.name}, AUSE {found.ause:.4g}", **curve.style
        )
    ax.plot(best.removed, best.oracle, color="black", linewidth=0.8, label="oracle")
    _random(ax, best.error[0], "random")
    ax.set(
        xlim=(0, 1),
        xlabel="share of predictions removed, the least certain first",
        ylabel=f"mean {name} of those left",
    )
    ax.set(ylim=(0, None), title="Sparsification")
    _axes.legend_above(ax, "upper right")
    return ax


def _random(ax: Axes, level: _inputs.Number, label: str) -> None:
    ax.axhline(
        float(np.asarray(level)), color=_axes.GRAY, linewidth=0.8, linestyle=":", label=label
    )


def _perfect(errors: _inputs.ArrayLike) -> np.ndarray:
    """The uncertainty that knows the errors: these as numbers, also where they are booleans."""
    return 1 * np.asarray(errors)
