"""Panels of a picture, and the colors of the themes they are drawn in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from results import plots


class Colors(NamedTuple):
    """The colors of a theme. The background is transparent."""

    ink: str
    kept: str
    pale: str
    """The color of dropped entries: a gray that no value on a map has."""
    changed: str

    def style(self) -> dict[str, Any]:
        sizes = {"font.size": 9, "axes.titlesize": 9, "savefig.dpi": 160}
        return plots.style(self.ink) | sizes


THEMES = {
    "light": Colors(plots.INKS["light"], kept="#0a6ebd", pale="#bcc5cf", changed="#b3400a"),
    "dark": Colors(plots.INKS["dark"], kept="#5fb0f5", pale="#4d5763", changed="#ff9d5c"),
}


class Panel(NamedTuple):
    """A part of a picture."""

    title: str
    draw: Callable[[Axes, Colors], Any]


class Panels(NamedTuple):
    """The panels of one picture. The gallery shows only panel number `representative`."""

    panels: list[Panel]
    representative: int
    columns: int = 3
    height: float = 2.3
    """Of a row, in inches."""

    def figure(self, colors: Colors) -> Figure:
        rows = -(-len(self.panels) // self.columns)
        figure = Figure(figsize=(2.2 * self.columns, self.height * rows), layout="constrained")
        axes = figure.subplots(rows, self.columns, squeeze=False).ravel()
        for ax, panel in zip(axes, self.panels, strict=False):
            panel.draw(ax, colors)
            ax.set_title(panel.title)
        for ax in axes[len(self.panels) :]:
            ax.set_axis_off()
        return figure

    def typical(self, colors: Colors) -> Figure:
        figure = Figure(figsize=(1.6, 1.6))
        ax = figure.add_axes((0, 0, 1, 1))
        self.panels[self.representative].draw(ax, colors)
        ax.set(title="", xlabel="", ylabel="")
        ax.set_axis_off()
        return figure


def photograph(image: Any) -> Callable[[Axes, Colors], Any]:
    """Draws an image with channels."""

    def draw(ax: Axes, colors: Colors) -> None:
        ax.imshow(np.clip(np.asarray(image), 0, 1), interpolation="nearest")
        ax.set_axis_off()

    return draw


def values(
    array: Any, xlabel: str = "", ylabel: str = "", *, gray_zeros: bool = True, **options: Any
) -> Callable[[Axes, Colors], Any]:
    """Draws a matrix in colors, and zeros in gray, as dropped entries."""
    array = np.asarray(array, float)
    hidden = (array == 0) & gray_zeros

    def draw(ax: Axes, colors: Colors) -> Any:
        aspect = options.get("aspect", "equal")
        gray = np.where(hidden[..., None], to_rgba(colors.pale), 0.0)
        ax.imshow(gray, interpolation="nearest", aspect=aspect)
        drawn = ax.imshow(np.ma.array(array, mask=hidden), interpolation="nearest", **options)
        ax.set(xlabel=xlabel, ylabel=ylabel, xticks=[], yticks=[])
        ax.spines[:].set(color=colors.pale)
        return drawn

    return draw
