"""A window of steps under JAX's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

STEPS = 5


@contextmanager
def profile(first: int | None, folder: Path) -> Iterator[Callable[[int, Any], None]]:
    """Yields what is to be called behind each step, with the number of steps taken and what the
    step returned. Steps `first` to `first + STEPS - 1` are recorded, or as many as there are.
    """
    recording = False

    def stop(result: Any) -> None:
        nonlocal recording
        jax.block_until_ready(result)
        jax.profiler.stop_trace()
        recording = False

    def behind(done: int, result: Any) -> None:
        nonlocal recording
        if recording and done >= first + STEPS - 1:  # type: ignore[operator]
            stop(result)
        if first is not None and done == first - 1:
            # What was sent to the device before is not part of it.
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(folder))
            recording = True

    yield behind
    if recording:
        stop(())
