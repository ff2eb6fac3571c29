#!/usr/bin/env python3
"""Makes wrong calls of the whole public surface, and counts what becomes of them.

    python scripts/check_errors.py                      # 10 000 calls: some minutes
    python scripts/check_errors.py --calls 500 --show 5
    python scripts/check_errors.py --only "nnx.*" --show 20 --outcome "internal error"

A right call of every function and layer is spoiled in one argument: a value of a wrong kind, shape,
dtype or range, a traced value where it has to be known, a key in a wrong place, an argument of
another library. The error must be a TypeError, ValueError or NotImplementedError that this library
raises itself, and name the argument. The exit status is the number of figures above their bars.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import os
import sys
from collections.abc import Iterable
from typing import get_args

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

import jax  # after the environment, which JAX reads once
import rich.table
from rich.console import Console

from errors import calls, layers
from errors.calls import Call
from errors.outcomes import Judged, Outcome, judge, mistakes

# How many in 10 000 calls may end so.
BARS: dict[Outcome, float] = {"internal error": 0, "names another argument": 50, "accepted": 20}


def surface(pattern: str = "*") -> list[Call]:
    """A right call of everything public whose name matches."""
    found = [*calls.functions(), *calls.statistics(), *calls.plots(), *layers.both()]
    return [call for call in found if fnmatch.fnmatch(call.name, pattern)]


def table(judged: Iterable[Judged]) -> rich.table.Table:
    """Counts by package and outcome."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in judged:
        for row in (_package(one.mistake.call.name), "all"):
            counts[row][one.outcome] += 1
    shown = rich.table.Table(
        "", "calls", *get_args(Outcome), title="wrong calls", title_justify="left"
    )
    for row in sorted(counts, key=lambda row: (row == "all", row)):
        shown.add_row(
            row, str(counts[row].total()), *(str(counts[row][name]) for name in get_args(Outcome))
        )
    return shown


def _package(name: str) -> str:
    """`jaxdrop.mc.regression` -> `mc`."""
    parts = name.removeprefix("jaxdrop.").split(".")
    return parts[0] if parts[0] in ("mc", "nnx", "linen", "random", "schedules") else "functions"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="*", help="a pattern of names, such as 'nnx.*' or '*.drop_block'"
    )
    parser.add_argument(
        "--show", type=int, default=3, help="how many examples of each outcome to show"
    )
    parser.add_argument(
        "--outcome", choices=get_args(Outcome), help="show examples of this outcome only"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_traceback_filtering", "off")
    chosen = surface(arguments.only)
    judged = [judge(mistake) for mistake in mistakes(chosen, arguments.calls, arguments.seed)]
    console = Console(width=160)
    for outcome in BARS if arguments.outcome is None else [arguments.outcome]:
        examples = {str(one.mistake): one.says for one in judged if one.outcome == outcome}
        console.print(f"[bold]{outcome}[/bold]: {len(examples)} different calls")
        for name, says in list(examples.items())[: arguments.show]:
            console.print(f"  {name}\n    {says[:400]}", markup=False, highlight=False)
    console.print(table(judged))
    missed = 0
    for outcome, bar in BARS.items():
        count = sum(one.outcome == outcome for one in judged)
        reached = count <= bar * len(judged) / 10_000
        missed += not reached
        console.print(
            f"  {outcome}: {count} (bar {bar:g} in 10 000) {'reached' if reached else 'missed'}"
        )
    return missed


if __name__ == "__main__":
    sys.exit(main())
