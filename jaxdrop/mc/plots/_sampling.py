"""What more passes bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop.mc import _inputs
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def standard_error(samples: _inputs.ArrayLike, *, name: str = "outputs", ax: Axes | None = None) -> Axes:
    """Draws the standard error of the mean of the first s samples against s, and the line on which independent samples lie.

    It is `sqrt(mean_i var_i / s)`, where `var_i` is the variance of output i over the first s samples (divided by s - 1). The
    line is that of all S samples, `sqrt(mean_i var_i / s)` with their variance: where it falls below what is wanted is the
    number of passes to take. Stratified and antithetic samples have a mean that varies less: for them both are too large.

    Args:
      samples: what `mc.predict` returns, shape (S, ...), with two samples at least.
      name: what the outputs are, and their unit.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there are fewer than two samples, or they hold NaN or infinities.
    """
    name = _axes.text("name", name)
    values = _axes.numbers("samples", samples)
    if values.ndim == 0 or len(values) < 2:
        raise ValueError(f"samples must have shape (S, ...) with at least two samples, got {values.shape}")
    ax = _axes.axes(ax)
    passes = np.unique(np.geomspace(2, len(values), 40).round().astype(int))
    errors = [np.sqrt(values[:count].var(0, ddof=1).mean() / count) for count in passes]
    ax.plot(passes, errors, "o", markersize=4, color=_axes.BLUE, label="of the first s samples")
    line = errors[-1] * np.sqrt(len(values) / passes)
    ax.plot(passes, line, color="black", linewidth=0.8, linestyle="--", label=r"$\propto 1/\sqrt{s}$")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(yscale="log", xlabel="number of passes s", ylabel=f"standard error of the mean {name}")
    ax.set_title("What more passes bring")
    _axes.legend(ax)
    return ax
