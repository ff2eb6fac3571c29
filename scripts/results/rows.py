"""Rows of figures, and the ratios between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from results.files import Figures
from results.markdown import NONE, ratio, size

OWN, SAME = "jaxdrop, jaxdrop.key", "jaxdrop, threefry"
FLAX, SWAPPED = "flax.linen", "flax.linen, jaxdrop.key"
LARGE = "float32 4096 x 4096"
GPU = "accelerator"
Row = Mapping[str, float]


def over(row: Row, own: str, other: str) -> float | None:
    return row[own] / row[other] if row.get(other) and own in row else None


def ratios(row: Row, names: Iterable[str], other: str) -> list[str]:
    """Of candidates over one other."""
    return [ratio(over(row, name, other)) for name in names]


def sizes(row: Row, names: Iterable[str]) -> list[str]:
    """Of candidates, in bytes."""
    return [size(row.get(name)) for name in names]


def faster(value: float | None) -> str:
    """How many times faster: two digits are what a run repeats."""
    return NONE if value is None else f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def largest(known: Figures, suite: str, title: str, name: str) -> float | None:
    """Of all cases, without signs."""
    made = known.table(suite, title)
    return max(abs(row[name]) for row in made.figures.values()) if made else None
