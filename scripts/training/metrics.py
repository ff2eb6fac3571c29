"""Where the figures of a run go: `metrics.jsonl`, event files for TensorBoard, and a bar in the
terminal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter


class Log:
    """The figures of each step, each step once, also if the run is killed and resumed.

    A line of `metrics.jsonl` is `{"step": 1, "loss": 2.3, ...}`, where `step` is the number of
    steps taken. Lines are held back until `flush`, which comes before each checkpoint; on resuming
    from a checkpoint, lines of later steps are dropped.

    Args:
      folder: for `metrics.jsonl` and the event files. Only the first process writes.
      start: the number of steps taken when the run begins or resumes.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._coming: tuple[int, dict[str, Any]] | None = None
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._writes = jax.process_index() == 0
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "metrics.jsonl"
            _truncate(path, start)
            self._file = path.open("a")
            self._events = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes figures, which may still be on their way to being computed: those before them are
        fetched, while the device works on these.

        Raises:
          SystemExit: a figure before these is not finite. Lines before it are written.
        """
        self._fetch()
        self._coming = step, metrics

    def flush(self) -> None:
        """Writes all lines to the disk.

        Raises:
          SystemExit: a figure is not finite. Lines before it are written.
        """
        self._fetch()
        self._write()

    def _fetch(self) -> None:
        """Takes the last figures from the device, all at once."""
        if self._coming is None:
            return
        (step, metrics), self._coming = self._coming, None
        values = {
            name: np.asarray(value, np.float64).tolist()
            for name, value in jax.device_get(metrics).items()
        }
        bad = next((name for name, value in values.items() if not np.isfinite(value).all()), None)
        if bad is not None:
            self._write()
            raise SystemExit(
                f"Step {step}: {bad} is {values[bad]}. Try a lower --learning-rate or --clip."
            )
        self._waiting.append((step, values))

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not self._writes:
            return
        for step, values in waiting:
            self._file.write(json.dumps({"step": step} | values) + "\n")
            for name, value in values.items():
                for run, number in enumerate(value) if isinstance(value, list) else [("", value)]:
                    self._events.add_scalar(f"{name}{f'/{run}' if run != '' else ''}", number, step)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._writes:
            self._file.close()
            self._events.close()


def _truncate(path: Path, steps: int) -> None:
    """Keeps the lines of the first `steps` steps. A line that was cut short is the last one, and of
    no checkpoint.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line + "\n")
        except ValueError:
            break
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
