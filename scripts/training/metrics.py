"""Where the figures of a run go: `metrics.jsonl`, and event files for TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from tensorboardX import SummaryWriter

from training import storage

PART = 2**20
"""Bytes of a file in a bucket, about. A file that grows is written again as a whole each time, so
that one file for a long run would be written a thousand times in its full length."""


class Log:
    """The figures of each step, each step once, also if the run is killed and resumed.

    A line of `metrics.jsonl` is `{"step": 1, "loss": 2.3, ...}`, where `step` is the number of
    steps taken. Lines are held back until `flush`, which comes before each checkpoint; on resuming
    from a checkpoint, lines of later steps are dropped.

    Args:
      folder: for `metrics.jsonl` and the event files. Only the first process writes.
      start: the number of steps taken when the run begins or resumes.
    """

    def __init__(self, folder: epath.Path, start: int) -> None:
        self._coming: tuple[int, dict[str, Any]] | None = None
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._writes = jax.process_index() == 0
        if self._writes:
            self._lines: _Lines = (_Parts if storage.in_bucket(folder) else _File)(folder, start)
            self._events = _Events(folder, start)

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
        if not self._writes or not waiting:
            return
        self._lines.write(
            "".join(json.dumps({"step": step} | values) + "\n" for step, values in waiting)
        )
        for step, values in waiting:
            self._events.add(step, values)
        self._events.flush()

    def note(self, step: int, values: dict[str, float]) -> None:
        """Figures for TensorBoard only: those of the machine, which no other run would repeat."""
        if self._writes:
            self._events.add(step, values)

    def close(self) -> None:
        if self._writes:
            self._lines.close()
            self._events.close()


def read(folder: epath.Path) -> str:
    """All lines, of `metrics.jsonl` and its further parts in a bucket."""
    return "".join(part.read_text() for part in _parts(folder))


class _Lines(Protocol):
    def write(self, text: str) -> None: ...
    def close(self) -> None: ...


class _File:
    """On a disk, a file that grows."""

    def __init__(self, folder: epath.Path, start: int) -> None:
        path = Path(folder) / "metrics.jsonl"
        if path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(_kept(path.read_text(), start))
            partial.replace(path)
        self._file = path.open("a")

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Parts:
    """In a bucket, `metrics.jsonl`, `metrics-1.jsonl`, ... The last is written again with each
    flush, until it is long enough.
    """

    def __init__(self, folder: epath.Path, start: int) -> None:
        self._folder = folder
        self._number, self._text = 0, ""
        # From the last one back, so that whoever is killed here leaves no gap: what lies behind one
        # is not found.
        for number, part in reversed([*enumerate(_parts(folder))]):
            text = part.read_text()
            kept = _kept(text, start)
            if kept:
                self._number, self._text = number, kept
                if kept != text:
                    part.write_text(kept)
                break  # those before it have earlier steps
            part.unlink()

    def write(self, text: str) -> None:
        if len(self._text) > PART:
            self._number, self._text = self._number + 1, ""
        self._text += text
        (self._folder / _part(self._number)).write_text(self._text)

    def close(self) -> None:
        """All is written."""


def _part(number: int) -> str:
    return f"metrics-{number}.jsonl" if number else "metrics.jsonl"


def _parts(folder: epath.Path) -> list[epath.Path]:
    found: list[epath.Path] = []
    while (path := folder / _part(len(found))).exists():
        found.append(path)
    return found


def _kept(text: str, steps: int) -> str:
    """The lines of the first `steps` steps. A line that was cut short is the last one, and of no
    checkpoint.
    """
    kept = []
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line + "\n")
        except ValueError:
            break
    return "".join(kept)


class _Events:
    """Event files; those for a bucket are written on this machine first, and begun anew when they
    are long enough.
    """

    def __init__(self, folder: epath.Path, start: int) -> None:
        self._folder = folder
        self._local = Path(tempfile.mkdtemp()) if storage.in_bucket(folder) else None
        self._files = 0
        self._open(purge_step=start + 1 if start else None)

    def _open(self, purge_step: int | None = None) -> None:
        self._files += 1
        self._writer = SummaryWriter(
            str(self._local or self._folder),
            purge_step=purge_step,
            filename_suffix=f".{self._files}" if self._local else "",
        )

    def add(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            for run, number in enumerate(value) if isinstance(value, list) else [("", value)]:
                self._writer.add_scalar(f"{name}{f'/{run}' if run != '' else ''}", number, step)

    def flush(self) -> None:
        self._writer.flush()
        if self._local is None:
            return
        for file in self._local.iterdir():
            content = file.read_bytes()
            (self._folder / file.name).write_bytes(content)
            if len(content) > PART:
                self._writer.close()
                file.unlink()
                self._open()

    def close(self) -> None:
        self._writer.close()
        if self._local is not None:
            shutil.rmtree(self._local)
