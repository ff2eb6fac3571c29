"""The schedule that libtpu's compiler makes, which it writes down if it is told to before it is
loaded: how many bundles of instructions a program issues, one a cycle unless it waits for memory.
"""

from __future__ import annotations

import functools
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from ahead.text import instructions

# Bytes a second of the memory, and cycles a second, by the device's kind: Google Cloud's
# documentation of TPU versions gives 819 GB/s and 197 TFLOP/s, which four matrix units of 128 x 128
# reach at 1.5 GHz.
_MEMORY = {"TPU v5 lite": (819e9, 1.5e9)}

_folder = functools.cache(lambda: tempfile.TemporaryDirectory(prefix="jaxdrop-schedules-"))


def write_down() -> None:
    """Tells libtpu, which must not be loaded yet, to write every program's schedule to a file."""
    options = f"--xla_jf_dump_to={_folder().name} --xla_jf_dump_llo_text=true"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {options}".strip()


def compile_and_count(
    build: Callable[[], jax.stages.Compiled],
) -> tuple[jax.stages.Compiled, float]:
    """A program, and the bundles that it issues: those of one window of each fusion, by the number
    of its windows and of the rounds of the loops around it. NaN without `write_down`.

    Of a kernel of Pallas the schedule has one step of its grid, with all branches. The compiled
    program does not say how many steps there are, so a kernel counts once.
    """
    folder = Path(_folder().name)
    compiled = build()
    text = compiled.as_text() or ""
    rounds: Counter[str] = Counter()
    windows: dict[str, int] = {}
    for line, times in instructions(text):
        if head := re.match(r"\s+(?:ROOT )?(%[\w.\-]+) = ", line):
            rounds[head[1]] += times
            bounds = re.search(r'"iteration_bounds":\[([^\]]*)\]', line)
            windows[head[1]] = math.prod(map(int, re.findall(r"\d+", bounds[1]))) if bounds else 1
    total = 0.0
    # Some sixty files for each fusion.
    for report in [*folder.iterdir()]:
        if report.name.endswith("schedule-analysis_final_bundles.txt"):
            for name, scheduled in _scheduled(report.read_text()):
                total += scheduled * windows.get(name, 1) * rounds.get(name, 1)
        report.unlink()
    return compiled, total or math.nan


def memory_bound(device: jax.Device, moved: int) -> float:
    """The cycles that the memory takes to move so many bytes; NaN for an unknown TPU."""
    per_second, cycles = _MEMORY.get(device.device_kind, (math.nan, math.nan))
    return moved / per_second * cycles


def _scheduled(report: str) -> Iterator[tuple[str, float]]:
    """The instructions of a report, and `<no hlo>` for what belongs to none, with their bundles."""
    pattern = r"^\s*([\d.]+) scheduled bundles \([ \d.]+%\): (%[\w.\-]+|<no hlo>)"
    for found in re.finditer(pattern, report, re.MULTILINE):
        yield found[2], float(found[1])
