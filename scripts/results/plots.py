"""Curves of figures that grow with a variable, for pages in light and in dark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from benchmarks._figures import Table, number
from results.markdown import size

INKS = {"light": "#222832", "dark": "#dbe0e6"}
"""Of text and axes, in each theme of the site."""
# This library's candidates in these colors, others in those; both are told apart on white and on
# black, and so are markers, without colors.
_OURS = ("#1f77d0", "#17a398", "#7b6ce0")
_PEERS = ("#e07b39", "#d1495b", "#b8860b", "#8f9f3a", "#c060a0", "#a0665a")
_BOUND = "#8a8a8a"
_MARKERS = "osDv^<>PX*"


def style(ink: str) -> dict[str, Any]:
    """Settings of matplotlib: text and axes of one color on the page's own background."""
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return dict.fromkeys(parts, ink) | {"figure.facecolor": "none", "axes.facecolor": "none"}


def draw(table: Table, theme: str) -> Figure:
    """One curve for each candidate, on logarithmic axes, with the legend below."""
    ink = INKS[theme]
    with mpl.rc_context(style(ink) | {"font.size": 10}):
        roles, names = table.roles, table.candidates
        rows = math.ceil(len(names) / 2)
        figure = Figure(figsize=(4.4, 3.0 + 0.21 * rows), layout="constrained")
        axes = figure.subplots()
        bottom = _floor(table)
        for place, name in enumerate(names):
            points = [
                (float(case), max(row[name], bottom if table.unit in ("s", "B") else 0))
                for case, row in table.figures.items()
                if row.get(name, math.nan) == row.get(name, math.nan) and name in row
            ]
            ours, bound = name in roles.ours, name in roles.bounds
            colors = _OURS if ours else _PEERS
            rank = (roles.ours if ours else roles.peers).index(name) if not bound else 0
            axes.plot(
                *zip(*points, strict=True),
                color=_BOUND if bound else colors[rank % len(colors)],
                linewidth=2.2 if ours else 1.3,
                linestyle=":" if bound else "-",
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=5,
                zorder=3 if ours else 2,
                label=name,
            )
        _scale(axes, table, bottom)
        axes.grid(color=ink, alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def save(table: Table, folder: Path, name: str) -> dict[str, Path]:
    """One file for each theme."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {theme: folder / f"{name}-{theme}.svg" for theme in INKS}
    for theme, path in paths.items():
        with mpl.rc_context({"svg.hashsalt": "jaxdrop"}):
            draw(table, theme).savefig(path, metadata={"Date": None, "Creator": None})
    return paths


def _floor(table: Table) -> float:
    """What stands for zero, which a logarithmic axis does not have."""
    values = [value for row in table.figures.values() for value in row.values() if value > 0]
    if not values:
        return 0.0
    return 2.0**9 if table.unit == "B" else min(values) / 2


def _scale(axes: mpl.axes.Axes, table: Table, bottom: float) -> None:
    cases = [float(case) for case in table.figures]
    axes.set_xscale("log")
    axes.set_xlabel(table.axis or "")
    axes.xaxis.set_major_locator(FixedLocator(cases))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x)))
    values = [v for row in table.figures.values() for v in row.values() if v == v]
    if table.unit not in ("s", "B") and min(values, default=0) < 1:  # counts
        axes.set_ylim(0, 1.1 * max(values, default=1) or 1)
        axes.set_ylabel(table.title.split(",")[0])
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if table.unit == "B":
        top = max([*values, 2.0**10])
        ticks = [bottom, *(2.0**power for power in range(15, 50, 5) if 2.0**power < 2 * top)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: "0" if y <= bottom else size(y)))
        axes.set_ylim(bottom / 1.5, 2 * top)
    elif table.unit == "s":
        low, high = min(values, default=1), max(values, default=1)
        if high < 200 * low:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _time(y)))
    else:
        axes.yaxis.set_major_formatter(LogFormatterMathtext())
    name = table.title.split(",")[0]
    axes.set_ylabel("time of a call" if name == "time" else name)


def _time(value: float) -> str:
    return f"{value:g} s" if value >= 1 else number(value, "s")


def _power(value: float) -> str:
    """2^10 and more as powers."""
    whole = int(value)
    if whole >= 1024 and not whole & (whole - 1):
        return f"$2^{{{whole.bit_length() - 1}}}$"
    return f"{whole:,}"
