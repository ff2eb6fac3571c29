"""A window of steps under JAX's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath

from training import storage

STEPS = 5


@contextmanager
def profile(first: int | None, folder: epath.Path) -> Iterator[Callable[[int, Any], None]]:
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
        if recording and done + 1 >= first + STEPS:  # type: ignore[operator]
            stop(result)
        if done + 1 == first:
            # What was sent to the device before is not part of it.
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(here))
            recording = True

    if first is None:
        yield behind
        return
    with storage.local(folder) as here:
        yield behind
        if recording:
            stop(())
