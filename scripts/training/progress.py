"""What a run tells on its way: a bar in a terminal, and lines elsewhere, where a bar would show
nothing until the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0
"""Seconds between lines."""


class Show(Protocol):
    """Tells that `step` steps are taken; `text`, such as a loss, is told at once."""

    def __call__(self, step: int, text: str = "") -> None: ...


@contextmanager
def progress(console: Console, start: int, end: int, examples: int) -> Iterator[Show]:
    """Yields what shows the progress of a run whose steps take so many examples."""
    if not console.is_terminal:
        yield _Lines(console, start, end, examples)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Training", total=end, completed=start, text="")
        yield lambda step, text="": bar.update(
            task, completed=step, **({"text": text} if text else {})
        )


class _Lines:
    """`step 120 of 500, 31.2 steps/s, 1997 examples/s, 210 MiB; validation loss 1.234`."""

    def __init__(self, console: Console, start: int, end: int, examples: int) -> None:
        self._console = console
        self._end = end
        self._examples = examples
        self._told = start, time.monotonic()

    def __call__(self, step: int, text: str = "") -> None:
        before, then = self._told
        elapsed = time.monotonic() - then
        if not text and elapsed < EVERY:
            return
        parts = [f"step {step} of {self._end}"]
        if step > before:
            rate = (step - before) / elapsed
            parts += [f"{rate:.3g} steps/s", f"{rate * self._examples:.4g} examples/s"]
            self._told = step, time.monotonic()
        self._console.print(f"{', '.join(parts + _memory())}{'; ' if text else ''}{text}")


def _memory() -> list[str]:
    """The most that the first device has held, where the backend tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    held = stats.get("peak_bytes_in_use")
    return [] if held is None else [f"{held / 2**20:.0f} MiB"]
