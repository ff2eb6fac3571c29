"""What a run tells on its way: a bar in a terminal, and lines elsewhere, where a bar would show
nothing until the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.flops import Usage

EVERY = 10.0
"""Seconds between lines."""


class Show(Protocol):
    """Tells that `step` steps are taken; `text`, such as a loss, is told at once."""

    def __call__(self, step: int, text: str = "") -> None: ...


@contextmanager
def progress(
    console: Console,
    start: int,
    end: int,
    examples: int,
    usage: Usage,
    note: Callable[[int, dict[str, float]], None],
) -> Iterator[Show]:
    """Yields what shows the progress of a run whose steps take so many examples.

    Args:
      console: where it is shown.
      start: the number of steps taken so far.
      end: the last step.
      examples: of a step.
      usage: says what share of the devices' peak the steps take.
      note: is called with a step and the figures of its speed.
    """
    speed = _Speed(start, examples, usage, note)
    if not console.is_terminal:

        def line(step: int, text: str = "") -> None:
            if text or speed.due:
                told = [f"step {step} of {end}", *speed.told(step)]
                console.print(f"{', '.join(told)}{'; ' if text else ''}{text}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Training", total=end, completed=start, text="", speed="")

        def update(step: int, text: str = "") -> None:
            fields: dict[str, Any] = {"text": text} if text else {}
            if speed.due:
                fields["speed"] = ", ".join(speed.told(step))
            bar.update(task, completed=step, **fields)

        yield update


class _Speed:
    """`31.2 steps/s, 1997 examples/s, 41.3 % MFU, 210 MiB`, since it was last told."""

    def __init__(
        self,
        start: int,
        examples: int,
        usage: Usage,
        note: Callable[[int, dict[str, float]], None],
    ) -> None:
        self._examples = examples
        self._usage = usage
        self._note = note
        self._step, self._time = start, time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._time >= EVERY

    def told(self, step: int) -> list[str]:
        if step == self._step:
            return _memory()
        now = time.monotonic()
        rate = (step - self._step) / (now - self._time)
        self._step, self._time = step, now
        parts = [f"{rate:.3g} steps/s", f"{rate * self._examples:.4g} examples/s"]
        figures = {"machine/steps_per_second": rate}
        if (share := self._usage.utilization(rate)) is not None:
            parts.append(f"{share:.1%} MFU")
            figures["machine/mfu"] = share
        self._note(step, figures)
        return parts + _memory()


def _memory() -> list[str]:
    """The most that the first device has held, where the backend tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    held = stats.get("peak_bytes_in_use")
    return [] if held is None else [f"{held / 2**20:.0f} MiB"]
