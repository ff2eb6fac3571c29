"""A progress bar for loops on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Passes `items` on, and shows on stderr how many of `total` there have been; of several processes the first one does."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        raise ImportError("progress=True needs rich: pip install rich, or pass progress=False") from None
    yield from track(items, description, total, disable=jax.process_index() != 0, console=Console(stderr=True))
