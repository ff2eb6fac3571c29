"""The figures of the examples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console

from jaxdrop.mc import Classification, plots

if TYPE_CHECKING:
    from _images import Array, Images

# From the palette of Okabe and Ito, which the color-blind can tell apart.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
GRAY = "#555555"
COLORS = BLUE, ORANGE, GREEN, PINK, AMBER, SKY, GRAY, "black"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "legend.frameon": False,
}


def save(figures: Mapping[str, Figure], folder: Path, console: Console, start: float) -> None:
    """Writes figures under their names, says where they are, and how many seconds have passed since
    `start`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console.print(
        f"\n{time.perf_counter() - start:.0f} s. The figure{'s' if len(figures) > 1 else ''}:"
    )
    for name, figure in figures.items():
        figure.savefig(folder / name)
        console.print(f"  {folder / name}", soft_wrap=True)


def losses(axes: Any, runs: Mapping[str, Iterable[Array]]) -> None:
    """Two runs: each is steps or epochs, and the training and the validation loss after them."""
    for (name, (steps, training, validation)), color in zip(
        runs.items(), (ORANGE, BLUE), strict=True
    ):
        axes.plot(steps, validation, color=color, label=f"{name}, validation")
        axes.plot(steps, training, color=color, label=f"{name}, training", linestyle="--")
    axes.set_title("Loss, with nothing dropped")
    axes.legend()
    whole_numbers(axes)


def whole_numbers(axes: Any) -> None:
    """Of steps and epochs there are no halves."""
    axes.xaxis.get_major_locator().set_params(integer=True)


@mpl.rc_context(STYLE)
def certainty(data: Images, prediction: Classification) -> Figure:
    """The images of which the prediction is the most and the least certain."""
    figure = Figure(figsize=(9.6, 3.8))
    plots.certainty(*data, prediction.mean, prediction.predictive_entropy, ax=figure.add_subplot())
    return figure
