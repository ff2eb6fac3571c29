"""The error of a mean against the number of passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _groups, _inputs
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# So many points have a tick each.
_FEW = 6


@_checks.hinted
def standard_error(
    samples: _inputs.ArrayLike,
    *,
    groups: int | None = None,
    name: str = "outputs",
    ax: Axes | None = None,
) -> Axes:
    """Draws the standard error of the mean of the first s samples against s, and `1 / sqrt(s)`.

    It is `sqrt(mean_i var_i / r)`, where `var_i` is the variance of the means of output i over the
    first r groups of samples (divided by r - 1), each sample being a group by default. The line
    continues the error of all S samples: the number of passes to take, in groups of the same size,
    is where it falls below the error that you accept.

    The mean of stratified and antithetic samples varies less than that of independent ones. Draw
    them in groups and pass `groups` here. Otherwise points and line are up to three times too high,
    and the number of passes is up to nine times too large.

    Args:
      samples: the result of `mc.predict`, shape (S, ...), with at least two samples.
      groups: the number of groups, that of `mc.keys(key, S, groups=groups)`, at least two.
      name: the name of the outputs, and their unit.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there are fewer than two samples or groups, `groups` does not divide the samples,
        or they hold NaN or infinities.
    """
    _axes.check_axes(ax)
    name = _axes.text("name", name)
    values = _axes.numbers("samples", samples)
    if values.ndim == 0 or len(values) < 2:
        raise ValueError(
            f"samples must have shape (S, ...) with at least two samples, got {values.shape}"
        )
    num_groups = len(values) if groups is None else _groups.check(groups, len(values))
    if num_groups < 2:
        raise ValueError(
            f"groups must be at least 2, got {groups}: how much the mean varies shows in several"
            " groups"
        )
    size = len(values) // num_groups
    means = values.reshape(num_groups, size, -1).mean(1)
    counts = np.unique(np.geomspace(2, num_groups, 40).round().astype(int))
    errors = [np.sqrt(means[:count].var(0, ddof=1).mean() / count) for count in counts]
    passes = counts * size
    ax = _axes.axes(ax)
    ax.plot(passes, errors, "o", markersize=4, color=_axes.BLUE, label="of the first s samples")
    line = errors[-1] * np.sqrt(len(values) / passes)
    ax.plot(
        passes, line, color="black", linewidth=0.8, linestyle="--", label=r"$\propto 1/\sqrt{s}$"
    )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    if len(passes) <= _FEW:  # between them there may be one power of two, or none
        ax.set_xticks(passes)
    ax.set(yscale="log", xlabel="number of passes s", ylabel=f"standard error of the mean {name}")
    ax.set_title("What more passes bring")
    _axes.legend(ax)
    return ax
