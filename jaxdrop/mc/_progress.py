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
"""Between two lines, where there is no bar."""


def track(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Passes `items` on, and shows on stderr how many of `total` there have been.

    Of several processes the first one does. By rich if it is installed, else by a line of text
    every few seconds.
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
