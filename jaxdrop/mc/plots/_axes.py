"""Axes, colors and styles that the pictures share, and several arrays in one picture."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, _optional
from jaxdrop.mc import _inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

Arrays: TypeAlias = _inputs.ArrayLike | Mapping[str, _inputs.ArrayLike]
"""One array, or several under the names that the legend shows."""

# From the palette of Okabe and Ito: colors that the color-blind can distinguish.
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#555555"
_COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00")
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)))


class Curve(NamedTuple):
    """An array, and the style of its curve."""

    name: str
    values: _inputs.ArrayLike
    style: dict[str, Any]
    """Color and dashes: in print and to the color-blind, curves differ by their dashes."""


def axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure."""
    pyplot = _pyplot()
    check_axes(ax)
    if ax is None:
        ax = pyplot.figure(layout="constrained").add_subplot()
    ax.spines[["right", "top"]].set_visible(False)
    return ax


def check_axes(ax: Any) -> None:
    """Checks the argument `ax`."""
    if ax is not None and not isinstance(ax, _pyplot().Axes):
        raise TypeError(
            "ax must be matplotlib's Axes, such as plt.subplots()[1], or None, got"
            f" {_checks.quoted(ax)}"
        )


def _pyplot() -> Any:
    return _optional.load("matplotlib.pyplot", "jaxdrop.mc.plots", "matplotlib", "plot")


def legend(ax: Axes, place: str = "best") -> Legend:
    """Adds a half-transparent legend."""
    return ax.legend(loc=place, fontsize="small", frameon=True, framealpha=0.85, edgecolor="none")


def legend_above(ax: Axes, place: str) -> None:
    """Adds a legend at the top, and raises the limit of the axes, so that it hides no curve."""
    entries = legend(ax, place).get_texts()
    # They stand half a line apart, in a frame with a margin.
    height = float(entries[0].get_fontsize()) * (1.5 * len(entries) + 1.5)
    share = height / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    low, high = ax.get_ylim()
    # At most 60 % of the height goes to the legend.
    ax.set_ylim(low, low + (high - low) / (1 - min(1.1 * share, 0.6)))


class Bars(NamedTuple):
    """Bars of one color."""

    left: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    color: str


def histogram_below(ax: Axes, several: Iterable[Bars], width: float, xlabel: str) -> Axes:
    """Draws counts in axes of their own below the curves, which take the upper part of `ax` then.

    They share `ax`, in place of hanging out of it: the constrained layout underestimates the height
    of axes that grow with those that they hang on, and cuts their label off.
    """
    ax.set_axes_locator(_UpperPart(ax, ax.get_axes_locator()))
    ax.tick_params(labelbottom=False)
    below = ax.inset_axes((0, -_BELOW, 1, _BELOW - 0.06), sharex=ax)
    for left, counts, color in several:
        below.bar(left, counts, width, align="edge", color=color, edgecolor="white")
    below.set(xlabel=xlabel, ylabel="count", yscale="log", ylim=(0.7, None))
    below.spines[["right", "top"]].set_visible(False)
    return below


# The height of the histogram and the gap above it, by that of the curves.
_BELOW = 0.32


@dataclasses.dataclass
class _UpperPart:
    """A locator of matplotlib, which places the curves above the histogram."""

    ax: Axes
    locator: Any
    """The one that `ax` had."""

    def __call__(self, ax: Any, renderer: Any) -> Any:
        located = self.locator is not None
        whole = self.locator(ax, renderer) if located else ax.get_position(original=True)
        _, upper = whole.splity(_BELOW / (1 + _BELOW))
        return upper

    def get_subplotspec(self) -> Any:
        """Which `tight_layout` asks for."""
        return self.ax.get_subplotspec()


def curves(arrays: Arrays, name: str) -> Iterator[Curve]:
    """Each array with a style. `name` is the name of a single array."""
    several = arrays if isinstance(arrays, Mapping) else {name: arrays}
    if not several:
        raise ValueError(f"{name} must be an array, or several under names, got none")
    drawable(**{str(label): values for label, values in several.items()})
    styles = itertools.cycle(zip(_COLORS, _DASHES, strict=True))
    for (label, values), (color, dashes) in zip(several.items(), styles, strict=False):
        yield Curve(label, values, {"color": color, "linestyle": dashes})


def text(name: str, value: str) -> str:
    """The argument `name`, which must be a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {_checks.quoted(value)}")
    return value


def drawable(**arrays: Any) -> None:
    """Checks that the values of arrays are known: not under `jit`."""
    for name, x in arrays.items():
        if not _inputs.is_known(x):
            raise TypeError(
                f"jaxdrop.mc.plots draws values, but those of {name} are traced or on other"
                " processes"
            )


def numbers(name: str, x: _inputs.Number) -> np.ndarray[Any, Any]:
    """`x` as finite real numbers of at least one entry."""
    given = _inputs.array(x, "jaxdrop.mc.plots", f"{name} of real numbers")
    drawable(**{name: given})
    if jnp.issubdtype(given.dtype, jnp.complexfloating):
        raise TypeError(f"jaxdrop.mc.plots takes real {name}, got {given.dtype}")
    found = np.asarray(given).astype(np.float64)
    if not found.size or not np.isfinite(found).all():
        bad = f"{np.isnan(found).sum()} NaN and {np.isinf(found).sum()} infinities"
        raise ValueError(
            f"{name} must hold finite numbers, and one at least, got shape {found.shape} with {bad}"
        )
    return found
