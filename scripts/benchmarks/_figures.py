"""What a measurement gives: tables of figures, and figures that have a bar to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["s", "B", "x", ""]


@dataclass(frozen=True)
class Table:
    """Figures of several candidates in several cases, `figures[case][candidate]`.

    If `limit` names a candidate, the others are shown as multiples of it. Cases in `units` have a
    unit of their own.
    """

    title: str
    unit: Unit
    figures: dict[str, dict[str, float]]
    limit: str | None = None
    units: dict[str, Unit] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """A figure with the value that it must reach."""

    figure: str
    value: float
    sign: Literal["<=", ">="]
    bound: float
    unit: Unit = "x"

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value <= self.bound if self.sign == "<=" else self.value >= self.bound


Measurement = Callable[[bool], Iterator[Table | Bar]]
"""Takes whether to be quick: small shapes and few runs, to see that everything works."""
