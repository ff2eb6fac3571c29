"""The `repr` of a summary: one short line, whatever its fields hold; and a table for notebooks.

A transformation may put any object into the fields of a pytree: tracers, shapes, layouts, None. The
line leaves out the values that are not known.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from html import escape
from typing import Any

import jax
import numpy as np

from jaxdrop import _tables

# Larger arrays are not copied from a device to print a line.
_MOST = 2**22


def line(summary: Any, shape: Callable[[], str], means: Callable[[], dict[str, Any]]) -> str:
    """`Name(100 samples in 5 groups, <shape>; mean <name> 0.21, <name> 0.05)`.

    Args:
      summary: a dataclass with `num_samples` and `num_groups`.
      shape: returns a text on the shapes of the fields.
      means: returns the arrays whose means are printed, by name, as NumPy arrays from `known`.
    """
    name = type(summary).__name__
    try:
        parts = [_samples(summary), shape()]
    except (AttributeError, IndexError, TypeError):  # fields that are no arrays have no shapes
        kinds = dict.fromkeys(
            type(getattr(summary, x.name)).__name__ for x in dataclasses.fields(summary)
        )
        return f"{name}(fields of {', '.join(kinds)})"
    try:
        with np.errstate(all="ignore"):
            said = [f"{name} {array.mean():.2g}" for name, array in means().items() if array.size]
    except _UnknownError:
        said = []
    return _line(name, ", ".join(part for part in parts if part), said)


def short_line(summary: Any, what: str, names: tuple[str, ...]) -> str:
    """`Name(<what>; mean <name> 0.21, <name> 0.05)`, of fields that are single arrays."""
    said = []
    for name in names:
        try:
            (leaf,) = jax.tree.leaves(getattr(summary, name))
            values = known(leaf)
            if values.size:
                with np.errstate(all="ignore"):
                    said.append(f"{name} {values.mean():.2g}")
        except (_UnknownError, AttributeError, TypeError, ValueError):  # several arrays, or none
            pass
    return _line(type(summary).__name__, what, said)


def _line(name: str, what: str, means: list[str]) -> str:
    values = f"; mean {', '.join(means)}" if means else ""
    return f"{name}({what}{values})"


def html(summary: Any) -> str:
    """The line, and a row for each array: its fields, and what is computed from them."""
    fields = [field.name for field in dataclasses.fields(summary)]
    computed: list[str] = []
    try:
        for leaf in jax.tree.leaves([getattr(summary, name) for name in fields]):
            if isinstance(leaf, (jax.Array, np.ndarray)):
                known(leaf)
    except _UnknownError:
        pass  # nothing is computed from fields whose values are not at hand
    else:
        properties = inspect.getmembers(type(summary), lambda x: isinstance(x, property))
        computed = [name for name, _ in properties]
    rows = []
    for name in [*fields, *computed]:
        if name not in _NOT_SHOWN:
            rows += _rows(name, summary)
    head = ("", "shape", "mean", "smallest", "largest")
    table = _tables.html_table(head, rows) if rows else ""
    return f"<p><code>{escape(repr(summary))}</code></p>{table}"


# The line has the first two, and the third is rounding error.
_NOT_SHOWN = ("num_samples", "num_groups", "mean_residual")


def _rows(name: str, summary: Any) -> list[tuple[str, ...]]:
    """The arrays of a field or a property; none if its values are not known, or it has none."""
    rows = []
    try:
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(summary, name)):
            values = known(leaf)
            if values.size:
                with np.errstate(all="ignore"):
                    numbers = (values.mean(), values.min(), values.max())
                told = (f"{number:.4g}" for number in numbers)
                rows.append((name + jax.tree_util.keystr(path), str(values.shape), *told))
    except (_UnknownError, AttributeError, IndexError, TypeError, ValueError):
        return []
    return rows


class _UnknownError(Exception):
    """The values of an array are not on this machine, or not yet computed."""


def known(x: Any) -> np.ndarray[Any, Any]:
    """The values of an array, in float64."""
    concrete = isinstance(x, (jax.Array, np.ndarray)) and not isinstance(x, jax.core.Tracer)
    if not concrete or x.size > _MOST:
        raise _UnknownError
    if isinstance(x, jax.Array) and (x.is_deleted() or not x.is_fully_addressable):
        raise _UnknownError
    return np.asarray(x, np.float64)


def _samples(summary: Any) -> str:
    num = _number(summary.num_samples)
    if num is None:
        return ""
    groups = _number(summary.num_groups)
    samples = f"{num} sample{'s' * (num != 1)}"
    return samples if groups is None else f"{samples} in {groups} group{'s' * (groups != 1)}"


def _number(x: Any) -> int | None:
    try:
        values = np.unique(known(x))
    except _UnknownError:
        return None
    return int(values[0]) if values.size == 1 else None
