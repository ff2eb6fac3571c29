"""The files that `scripts/benchmark.py`, `check_accelerator.py` and `compile_*.py` write."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks._figures import Table

FOLDER = Path(__file__).parents[2] / "docs" / "results"
# Cores that other work kept busy, from which on its figures are marked.
BUSY = 0.2


@dataclass(frozen=True)
class Shown:
    """A table, and how its runs differ."""

    table: Table
    spread: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """What one file says."""

    path: Path
    content: Mapping[str, Any]

    @property
    def suite(self) -> str:
        """What was measured."""
        return str(self.content["suite"])

    @property
    def name(self) -> str:
        """The suite, and for what it was compiled: there may be several files of such a one."""
        return f"{self.suite}, {self.content['target']}" if self.compiled else self.suite

    @property
    def quick(self) -> bool:
        """Whether shapes were so small that no figure is worth anything."""
        return bool(self.content.get("quick"))

    @property
    def complete(self) -> bool:
        """Whether all of the suite was measured."""
        return bool(self.content.get("complete", True))

    @property
    def compiled(self) -> bool:
        """Whether figures are a compiler's, so that other work on the machine changes none."""
        return "target" in self.content

    @property
    def where(self) -> str:
        """The device."""
        machine = self.content["machine"]
        if self.compiled:
            return f"Compiled for TPU {self.content['target']}, not run"
        if machine["backend"] != "cpu":
            return str(machine["device"])
        memory = machine.get("memory")
        size = f", {memory / 2**30:.0f} GiB" if memory else ""
        return f"{machine.get('model') or machine['processor']}, {machine['cpus']} cores{size}"

    @property
    def code(self) -> Mapping[str, Any]:
        """By which code; empty if that is not known."""
        return self.content.get("code") or {}

    @property
    def date(self) -> str | None:
        """The day of the first measurement."""
        return min((each["date"][:10] for each in self._measurements), default=None)

    @property
    def minutes(self) -> float | None:
        """How long all took."""
        seconds = [each["seconds"] for each in self._measurements]
        return sum(seconds) / 60 if seconds else None

    @property
    def other_work(self) -> float | None:
        """How many cores others kept busy meanwhile, in the measurement where they were most."""
        known = [each.get("other_work") for each in self._measurements]
        return max((each for each in known if each is not None), default=None)

    @property
    def busy(self) -> bool:
        """Whether other work may have changed the times, if there are any."""
        made = [each.table for each in self.tables]
        timed = any(table.unit_of(case) == "s" for table in made for case in table.figures)
        return timed and not self.compiled and (self.other_work or 0) > BUSY

    @functools.cached_property
    def tables(self) -> tuple[Shown, ...]:
        """All tables."""
        return tuple(self._tables())

    def _tables(self) -> Iterator[Shown]:
        for each in self.content["tables"]:
            figures = {
                case: {
                    name: math.nan if value is None else float(value) for name, value in row.items()
                }
                for case, row in each["figures"].items()
            }
            table = Table(
                each["title"],
                each["unit"],
                figures,
                limit=each.get("limit"),
                units=each.get("units", {}),
                axis=each.get("axis"),
                not_run=each.get("not_run", {}),
                ours=tuple(each.get("ours", ())),
                bounds=tuple(each.get("bounds", ())),
            )
            yield Shown(table, each.get("spread", {}))

    @property
    def bars(self) -> list[Mapping[str, Any]]:
        """All figures that have a bar to reach."""
        return list(self.content["bars"])

    @property
    def notes(self) -> list[str]:
        """What is missing, and why."""
        return list(self.content.get("notes", ()))

    @property
    def _measurements(self) -> list[Mapping[str, Any]]:
        return list(self.content.get("measurements", {}).values())


def load(folder: Path = FOLDER) -> list[Run]:
    """The files of a folder that hold figures: those of benchmarks in the order of their suites,
    then others by name. Broken ones are errors.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "tables" in content:
            found.append(Run(path, content))
    order = benchmarks.names()
    known = [run for run in found if run.suite in order]
    known.sort(key=lambda run: order.index(run.suite))
    return known + [run for run in found if run.suite not in order]


class Figures:
    """Figures by suite, title, case and candidate. Quick runs, and those that were cut, are not
    quoted.
    """

    def __init__(self, runs: list[Run], folder: Path = FOLDER) -> None:
        self.folder = folder
        self.runs = [run for run in runs if run.complete and not run.quick]

    def has(self, *suites: str) -> bool:
        """Whether all of these were measured."""
        return {*suites} <= {run.suite for run in self.runs}

    def table(self, suite: str, title: str, case: str = "", title_end: str = "") -> Table | None:
        """The first table whose title begins and ends so, with a case that begins so."""
        for run in self.runs:
            for each in run.tables if run.suite == suite else ():
                found = each.table
                named = found.title.startswith(title) and found.title.endswith(title_end)
                if named and any(name.startswith(case) for name in found.figures):
                    return found
        return None

    def row(self, suite: str, title: str, case: str = "") -> Mapping[str, float]:
        """The figures of the first case that begins so; empty if there are none."""
        table = self.table(suite, title, case)
        rows = table.figures.items() if table else ()
        return next((row for name, row in rows if name.startswith(case)), {})
