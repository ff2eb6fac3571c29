"""What a measurement gives: tables of figures, and figures that have a bar to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Unit = Literal["s", "B", "x", ""]

_OURS = ("jaxdrop", "independent", "stratified", "replaced", "subnetworks")
_BOUNDS = ("no dropout", "multiply", "products", "cycles that the memory takes")


class Measured(float):
    """A figure that a quantile of several runs gave, one in each round, with all of them in their
    order: run i of a candidate was measured beside run i of the others.
    """

    samples: tuple[float, ...]

    def __new__(cls, value: float, samples: Sequence[float] = ()) -> Measured:
        made = super().__new__(cls, value)
        made.samples = tuple(samples)
        return made


def per(figure: float, count: int) -> float:
    """The figure of one of `count` equal parts."""
    samples = figure.samples if isinstance(figure, Measured) else ()
    return Measured(figure / count, [sample / count for sample in samples])


@dataclass(frozen=True)
class Roles:
    """Which candidates are this library's, which compute less than any dropout could (`bounds`, a
    multiplication, or no dropout at all), and which are used in this library's place.
    """

    ours: tuple[str, ...]
    bounds: tuple[str, ...]
    peers: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Figures of several candidates in several cases, `figures[case][candidate]`.

    If `limit` names a candidate, the others are shown as multiples of it. Cases in `units` have a
    unit of their own. If `axis` has a name, cases are numbers: the values of that variable.
    `not_run[case][candidate]` says why a figure is missing. `ours` and `bounds` name candidates
    whose role their names do not show.
    """

    title: str
    unit: Unit
    figures: dict[str, dict[str, float]]
    limit: str | None = None
    units: dict[str, Unit] = field(default_factory=dict)
    axis: str | None = None
    not_run: dict[str, dict[str, str]] = field(default_factory=dict)
    ours: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()

    @property
    def candidates(self) -> list[str]:
        """All that have a figure, in the order in which they came."""
        return [*dict.fromkeys(name for row in self.figures.values() for name in row)]

    def unit_of(self, case: str) -> Unit:
        """The unit of a case."""
        return self.units.get(case, self.unit)

    def label(self, case: str) -> str:
        """A case with the name of the axis, if there is one."""
        return f"{case} {self.axis}" if self.axis else case

    @property
    def roles(self) -> Roles:
        """The candidates by their roles."""
        names = self.candidates
        bounds = [n for n in names if n in self.bounds or any(word in n for word in _BOUNDS)]
        ours = [n for n in names if n in self.ours or n.startswith(_OURS)]
        ours = [n for n in ours if n not in bounds]
        peers = [n for n in names if n not in ours and n not in bounds]
        return Roles(tuple(ours), tuple(bounds), tuple(peers))


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


def number(value: float | None, unit: str) -> str:
    """A figure with its unit, in three digits or so."""
    if value is None or value != value:
        return "none"
    if unit == "s":
        return (
            f"{value:.2f} s"
            if value >= 1
            else f"{value * 1e3:.3g} ms"
            if value >= 1e-3
            else f"{value * 1e6:.3g} µs"
        )
    if unit == "B":
        return (
            f"{value / 2**30:,.1f} GiB"
            if value >= 2**30
            else f"{value / 2**20:,.1f} MiB"
            if value >= 2**20
            else f"{value:,.0f} B"
        )
    if unit == "x":
        return f"{value:.4g}x"
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:.2e}"


def spread(table: Table) -> dict[str, dict[str, dict[str, Any]]]:
    """How the runs of each figure differ: the least, the quartiles, and how many there were; and
    of tables with a limit the quartiles of the ratios to it, each of two runs side by side.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for case, row in table.figures.items():
        limit = row.get(table.limit or "")
        for name, figure in row.items():
            if not isinstance(figure, Measured) or not figure.samples:
                continue
            runs = len(figure.samples)
            entry: dict[str, Any] = {"runs": runs, "least": min(figure.samples)}
            entry |= _quartiles(figure.samples)
            if name != table.limit and isinstance(limit, Measured):
                pairs = zip(figure.samples, limit.samples, strict=True)
                entry["ratio"] = _quartiles([own / other for own, other in pairs if other])
            found.setdefault(case, {})[name] = entry
    return found


def _quartiles(samples: Sequence[float]) -> dict[str, float]:
    lower, median, upper = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
    return {"lower": lower, "median": median, "upper": upper}
