"""What a measurement gives: tables of figures, and figures that have a bar to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table:
    """Figures of several candidates in several cases, `figures[case][candidate]`.

    If `limit` names a candidate, the others are shown as multiples of it.
    """

    title: str
    unit: Literal["s", "B", ""]
    figures: dict[str, dict[str, float]]
    limit: str | None = None


@dataclass(frozen=True)
class Bar:
    """A figure with the value that it must reach."""

    figure: str
    value: float
    sign: Literal["<=", ">="]
    bound: float
    unit: Literal["B", "x", ""] = "x"

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value <= self.bound if self.sign == "<=" else self.value >= self.bound


Measurement = Callable[[bool], Iterator[Table | Bar]]
"""Takes whether to be quick: small shapes and few runs, to see that everything works."""
