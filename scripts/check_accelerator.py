"""What this library does on the accelerator that JAX finds: exactness first, then time and memory
over what they are bound by.

    python scripts/check_accelerator.py --out docs/results  # about eight minutes on a GPU
    python scripts/check_accelerator.py --quick  # small shapes: only that it runs

Figures are written to `accelerator-DEVICE.json` in --out as they come, so that a run that is
stopped keeps what it has measured. A measurement that fails is recorded with its error, and the
next one runs; the exit status is then 1. Peers that are not installed (PyTorch, cuDNN) are left
out.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.7")  # the rest is PyTorch's
sys.path.append(str(Path(__file__).parents[1]))

import jax

from accelerator import attention, dense_attention, elementwise, exactness, models, saved_work
from benchmarks import _peers
from benchmarks._figures import Measurement
from benchmarks._report import Report

# In order of value: where time runs out, the last ones are not reached.
MEASUREMENTS: dict[str, Measurement] = {
    f"{module.__name__.rpartition('.')[2]}.{measure.__name__}": measure
    for module in (exactness, dense_attention, elementwise, attention, models, saved_work)
    for measure in module.MEASUREMENTS
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the JSON file")
    parser.add_argument(
        "--minutes", type=float, default=8, help="no measurement begins later than this"
    )
    parser.add_argument(
        "--only", action="append", choices=MEASUREMENTS, metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    name = re.sub(r"\W+", "-", device.device_kind).strip("-").lower()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"accelerator-{name}.json"
    report = Report(
        "accelerator",
        judge=not arguments.quick and device.platform != "cpu",
        quick=arguments.quick,
    )
    report.introduce(f"{device.platform}: {device.device_kind}", _peers.missing())

    begin, failed = time.monotonic(), False
    for title in arguments.only or MEASUREMENTS:
        start = time.monotonic()
        if start - begin > 60 * arguments.minutes:
            report.note(f"{title}: not reached in {arguments.minutes:g} minutes")
            continue
        failed |= not report.attempt(title, MEASUREMENTS[title](arguments.quick), path)
        report.console.print(f"[dim]{title}: {time.monotonic() - start:.0f} s[/dim]")
    report.close(complete=set(report.measurements) >= set(MEASUREMENTS))
    report.save(path)
    report.console.print(f"written to {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
