"""Coverage in groups, and by the size of a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, metrics
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The width of a letter below the axis, in inches.
_LETTER = 0.09
_MARKERS = "os^Dv"


@_checks.hinted
def coverage_by_group(
    covered: _axes.Arrays,
    groups: _inputs.ArrayLike,
    *,
    coverage: float | None = None,
    names: Sequence[str] | None = None,
    title: str = "Coverage by group",
    ax: Axes | None = None,
) -> Axes:
    """Draws the share of covered examples in each group, with 95 % intervals (Wilson's), and the
    number of examples in each.

    Args:
      covered: booleans, whether the interval or set of each example holds the truth, any shape; or
        several, under names.
      groups: integers in [0, G), of the same shape.
      coverage: the one that is asked for, in (0, 1), drawn as a line.
      names: those of the groups; their numbers by default.
      title: that of the axes.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.coverage_by_group`, or there is not a name for each
        group.
    """
    _axes.check_axes(ax)
    title = _axes.text("title", title)
    _axes.drawable(groups=groups)
    level = _level(coverage)
    found = [
        (curve, metrics.coverage_by_group(curve.values, groups))
        for curve in _axes.curves(covered, "covered")
    ]
    size = np.asarray(found[0][1].size)
    labels = [f"{group}" for group in range(len(size))] if names is None else [*names]
    if len(labels) != len(size):
        raise ValueError(f"names must be one for each of {len(size)} groups, got {len(labels)}")
    ax = _axes.axes(ax)
    filled = np.flatnonzero(size)
    place = np.arange(len(filled))
    for number, (curve, group) in enumerate(found):
        apart = 0.15 * (number - (len(found) - 1) / 2)
        _points(ax, number, place + apart, group, curve.style["color"], curve.name)
    _line(ax, level)
    ticks = [f"{labels[group]}\nn={size[group]}" for group in filled]
    ax.set_xticks(place, ticks)
    longest = max((len(line) for tick in ticks for line in tick.split("\n")), default=0)
    letters = ax.bbox.width / ax.figure.dpi / _LETTER / max(len(filled), 1)
    if longest >= letters:
        one_line = [tick.replace("\n", ", ") for tick in ticks]
        ax.set_xticks(place, one_line, rotation=45, ha="right", rotation_mode="anchor")
    ax.set(title=title, ylabel="coverage", xlim=(-0.5, len(filled) - 0.5))
    ticks_of_coverage = [tick for tick in ax.get_yticks() if tick <= 1 + 1e-9]
    _axes.legend_above(ax, "upper left")
    bottom, top = ax.get_ylim()
    ax.set_yticks([tick for tick in ticks_of_coverage if bottom <= tick <= top])
    return ax


@_checks.hinted
def coverage_by_size(
    labels: _inputs.ArrayLike,
    sets: _axes.Arrays,
    *,
    coverage: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the coverage of sets against their size, with 95 % intervals, and the number of sets of
    each size.

    Marginal coverage may hide that large sets, of hard inputs, cover less than small ones. The
    legend has the coverage and the mean size of all.

    Args:
      labels: integers in [0, C), shape (N,).
      sets: booleans, shape (N, C), such as the result of `mc.conformal.sets`; or several, under
        names.
      coverage: the one that is asked for, in (0, 1), drawn as a line.
      ax: matplotlib axes; a new figure by default.

    Returns:
      The axes. Those of the histogram are its only `child_axes`.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError, ValueError: as `mc.metrics.set_coverage`.
    """
    _axes.check_axes(ax)
    _axes.drawable(labels=labels)
    level = _level(coverage)
    drawn = []
    for curve in _axes.curves(sets, "sets"):
        whole = metrics.set_coverage(labels, curve.values)
        mean = metrics.set_size(curve.values)
        members = np.asarray(curve.values)
        if members.ndim != 2:
            raise ValueError(f"coverage_by_size takes sets (N, C), got shape {members.shape}")
        held = members[np.arange(len(members)), np.asarray(labels)]
        name = f"{curve.name}, {whole:.3f}, mean size {mean:.2f}"
        drawn.append((curve, name, metrics.coverage_by_group(held, members.sum(1))))
    ax = _axes.axes(ax)
    width, bars = 0.8 / len(drawn), []
    for number, (curve, name, group) in enumerate(drawn):
        size = np.asarray(group.size)
        filled = np.flatnonzero(size)
        at = filled + width * (number - (len(drawn) - 1) / 2)
        color = curve.style["color"]
        _points(ax, number, at, group, color, name)
        bars.append(_axes.Bars(at - width / 2, size[filled], color))
    _line(ax, level)
    ax.set(ylim=(-0.05, 1.05), ylabel="coverage", title="Coverage by the size of the set")
    below = _axes.histogram_below(ax, bars, width, "size of the set")
    sizes = np.arange(max(len(np.asarray(group.size)) for _, _, group in drawn))
    below.set_xticks(sizes[:: max(len(sizes) // 10, 1)])
    _axes.legend(ax)
    return ax


def _level(coverage: float | None) -> float | None:
    if coverage is None:
        return None
    level = _axes.numbers("coverage", coverage)
    if level.ndim or not 0 < level < 1:
        raise ValueError(f"coverage must lie in (0, 1), got {_checks.quoted(coverage)}")
    return float(level)


def _line(ax: Axes, level: float | None) -> None:
    if level is not None:
        ax.axhline(level, color="black", linewidth=0.8, linestyle=":", label="asked for")


def _points(
    ax: Axes, number: int, at: np.ndarray, group: metrics.GroupCoverage, color: str, label: str
) -> None:
    """Draws the coverage of the groups that are not empty, with intervals. `number` chooses the
    marker.
    """
    filled = np.asarray(group.size) > 0
    share = np.asarray(group.coverage)[filled]
    ax.errorbar(
        at,
        share,
        np.abs(_wilson(share, np.asarray(group.size)[filled]) - share),
        fmt=_MARKERS[number % len(_MARKERS)],
        color=color,
        capsize=3,
        markersize=5,
        label=label,
    )


def _wilson(share: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Lower and upper bounds of a probability, from a share of `size` trials."""
    z = 1.96
    middle = share + z**2 / (2 * size)
    half = z * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    return np.stack([middle - half, middle + half]) / (1 + z**2 / size)
