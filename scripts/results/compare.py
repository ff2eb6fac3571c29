"""Comparisons of this library with others: ratios of times and of bytes, the worst ones first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from benchmarks._figures import Table
from results.files import Run
from results.markdown import ratio, shown

# A program that needs less memory than this, as the bar of `core` has it, needs none to speak of.
_LEAST_BYTES = 2**16


class Comparison(NamedTuple):
    """A candidate of this library over another one; less than 1 is better for this library."""

    ratio: float
    run: Run
    table: Table
    case: str
    ours: str
    other: str

    @property
    def figures(self) -> tuple[float, float]:
        """Of both candidates."""
        row = self.table.figures[self.case]
        return row[self.ours], row[self.other]


LINE = ["ratio", "what", "jaxdrop", "in its place", "suite"]


def line(each: Comparison) -> list[str]:
    """A line of a table with the head `LINE`."""
    made, machine = each.table, each.run.content["machine"]
    own, other = (shown(x, made.unit_of(each.case)) for x in each.figures)
    what = f"{made.title}: {made.label(each.case)}"
    on_cpu = each.run.compiled or machine["backend"] == "cpu"
    suite = f"`{each.run.suite}`{'' if on_cpu else ', ' + machine['device']}"
    names = f"{each.ours}: {own}", f"{each.other}: {other}"
    return [f"**{ratio(each.ratio)}**", what, *names, suite]


def comparisons(
    runs: Iterable[Run], others: Literal["peers", "bounds"] = "peers"
) -> list[Comparison]:
    """All ratios of times and bytes to those of what is used in this library's place (`peers`), or
    to what computes less than any dropout could (`bounds`: of those, the one that the table takes
    for its limit). The largest first.
    """
    found = [
        comparison
        for run in runs
        for each in run.tables
        for comparison in _of_table(run, each.table, others)
    ]
    return sorted(found, key=lambda each: -each.ratio)


def _of_table(run: Run, table: Table, others: str) -> Iterator[Comparison]:
    roles = table.roles
    limits = [name for name in roles.bounds if name == table.limit] or list(roles.bounds[:1])
    names = roles.peers if others == "peers" else limits
    for case, row in table.figures.items():
        unit = table.unit_of(case)
        if unit not in ("s", "B") and table.limit is None:
            continue
        for ours in roles.ours:
            for other in names:
                if ours in row and other in row and _alike(ours, other):
                    least = _LEAST_BYTES if unit == "B" else 0
                    own, their = max(row[ours], least), max(row[other], least)
                    if their > 0 and math.isfinite(own / their):
                        yield Comparison(own / their, run, table, case, ours, other)


def _alike(ours: str, other: str) -> bool:
    """Another library that has this library's key is compared only with ours that have it too."""
    return "jaxdrop.key" in ours or "jaxdrop.key" not in other
