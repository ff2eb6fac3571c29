"""A regression and its uncertainty."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs
from jaxdrop.mc._observations import Regression
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_checks.hinted
def band(
    x: _inputs.ArrayLike,
    summary: Regression,
    *,
    coverage: float = 0.95,
    observed: tuple[_inputs.ArrayLike, _inputs.ArrayLike] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a regression of one input: its mean, and around it the band of likely observations.

    The inner band is epistemic: the mean plus and minus `z` standard deviations over the samples.
    The outer one adds the noise: it is `summary.interval(coverage)`.

    Args:
      x: the inputs, shape (N,), in any order.
      summary: the result of `mc.regression`, of shape (N,).
      coverage: the probability inside each band, for Gaussians; in (0, 1).
      observed: inputs and targets to draw as points.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: `x` is not of the shape (N,) of the summary, holds NaN or infinities, or
        `coverage` is not in (0, 1).
    """
    _axes.check_axes(ax)
    x = _axes.numbers("x", x)
    if not isinstance(summary, Regression):
        raise TypeError(
            "band takes a Regression summary, such as mc.regression(samples, tau=...), got"
            f" {_checks.quoted(summary)}"
        )
    _axes.drawable(summary=summary.mean)
    level = _axes.numbers("coverage", coverage)
    if level.ndim:
        raise ValueError(f"coverage must be one number, got shape {level.shape}")
    points = None if observed is None else _pair(observed)
    if x.ndim != 1 or x.shape != summary.mean.shape:
        raise ValueError(
            f"x must have the shape (N,) of the summary, got {x.shape} and a summary of shape"
            f" {summary.mean.shape}"
        )
    noiseless = dataclasses.replace(summary, aleatoric_variance=jnp.zeros_like(summary.mean))
    order = np.argsort(x)
    outer, inner = (
        np.stack(part.interval(float(level)))[:, order] for part in (summary, noiseless)
    )
    ax = _axes.axes(ax)
    # The outer band in two parts, above and below the inner one: where bands overlap, their colors
    # mix into one that the legend does not show.
    (low, high), (inner_low, inner_high) = outer, inner
    for bounds, alpha, label in (
        ((low, inner_low), 0.2, "epistemic and aleatoric"),
        ((inner_high, high), 0.2, None),
        (inner, 0.48, "epistemic"),
    ):
        ax.fill_between(x[order], *bounds, color=_axes.BLUE, alpha=alpha, linewidth=0, label=label)
    ax.plot(x[order], np.asarray(summary.mean)[order], color=_axes.BLUE, label="mean")
    if points is not None:
        ax.plot(*points, "o", color="black", markersize=3, label="observed")
    ax.set(xlabel="x", ylabel="y", title=f"Mean and {100 * level:g} % band")
    _axes.legend_above(ax, "upper left")
    return ax


def _pair(observed: tuple[_inputs.ArrayLike, _inputs.ArrayLike]) -> list[np.ndarray]:
    if not isinstance(observed, (tuple, list)) or len(observed) != 2:
        raise TypeError(
            f"observed must be a pair of inputs and targets, got {_checks.quoted(observed)}"
        )
    points = [_axes.numbers(f"observed[{at}]", each) for at, each in enumerate(observed)]
    if points[0].shape != points[1].shape or points[0].ndim != 1:
        raise ValueError(
            "observed must hold inputs and targets of one shape (N,), got"
            f" {[each.shape for each in points]}"
        )
    return points
