"""A progress bar for loops on the host."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

from jaxdrop import _optional

T = TypeVar("T")

_SECONDS = 10.0
"""Seconds between two lines of text, where no bar can be shown."""


def track(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Yields `items`, and shows on stderr how many of `total` have been taken: by a bar of rich if
    it is installed, otherwise by a line of text every few seconds. Of several processes only the
    first shows it.
    """
    rich, console = _optional.find("rich.progress"), _optional.find("rich.console")
    if jax.process_index():
        yield from items
    elif rich and console:
        yield from rich.track(items, description, total, console=console.Console(stderr=True))
    else:
        yield from _lines(items, description, total)


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    of, done, shown = f" of {total}" if total else "", 0, time.monotonic()
    for item in items:
        yield item
        done += 1
        if time.monotonic() - shown > _SECONDS:
            print(f"{description}: {done}{of}", file=sys.stderr, flush=True)
            shown = time.monotonic()
    print(f"{description}: {done}{of}, done", file=sys.stderr, flush=True)
