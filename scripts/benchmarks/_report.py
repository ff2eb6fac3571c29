"""Tables for the terminal, and the same figures as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.table import Column

from benchmarks import _provenance
from benchmarks._figures import Bar, Table, number, spread
from benchmarks._provenance import versions

# With more cases than these, each is a line in place of a column.
_COLUMNS = 5
_SAME = ("suite", "target", "quick", "share", "machine", "versions")


class Report:
    """Prints figures as they come, and keeps them.

    Args:
      suite: the name to save the figures under.
      judge: whether to say if a bar was reached.
      quick: whether shapes are small, so that no figure is worth anything.
      share: of the seconds and runs that a measurement asks for.
      target: the device that programs are compiled for, where it is not the one that runs them.
    """

    def __init__(
        self,
        suite: str,
        *,
        judge: bool = True,
        quick: bool = False,
        share: float = 1.0,
        target: str | None = None,
    ) -> None:
        self.suite = suite
        self.judge = judge
        self.quick = quick
        self.share = share
        self.target = target
        self.tables: list[dict[str, Any]] = []
        self.bars: list[tuple[Bar, str | None]] = []
        self.notes: list[str] = []
        self.measurements: dict[str, dict[str, Any]] = {}
        self.complete = False
        self.console = Console()
        self._measurement: str | None = None
        # Now, before anyone edits it: this is the code that is loaded.
        self._code = _provenance.code()

    def introduce(self, device: str = "", missing: Iterable[str] = ()) -> None:
        """Prints the device and the versions of what takes part, and who is missing."""
        shown = ", ".join(f"{package} {version}" for package, version in versions().items())
        self.console.print(f"{device}; {shown}" if device else shown)
        for peer in missing:
            self.console.print(f"{peer} cannot be imported and is left out")

    def measure(self, name: str, items: Iterable[Table | Bar], path: Path | None = None) -> None:
        """Adds what a measurement yields. If all of it came, the measurement is noted, with what
        else the machine did meanwhile.

        Args:
          name: of the measurement.
          items: its figures, measured as they are asked for.
          path: a file that is written after each of them.
        """
        self._measurement, watch = name, _provenance.Watch()
        try:
            for item in items:
                self.add(item)
                if path:
                    self.save(path)
            self.measurements[name] = watch.reading()
        finally:
            self._measurement = None

    def attempt(self, name: str, items: Iterable[Table | Bar], path: Path | None = None) -> bool:
        """As `measure`; an error becomes a note. Says whether there was none."""
        try:
            self.measure(name, items, path)
        except Exception:
            self.note(f"{name} failed: {traceback.format_exc(limit=-3)}")
        if path:
            self.save(path)
        return name in self.measurements

    def add(self, item: Table | Bar) -> None:
        """Prints a table or a bar."""
        if isinstance(item, Table):
            self.tables.append(_entry(item, self._measurement))
            self.console.print(_layout(item))
        else:
            self.bars.append((item, self._measurement))
            self.console.print("  " + self._sentence(item), soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Prints a sentence: why a figure is missing."""
        self.notes.append(sentence)
        self.console.print(sentence, markup=False, highlight=False)

    def close(self, *, complete: bool = True) -> None:
        """Prints all bars once more, in one table. All that was to be measured has been, if it is
        `complete`.
        """
        self.complete = complete
        if not self.bars:
            return
        measured, bound = Column("measured", justify="right"), Column("bar", justify="right")
        table = rich.table.Table(
            "figure",
            measured,
            bound,
            "",
            title=f"{self.suite}: what must be reached",
            title_justify="left",
        )
        for bar, _ in self.bars:
            table.add_row(
                bar.figure,
                number(bar.value, bar.unit),
                f"{bar.sign} {number(bar.bound, bar.unit)}",
                self._verdict(bar),
            )
        self.console.print(table)

    def content(self) -> dict[str, Any]:
        """Everything, as it is saved."""
        found = {
            "suite": self.suite,
            **({"target": self.target} if self.target else {}),
            "quick": self.quick,
            "share": self.share,
            "complete": self.complete,
            "code": self._code,
            "machine": _provenance.machine(),
            "versions": {"python": platform.python_version()} | versions(),
            "measurements": self.measurements,
            "tables": self.tables,
            "bars": [
                {"measurement": measurement}
                | dataclasses.asdict(bar)
                | ({"reached": bar.reached} if self.judge else {})
                for bar, measurement in self.bars
            ],
            **({"notes": self.notes} if self.notes else {}),
        }
        return _finite(found)

    def save(self, path: Path) -> None:
        """Writes everything to a JSON file, which a kill leaves as it was or makes new."""
        text = _json(self.content()) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(path.name + ".new")
        made.write_text(text)
        os.replace(made, path)

    def resume(self, path: Path) -> bool:
        """Takes the finished measurements of a file that the same code wrote here, with the same
        versions, and says whether there were any.
        """
        earlier = read(path)
        own = self.content()
        if earlier is None or any(earlier.get(name) != own.get(name) for name in _SAME):
            return False
        code = earlier.get("code", {})
        # Of changes it is not known since when they are there.
        if own["code"]["changed"] or code.get("content") != own["code"]["content"]:
            return False
        done: dict[str, Any] = earlier.get("measurements", {})
        self.measurements = {**done}
        self.tables = [each for each in earlier["tables"] if each.get("measurement") in done]
        for each in earlier["bars"]:
            fields = {field.name: each[field.name] for field in dataclasses.fields(Bar)}
            value = math.nan if fields["value"] is None else fields["value"]
            if each.get("measurement") in done:
                self.bars.append((Bar(**fields | {"value": value}), each["measurement"]))
        return bool(done)

    def _sentence(self, bar: Bar) -> str:
        value, bound = number(bar.value, bar.unit), number(bar.bound, bar.unit)
        return f"{bar.figure}: [bold]{value}[/bold] (bar {bar.sign} {bound}) {self._verdict(bar)}"

    def _verdict(self, bar: Bar) -> str:
        if not self.judge:
            return "not judged"
        return "[green]reached[/green]" if bar.reached else "[red]missed[/red]"


def read(path: Path) -> dict[str, Any] | None:
    """A file of figures; None if there is none, or if it is broken."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "tables" in found else None


def _json(item: Any, depth: int = 0) -> str:
    """JSON in which what holds nothing but figures is one line."""
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    if not any(isinstance(part, dict | list) for part in parts):
        return json.dumps(item, allow_nan=False)
    inside = "\n" + " " * (depth + 1)
    if isinstance(item, dict):
        lines = [f"{json.dumps(name)}: {_json(part, depth + 1)}" for name, part in item.items()]
    else:
        lines = [_json(part, depth + 1) for part in item]
    begin, end = "{}" if isinstance(item, dict) else "[]"
    return f"{begin}{inside}{f',{inside}'.join(lines)}{inside[:-1]}{end}"


def _entry(table: Table, measurement: str | None) -> dict[str, Any]:
    """A table as it is saved."""
    roles = table.roles
    return {
        "measurement": measurement,
        "title": table.title,
        "unit": table.unit,
        "axis": table.axis,
        "limit": table.limit,
        "units": table.units,
        "ours": list(roles.ours),
        "bounds": list(roles.bounds),
        "figures": {
            case: {name: float(value) for name, value in row.items()}
            for case, row in table.figures.items()
        },
        "spread": spread(table),
        "not_run": table.not_run,
    }


def _layout(table: Table) -> rich.table.Table:
    shown = rich.table.Table(title=table.title, title_justify="left")
    lines = len(table.figures) > _COLUMNS
    shown.add_column(table.axis or "" if lines else "")
    for name in table.candidates if lines else table.figures:
        shown.add_column(name, justify="right")
    if lines:
        for case in table.figures:
            shown.add_row(case, *(_cell(table, case, name) for name in table.candidates))
    else:
        for name in table.candidates:
            shown.add_row(name, *(_cell(table, case, name) for case in table.figures))
    return shown


def _cell(table: Table, case: str, name: str) -> str:
    row, limit = table.figures[case], table.limit
    if name not in row:
        return "not run" if name in table.not_run.get(case, {}) else ""
    if limit is None or name == limit or not row.get(limit):
        return number(row[name], table.unit_of(case))
    return number(row[name] / row[limit], "x")


def _finite(item: Any) -> Any:
    """Null for a number that JSON does not have: the figure of what failed."""
    if isinstance(item, dict):
        return {name: _finite(entry) for name, entry in item.items()}
    if isinstance(item, list):
        return [_finite(entry) for entry in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item
