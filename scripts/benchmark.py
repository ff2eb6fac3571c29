#!/usr/bin/env python3
"""Measures jaxdrop against its peers, side by side in one process.

    python scripts/benchmark.py core                    # everything: about ten minutes
    python scripts/benchmark.py core --only chain       # one measurement
    python scripts/benchmark.py core --quick            # small shapes, to see that all of it runs
    python scripts/benchmark.py all                     # every suite, into docs/results
    python scripts/benchmark.py all --only core --only growth

Needs jaxdrop[benchmark]; PyTorch and Keras take part if they are installed. Times are medians of
interleaved runs (in some suites their fastest tenth), shown as multiples of one candidate's, and
differ from machine to machine and from run to run. TPU figures come from scripts/compile_tpu.py.

`all` runs each suite in a process of its own, in order of value, and writes `SUITE.json` into --out
after each measurement, so that a run that is cut keeps what it has. Begun again, it goes on with
what is missing: what the same code has measured on this machine with the same versions is left as
it is, unless --again. The files say what else the machine did meanwhile; leave it alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
from rich.console import Console

import benchmarks
from benchmarks import _peers, _timing
from benchmarks._report import Report, read

ALL = "all"
ROOT = Path(__file__).parents[1]
# `all` has many suites to run, and asks for less of each.
_SHARE = 0.4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=[*benchmarks.names(), ALL])
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="only this measurement, or with `all` this suite; may be repeated",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes and few runs; no bar is judged"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what --json has from the same code"
    )
    parser.add_argument(
        "--out", type=Path, help="with `all`: folder of the files (docs/results; quick: out/quick)"
    )
    parser.add_argument(
        "--again", action="store_true", help="with `all`: also what has been measured"
    )
    parser.add_argument(
        "--share",
        type=float,
        help=f"part of the seconds and of the turns ({_timing.LEAST_RUNS}) that a measurement"
        f" asks for; at least {_timing.FEWEST_RUNS} turns (1; with `all` {_SHARE})",
    )
    arguments = parser.parse_args()
    whole = arguments.suite == ALL
    if not whole and (arguments.out or arguments.again):
        parser.error("--out and --again are for all")
    if whole and (arguments.json or arguments.resume):
        parser.error("--json and --resume are for one suite; all has --out and --again")
    if arguments.share is not None and not 0 <= arguments.share <= 10:
        parser.error(f"--share: must be between 0 and 10, got {arguments.share}")
    known = benchmarks.names() if whole else [*benchmarks.measurements(arguments.suite)]
    for name in arguments.only or ():
        if name not in known:
            kind = "suite" if whole else f"measurement of {arguments.suite}"
            parser.error(f"--only {name}: no {kind}; there are {', '.join(known)}")
    return run_all(arguments) if whole else run(arguments)


def shortest_compilation() -> None:
    """Most of a quick run is compilation, whose code runs once."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def run(arguments: argparse.Namespace) -> int:
    """One suite, in this process."""
    if arguments.quick:
        shortest_compilation()
    # Compilation is among what is measured.
    jax.config.update("jax_enable_compilation_cache", False)
    if count := benchmarks.devices_of(arguments.suite):
        jax.config.update("jax_num_cpu_devices", count)
    if arguments.share is not None:
        _timing.share = arguments.share
    measurements = benchmarks.measurements(arguments.suite)
    report = Report(
        arguments.suite, judge=not arguments.quick, quick=arguments.quick, share=_timing.share
    )
    if arguments.resume and arguments.json:
        report.resume(arguments.json)
    report.introduce(missing=_peers.missing())
    failed = False
    for name in arguments.only or measurements:
        if name in report.measurements:
            report.console.print(f"{name} has been measured")
            continue
        failed |= not report.attempt(name, measurements[name](arguments.quick), arguments.json)
    report.close(complete=set(report.measurements) >= set(measurements))
    if arguments.json:
        report.save(arguments.json)
    return int(failed)


def run_all(arguments: argparse.Namespace) -> int:
    """Every suite, each in a process of its own: they differ in the devices that they ask for, and
    one that is killed takes no other along.
    """
    console = Console()
    quick = ["--quick"] if arguments.quick else []
    out = arguments.out or ROOT / ("out/quick" if arguments.quick else "docs/results")
    share = arguments.share if arguments.share is not None else _SHARE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = []
    begin = time.monotonic()
    for suite in arguments.only or benchmarks.names():
        path, start = out / f"{suite}.json", time.monotonic()
        command = [sys.executable, __file__, suite, "--json", str(path), "--share", str(share)]
        command += quick + ([] if arguments.again else ["--resume"])
        console.rule(suite)
        code = subprocess.run(command).returncode
        complete = (read(path) or {}).get("complete", False)
        if code or not complete:
            failed.append(suite)
        state = "complete" if complete else "not complete"
        minutes = (time.monotonic() - start) / 60
        console.print(f"{suite}: {state}, exit status {code}, {minutes:.1f} minutes, {path}")
    console.rule(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    if failed:
        console.print(f"not complete: {', '.join(failed)}. Run it again to go on.")
    console.print("python scripts/write_results.py --write puts the figures into the pages.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
