"""Dieharder (Brown), a Debian package. It calls a p-value outside [1e-6, 1 - 1e-6] FAILED, and one
outside [0.005, 0.995] WEAK: one value in a hundred of a perfect generator.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator

from batteries import programs
from batteries.verdicts import FAIL, PASS, Verdict, worst

# Birthdays, permutations, both ranks, bitstream, byte counts, squeeze, runs, gcd, monobit, serial,
# bit distribution, lagged sums, Kolmogorov-Smirnov, byte distribution, tree fill and monobit again.
SELECTION = (0, 1, 2, 3, 4, 8, 9, 13, 15, 17, 100, 101, 102, 200, 202, 204, 205, 207, 208, 209)

_RESULT = re.compile(r"^\s*(\w+)\|.*\|\s*([\d.]+)\|\s*(PASSED|WEAK|FAILED)\s*$")


def run(order: str, seed: int, tests: tuple[int, ...] | None) -> Iterator[Verdict]:
    """The verdict of each test, or of the whole battery."""
    for test in (None,) if tests is None else tests:
        with programs.source(order, seed) as source:
            battery = subprocess.run(
                ["dieharder", "-g", "200", *(["-a"] if test is None else ["-d", str(test)])],
                stdin=source.stdout,
                capture_output=True,
                text=True,
                check=True,
            )
        yield parse(order, seed, battery.stdout.splitlines(), test)


def parse(order: str, seed: int, lines: Iterable[str], test: int | None) -> Verdict:
    """The verdict of a log: of one test, or of all."""
    found = [match for line in lines if (match := _RESULT.match(line))]
    unusual = tuple(
        f"{match[1]} p = {match[2]} ({match[3]})" for match in found if match[3] != "PASSED"
    )
    outcome = worst(FAIL if match[3] == "FAILED" else PASS for match in found)
    # Dieharder counts its tests from 0.
    return Verdict(
        "dieharder", order, seed, outcome, len(found), unusual, test=0 if test is None else test + 1
    )
