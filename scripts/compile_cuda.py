#!/usr/bin/env python3
"""Compiles dropout for an NVIDIA GPU, on any x86-64 Linux machine, and prints what the compilers
say about it.

    python -m venv .venv-cuda
    .venv-cuda/bin/pip install 'jax[cuda13]' '.[scripts]'
    .venv-cuda/bin/python scripts/compile_cuda.py core
    .venv-cuda/bin/python scripts/compile_cuda.py train --devices 8 --json cuda.json

No GPU is needed: XLA compiles for the device that `--target` describes, an H200 by default, with no
autotuning. It estimates no time. Kernels, temporaries and collectives are those of one device's
program; what stands in a loop counts once. A kernel more than without dropout is a mask that is
stored.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

_UNITS: dict[str, Literal["B"]] = {"temporaries": "B", "arguments": "B"}
TARGETS = Path(__file__).parent / "ahead" / "targets"


def prepare() -> None:
    """Tells XLA where CUDA's tools are, before JAX is imported."""
    found = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (found.submodule_search_locations if found else ()) or ()]
    assembler = next((path for place in places for path in place.glob("*/bin/ptxas")), None)
    if assembler is None or importlib.util.find_spec("jax_plugins") is None:
        sys.exit(
            "jax[cuda13] is not installed in this environment. It needs one of its own:\n"
            + (__doc__ or "").split("\n\n")[1]
        )
    flags = {"xla_gpu_autotune_level": 0, "xla_gpu_cuda_data_dir": assembler.parents[1]}
    given = [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={flags[name]}" for name in flags)]
    os.environ.update(
        XLA_FLAGS=" ".join(given), JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1", TF_CPP_MIN_LOG_LEVEL="3"
    )


def figures(traced: Any) -> dict[str, float]:
    """Compiles a program."""
    from ahead.text import collectives, kernels
    from benchmarks._compiled import held_bytes, scratch_bytes

    compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    return {
        "kernels in the program's text": kernels(compiled),
        "temporaries": scratch_bytes(compiled),
        "arguments": held_bytes(compiled),
        "collectives in the program's text": collectives(compiled),
    }


def programs_of(suite: str, devices: Any) -> Iterator[tuple[str, str, Any]]:
    """The programs of a suite, with their cases and their names."""
    import numpy as np
    from jax.sharding import Mesh

    from ahead import programs
    from benchmarks import _peers, training
    from training import parallel

    mesh = Mesh(np.array(devices).reshape(-1, 2 if len(devices) > 1 else 1), ("data", "model"))
    if suite == "core":
        yield from programs.core(mesh)
    elif suite == "chains":
        yield from programs.neighbors(mesh)
    elif suite == "attention":
        for name, program in programs.attention(mesh):
            yield "8 x 16 heads of 64, length 4096, bfloat16", name, program
    else:
        count = len(devices)
        shape = training.Shape(batch=2 * count, length=1024, width=1024, heads=16, layers=8)
        meshes = [f"data={count}", f"fsdp={count}"]
        meshes += [f"fsdp={count // 2},tensor=2"] if count > 2 else []
        for layout in dict.fromkeys(meshes):
            for name in (training.NO_DROPOUT, training.NOT_IN_ATTENTION, _peers.OWN_KEY):
                placed = parallel.make_mesh(layout, devices)
                program = programs.training_step(shape, name, placed)
                yield f"{layout}: {shape}", name, program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=("attention", "chains", "core", "train"))
    parser.add_argument(
        "--target",
        type=Path,
        default=TARGETS / "h200.txt",
        help="a GpuTargetConfigProto as text (default: an H200's)",
    )
    parser.add_argument("--devices", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if options.devices < 1:
        parser.error(f"--devices: must be at least 1, got {options.devices}")
    if not options.target.is_file():
        parser.error(f"--target {options.target}: there is no such file")
    prepare()
    compile_all(options)


def compile_all(options: argparse.Namespace) -> None:
    import jax
    from jax.experimental import topologies

    from benchmarks._report import Report

    jax.devices()  # loads the plugins
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology=f"1x1x{options.devices}",
        target_config=options.target.read_text(),
    )
    report = Report(f"cuda-{options.suite}", target=f"{options.target.stem} x {options.devices}")
    report.introduce()
    report.measure(options.suite, tables_of(options.suite, topology.devices))
    report.close()
    if options.json:
        report.save(options.json)


def tables_of(suite: str, devices: Sequence[Any]) -> Iterator[Any]:
    """A table for each figure, when all programs are compiled."""
    from benchmarks._figures import Table

    tables: dict[str, Table] = {}
    started = time.monotonic()
    for case, name, program in programs_of(suite, devices):
        found = figures(program)
        print(f"{case}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        for title, value in found.items():
            table = tables.setdefault(title, Table(title, _UNITS.get(title, ""), {}))
            table.figures.setdefault(case, {})[name] = value
        started = time.monotonic()
    yield from tables.values()


if __name__ == "__main__":
    main()
