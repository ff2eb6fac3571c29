"""The tables of the examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column says what a row is about, and whose others are numbers."""
    shown = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1)
    )
    for index, column in enumerate(columns):
        shown.add_column(column, justify="right" if index else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown
