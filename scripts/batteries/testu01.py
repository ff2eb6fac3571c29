"""TestU01 (L'Ecuyer & Simard, "TestU01: A C library for empirical testing of random number
generators", ACM Trans. Math. Softw. 33, 2007): SmallCrush and Crush.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from batteries import programs
from batteries.verdicts import FAIL, PASS, SUSPICIOUS, Verdict, worst

TESTS = {"SmallCrush": 10, "Crush": 96}

# The authors call a p-value within 1e-10 of 0 or 1 a clear failure.
_FAILS, _SUSPICIOUS, _UNUSUAL = 1e-10, 1e-5, 1e-3
_RESULT = re.compile(r"^(\w+) (\d+) (\S+) (.+)$")


def run(
    battery: str, order: str, seed: int, installed: Path, part: tuple[int, int]
) -> Iterator[Verdict]:
    """The verdict of each test of a part of a battery: `(i, n)` for the tests i, i + n, ..."""
    libraries = [f"-l{name}" for name in ("testu01", "probdist", "mylib")]
    program = programs.build(
        "testu01", f"-I{installed / 'include'}", f"-L{installed / 'lib'}", *libraries
    )
    if program is None:
        raise SystemExit("TestU01 needs a C compiler")
    programs.verify(order, seed)
    command = [str(program), battery, order, str(seed), *map(str, part)]
    found_by = {**os.environ, "LD_LIBRARY_PATH": str(installed / "lib")}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=found_by) as process,
        programs.killed(process),
    ):
        assert process.stdout is not None
        yield from parse(order, seed, process.stdout)


def parse(order: str, seed: int, lines: Iterable[str]) -> Iterator[Verdict]:
    """The verdict of each test of a log."""
    values: list[tuple[str, float]] = []
    now = None
    for line in lines:
        found = _RESULT.match(line)
        if found is None or found[1] not in TESTS:
            continue
        test = found[1], int(found[2])
        if now is not None and test != now:
            yield _verdict(now, order, seed, values)
            values = []
        now = test
        values.append((found[4].strip(), float(found[3])))
    if now is not None:
        yield _verdict(now, order, seed, values)


def _verdict(
    test: tuple[str, int], order: str, seed: int, values: list[tuple[str, float]]
) -> Verdict:
    battery, number = test
    tails = [(name, p, min(p, 1 - p)) for name, p in values]
    outcome = worst(
        FAIL if tail < _FAILS else SUSPICIOUS if tail < _SUSPICIOUS else PASS
        for _, _, tail in tails
    )
    unusual = [
        f"{number} {name} p = {p:.1e}" if p < 0.5 else f"{number} {name} p = 1 - {tail:.1e}"
        for name, p, tail in tails
        if tail < _UNUSUAL
    ]
    return Verdict(
        f"TestU01 {battery}", order, seed, outcome, len(values), tuple(unusual), test=number
    )
