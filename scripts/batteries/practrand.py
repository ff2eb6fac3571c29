"""PractRand (Doty-Humphrey): `RNG_test stdin32`, one report at each power of two of bytes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from batteries import programs
from batteries.verdicts import FAIL, PASS, SUSPICIOUS, Verdict, worst

BATTERY = "PractRand"

_LENGTH = re.compile(r"length= (\d+) (\w+)bytes? ")
_ODD = re.compile(r"^\s+(\S+)\s+R\s*[=>]\s*\S+\s+p\s*=\s*(.+?)\s{2,}(.*\S)\s*$")
_COUNT = re.compile(r"(?:no anomalies in|\.\.\.and) (\d+) test result")
_UNITS = {"kibi": 2**10, "mebi": 2**20, "gibi": 2**30, "tebi": 2**40}


def run(order: str, seed: int, program: Path, length: str) -> Iterator[Verdict]:
    """The verdict after each report."""
    command = [str(program), "stdin32", "-tlmin", "64MB", "-tlmax", length, "-multithreaded"]
    with (
        programs.source(order, seed) as source,
        subprocess.Popen(
            command, stdin=source.stdout, stdout=subprocess.PIPE, text=True
        ) as battery,
        programs.killed(battery),
    ):
        assert battery.stdout is not None
        yield from parse(order, seed, battery.stdout)


def parse(order: str, seed: int, lines: Iterable[str]) -> Iterator[Verdict]:
    """The verdict after each report of a log, of all reports up to it."""
    size, odd, outcomes = 0, 0, [PASS]
    unusual: list[str] = []
    for line in lines:
        if found := _LENGTH.search(line):
            size, odd = int(found[1]) * _UNITS[found[2]], 0
        elif count := _COUNT.search(line):
            values = int(count[1]) + odd
            yield Verdict(BATTERY, order, seed, worst(outcomes), values, tuple(unusual), size)
        elif found := _ODD.match(line):
            odd += 1
            evaluation = re.sub(r"[ !]+$", "", found[3])
            outcomes.append(
                FAIL if "FAIL" in evaluation else SUSPICIOUS if "suspicious" in evaluation else PASS
            )
            unusual.append(f"{size / 2**30:g} GiB: {found[1]} p = {found[2]} ({evaluation})")
