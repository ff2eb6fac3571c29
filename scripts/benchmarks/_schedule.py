"""The schedule that libtpu's compiler makes, which it writes down if it is told to before it is
loaded: how many bundles of instructions a program issues, one a cycle unless it waits for memory.
"""

from __future__ import annotations

import functools
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

# Bytes a second of the memory, and cycles a second, by the device's kind: Google Cloud's
# documentation of TPU versions gives 819 GB/s and 197 TFLOP/s, which four matrix units of 128 x 128
# reach at 1.5 GHz.
_MEMORY = {"TPU v5 lite": (819e9, 1.5e9)}

_folder = functools.cache(lambda: tempfile.TemporaryDirectory(prefix="jaxdrop-schedules-"))


def write_down() -> None:
    """Tells libtpu, which must not be loaded yet, to write every program's schedule to a file."""
    options = f"--xla_jf_dump_to={_folder().name} --xla_jf_dump_llo_text=true"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {options}".strip()


def bundles(build: Callable[[], jax.stages.Compiled]) -> float:
    """The bundles that a program issues: of each fusion those of one window, by their number; NaN
    without `write_down`.
    """
    folder = Path(_folder().name)
    before = set(folder.iterdir())
    text = build().as_text() or ""
    total = 0.0
    for report in set(folder.iterdir()) - before:
        if report.name.endswith("schedule-analysis_final_bundles.txt"):
            for name, scheduled in _fusions(report.read_text()):
                total += scheduled * _windows(name, text)
    return total or math.nan


def memory_bound(device: jax.Device, moved: int) -> float:
    """The cycles that the memory takes to move so many bytes; NaN for an unknown TPU."""
    per_second, cycles = _MEMORY.get(device.device_kind, (math.nan, math.nan))
    return moved / per_second * cycles


def _fusions(report: str) -> Iterator[tuple[str, float]]:
    """The fusions of a report with their bundles."""
    pattern = r"^\s*([\d.]+) scheduled bundles \([\d.]+%\): (%[\w.\-]+) = .* fusion\("
    for found in re.finditer(pattern, report, re.MULTILINE):
        yield found[2], float(found[1])


def _windows(name: str, text: str) -> int:
    """How many windows a fusion of a compiled program runs over."""
    line = next((line for line in text.splitlines() if f"{name} = " in line), "")
    found = re.search(r'"iteration_bounds":\[([^\]]*)\]', line)
    return math.prod(map(int, re.findall(r"\d+", found[1]))) if found else 1
