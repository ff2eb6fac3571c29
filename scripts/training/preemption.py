"""Being told to stop: SIGTERM, which schedulers send some time before they kill."""

from __future__ import annotations

import signal
from typing import Self

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 128 + signal.SIGTERM
"""That of a process which SIGTERM ended: to be started again."""


class Preemption:
    """Notes the signal. With several processes, JAX tells the others, and all stop behind the same
    step.
    """

    def __enter__(self) -> Self:
        self._told = False
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop behind this step. To be asked at every step, by every
        process.
        """
        return (
            self._told
            if jax.process_count() == 1
            else multihost_utils.reached_preemption_sync_point(step)
        )
