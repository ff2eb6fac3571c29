"""Figures as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._figures import number
from results.files import Shown

NONE = "not measured"
# With more cases than these, and than candidates, each is a line in place of a column.
_COLUMNS = 4


def ratio(value: float | None) -> str:
    """A ratio in three digits, fewer if it is large."""
    if value is None or value != value:
        return NONE
    return f"{value:.2f}" if value < 2.995 else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes. Number and unit stay on one line, also where a page is read on GitHub."""
    if value is None or value != value:
        return NONE
    return _size(value).replace(" ", "\N{NO-BREAK SPACE}")


def _size(value: float) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return (
                f"{value / unit:.3g} {name}"
                if value < 999.5 * unit
                else f"{value / unit:.0f} {name}"
            )
    return f"{value:.0f} B"


def shown(value: float, unit: str) -> str:
    """A figure with its unit."""
    return size(value) if unit == "B" else number(value, unit)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; texts may hold bars."""
    lines = [_line(head), "|---" * len(head) + "|", *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    texts = [cell.replace("|", "\\|") for cell in cells]
    return "".join(f"| {text} " if text else "| " for text in texts) + "|"


def figures(measured: Shown) -> str:
    """All of a table: each figure, and its ratio to the table's limit, with the quartiles of that
    of runs side by side.
    """
    made = measured.table
    names, cases = made.candidates, [*made.figures]
    if made.axis or _COLUMNS < len(cases) >= len(names):
        head = [made.axis or "", *names]
        rows = [[_power(case), *(_cell(measured, case, name) for name in names)] for case in cases]
    else:
        head = ["", *cases]
        rows = [[name, *(_cell(measured, case, name) for case in cases)] for name in names]
    return table(head, rows)


def _power(case: str) -> str:
    value = int(case) if case.isdigit() else 0
    return f"2^{value.bit_length() - 1}" if value >= 512 and not value & (value - 1) else case


def _cell(measured: Shown, case: str, name: str) -> str:
    made = measured.table
    row = made.figures[case]
    if name not in row:
        return "not run" if name in made.not_run.get(case, {}) else ""
    text = shown(row[name], made.unit_of(case))
    limit = row.get(made.limit or "")
    if not limit or name == made.limit:
        return text
    quartiles = measured.spread.get(case, {}).get(name, {}).get("ratio")
    between = f" ({ratio(quartiles['lower'])} to {ratio(quartiles['upper'])})" if quartiles else ""
    return f"{text}: **{ratio(row[name] / limit)}**{between}"
