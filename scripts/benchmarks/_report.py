"""Tables for the terminal, and the same figures as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import jax
import rich.table
from rich.console import Console
from rich.table import Column

from benchmarks._figures import Bar, Table

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "equinox", "dm-haiku", "keras", "torch")


class Report:
    """Prints figures as they come, and keeps them.

    Args:
      suite: the name to save the figures under.
      judge: whether to say if a bar was reached.
    """

    def __init__(self, suite: str, *, judge: bool = True) -> None:
        self.suite = suite
        self.judge = judge
        self.tables: list[Table] = []
        self.bars: list[Bar] = []
        self.notes: list[str] = []
        self.console = Console()

    def add(self, item: Table | Bar) -> None:
        """Prints a table or a bar."""
        if isinstance(item, Table):
            self.tables.append(item)
            self.console.print(_layout(item))
        else:
            self.bars.append(item)
            self.console.print("  " + self._sentence(item), soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Prints a sentence: why a figure is missing."""
        self.notes.append(sentence)
        self.console.print(sentence, markup=False, highlight=False)

    def close(self) -> None:
        """Prints all bars once more, in one table."""
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
        for bar in self.bars:
            table.add_row(
                bar.figure,
                _number(bar.value, bar.unit),
                f"{bar.sign} {_number(bar.bound, bar.unit)}",
                self._verdict(bar),
            )
        self.console.print(table)

    def save(self, path: Path) -> None:
        """Writes everything to a JSON file."""
        content = {
            "suite": self.suite,
            "machine": {
                "processor": platform.machine(),
                "cpus": os.cpu_count(),
                "backend": jax.default_backend(),
                "device": jax.devices()[0].device_kind,
            },
            "versions": {"python": platform.python_version()} | versions(),
            "tables": [dataclasses.asdict(table) for table in self.tables],
            "bars": [
                dataclasses.asdict(bar) | ({"reached": bar.reached} if self.judge else {})
                for bar in self.bars
            ],
            **({"notes": self.notes} if self.notes else {}),
        }
        path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")

    def _sentence(self, bar: Bar) -> str:
        value, bound = _number(bar.value, bar.unit), _number(bar.bound, bar.unit)
        return f"{bar.figure}: [bold]{value}[/bold] (bar {bar.sign} {bound}) {self._verdict(bar)}"

    def _verdict(self, bar: Bar) -> str:
        if not self.judge:
            return "not judged"
        return "[green]reached[/green]" if bar.reached else "[red]missed[/red]"


def versions() -> dict[str, str]:
    """The installed versions of what takes part."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _layout(table: Table) -> rich.table.Table:
    shown = rich.table.Table(title=table.title, title_justify="left")
    shown.add_column("")
    for case in table.figures:
        shown.add_column(case, justify="right")
    candidates = dict.fromkeys(name for row in table.figures.values() for name in row)
    for name in candidates:
        cells = []
        for case, row in table.figures.items():
            if name not in row:
                cells.append("")
            elif table.limit is None or name == table.limit:
                cells.append(_number(row[name], table.units.get(case, table.unit)))
            else:
                cells.append(_number(row[name] / row[table.limit], "x"))
        shown.add_row(name, *cells)
    return shown


def _finite(item: Any) -> Any:
    """Null for a number that JSON does not have: the figure of what failed."""
    if isinstance(item, dict):
        return {name: _finite(entry) for name, entry in item.items()}
    if isinstance(item, list):
        return [_finite(entry) for entry in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return (
            f"{value:.2f} s"
            if value >= 1
            else f"{value * 1e3:.3g} ms"
            if value >= 1e-3
            else f"{value * 1e6:.3g} us"
        )
    if unit == "B":
        return f"{value / 2**20:,.1f} MiB" if value >= 2**20 else f"{value:,.0f} B"
    if unit == "x":
        return f"{value:.4g}x"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.2e}"
