"""The tables of the examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table


def standard_error(values: npt.ArrayLike) -> float:
    """Of the mean of values; infinite for a single one."""
    values = np.asarray(values)
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.inf


def spread(values: npt.ArrayLike, digits: int) -> str:
    """The mean and, if there are several values, its standard error."""
    values = np.asarray(values)
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column says what a row is about, and whose others are numbers."""
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    for index, column in enumerate(columns):
        shown.add_column(
            column, justify="right" if index else "left", vertical="bottom", no_wrap=True
        )
    for row in rows:
        shown.add_row(*row)
    return shown
