#!/usr/bin/env python3
"""Measures jaxdrop against its peers, side by side in one process.

    python scripts/benchmark.py core                    # everything: about ten minutes
    python scripts/benchmark.py core --only chain       # one measurement
    python scripts/benchmark.py core --quick            # small shapes, to see that all of it runs

Needs jaxdrop[benchmark]; PyTorch takes part if it is installed. Times are medians of interleaved
runs (in `variants` and `recurrent` their fastest tenth), shown as multiples of one candidate's, and
differ from machine to machine and from run to run. TPU figures come from scripts/compile_tpu.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax

import benchmarks
from benchmarks import _peers
from benchmarks._report import Report, versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=benchmarks.names())
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this measurement; may be repeated"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes and few runs; no bar is judged"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    jax.config.update(
        "jax_enable_compilation_cache", False
    )  # compilation is among what is measured

    measurements = benchmarks.measurements(arguments.suite)
    for name in arguments.only or ():
        if name not in measurements:
            parser.error(
                f"suite {arguments.suite} has no measurement {name!r}; it has"
                f" {', '.join(measurements)}"
            )
    report = Report(arguments.suite, judge=not arguments.quick)
    report.console.print(
        ", ".join(f"{package} {version}" for package, version in versions().items())
    )
    for name in _peers.missing():
        report.console.print(f"{name} cannot be imported and is left out")
    for name in arguments.only or measurements:
        for item in measurements[name](arguments.quick):
            report.add(item)
    report.close()
    if arguments.json:
        report.save(arguments.json)


if __name__ == "__main__":
    main()
