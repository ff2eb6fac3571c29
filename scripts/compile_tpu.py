#!/usr/bin/env python3
"""Compiles dropout for a TPU, on any x86-64 Linux machine, and prints what the compiler says about
it.

    python -m venv .venv-tpu
    .venv-tpu/bin/pip install 'jax[tpu]' '.[scripts]'
    .venv-tpu/bin/python scripts/compile_tpu.py core
    .venv-tpu/bin/python scripts/compile_tpu.py core --topology v5p:2x2x1 --json tpu.json
    .venv-tpu/bin/python scripts/compile_tpu.py train --topology v5e:4x4
    .venv-tpu/bin/python scripts/compile_tpu.py schedule

The package libtpu carries the real compiler, and no TPU is needed. It gets an environment of its
own, because JAX looks for a TPU wherever libtpu is installed. Cycles are the compiler's own
estimates, summed over the instructions of one device's program: a loop's body as often as it runs,
and of the branches of a condition the longest. `schedule` reads the bundles of instructions that
the compiler has scheduled, which is what vector arithmetic costs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before JAX is imported: libtpu would ask the cloud what machine this is, and JAX would look for a
# TPU to run on.
os.environ.update(
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # or a second compilation beside it dies on a lockfile
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    JAX_PLATFORMS="cpu",
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdrop
from ahead import programs
from ahead.text import collectives, cycles, kinds
from benchmarks import _peers, _schedule, training
from benchmarks import compute as skipping
from benchmarks._compiled import held_bytes, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY
from benchmarks._report import Report, versions
from benchmarks.attention import NO_DROPOUT
from jaxdrop.functional.attention import _kernels
from training import parallel

_CYCLES = "estimated cycles of one device"
_TEMPORARIES = "temporaries of one device"
_TRAINING: dict[str, Callable[[Any], float]] = {
    _CYCLES: cycles,
    _TEMPORARIES: scratch_bytes,
    "parameters and optimizer on one device": held_bytes,
}


def core(mesh: Mesh) -> Iterator[Table | Bar]:
    """One call over an array of 16384 x 4096 that is divided along both axes."""
    tables = {
        cycles: Table(
            f"estimated cycles of one of {mesh.size} devices", "", {}, limit=_peers.MULTIPLY
        ),
        scratch_bytes: Table("temporaries", "B", {}),
        collectives: Table("collectives", "", {}),
    }
    for case, name, program in programs.core(mesh):
        compiled = program.lower().compile()
        for figure, table in tables.items():
            table.figures.setdefault(case, {})[name] = figure(compiled)
    yield from tables.values()
    case = "forward, bfloat16"
    estimate = tables[cycles].figures[case]
    yield Bar(
        f"cycles, {case}: jaxdrop / multiply",
        estimate[_peers.OWN_KEY] / estimate[_peers.MULTIPLY],
        "<=",
        1.1,
    )
    yield Bar(
        f"collectives, {case}", tables[collectives].figures[case][_peers.OWN_KEY], "<=", 0, ""
    )


def schedule(mesh: Mesh) -> Iterator[Table | Bar]:
    """One call over 4096 x 4096 bfloat16 entries on one device."""
    alone = NamedSharding(Mesh(mesh.devices.ravel()[:1], ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=alone)
    found = {}
    for name in (_peers.MULTIPLY, _peers.SAME_KEY, OWN_KEY):
        peer = _peers.peers()[name]
        single = jax.eval_shape(lambda keys=peer.keys: keys(2)[1])
        key = jax.ShapeDtypeStruct(single.shape, single.dtype, sharding=alone)
        lowered = jax.jit(peer.drop).lower(key, x)
        found[name] = _schedule.bundles(lowered.compile)
    bound = _schedule.memory_bound(mesh.devices.flat[0], 2 * x.size * x.dtype.itemsize)
    case = "4096 x 4096, forward, bfloat16"
    yield Table("bundles", "", {case: {**found, "cycles that the memory takes": bound}})
    yield Bar(f"bundles, {case}: jaxdrop", found[OWN_KEY], "<=", 96e3, "")


def attention(mesh: Mesh) -> Iterator[Table | Bar]:
    """Forward and backward over 4096 tokens of 8 examples with 16 heads of 64, divided by example
    and head.
    """
    figures: dict[Callable[[Any], Any], dict[str, float]] = {
        cycles: {},
        scratch_bytes: {},
        collectives: {},
    }
    for name, program in programs.attention(mesh):
        compiled = program.lower().compile()
        for figure, row in figures.items():
            row[name] = figure(compiled)
    case = "8 x 16 heads of 64, length 4096, bfloat16, forward + backward"
    yield Table(
        f"estimated cycles of one of {mesh.size} devices",
        "",
        {case: figures[cycles]},
        limit=OWN_KEY,
    )
    yield Table("temporaries", "B", {case: figures[scratch_bytes]})
    yield Table("collectives", "", {case: figures[collectives]})
    yield Bar(
        "cycles: with dropout / without",
        figures[cycles][OWN_KEY] / figures[cycles][NO_DROPOUT],
        "<=",
        1.25,
    )
    yield Bar("collectives", figures[collectives][OWN_KEY], "<=", 0, "")


def compute(mesh: Mesh) -> Iterator[Table | Bar]:
    """The gradient of an MLP that does not compute the hidden units which it drops, on one device,
    by pattern.
    """
    alone = NamedSharding(Mesh(mesh.devices.ravel()[:1], ("data",)), PartitionSpec())
    tokens, features, units = 8192, 1024, 4096

    def given(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=alone)

    single = jax.eval_shape(lambda: jaxdrop.key(0))
    key = jax.ShapeDtypeStruct(single.shape, single.dtype, sharding=alone)
    weights = {"w_in": given(features, units), "w_out": given(units, features)}
    case = f"MLP {features}-{units}-{features}, {tokens} tokens, bfloat16, gradient"
    figures: dict[Callable[[Any], Any], dict[str, float]] = {
        cycles: {},
        skipping.flops: {},
        scratch_bytes: {},
    }
    for name, program in skipping.mlps(jax.nn.gelu).items():
        gradient = jax.jit(jax.grad(program, (1, 2)))
        compiled = gradient.lower(key, weights, given(tokens, features)).compile()
        for figure, row in figures.items():
            row[name] = figure(compiled)
    none = skipping.NO_DROPOUT
    yield Table("estimated cycles", "", {case: figures[cycles]}, limit=none)
    yield Table("FLOPs", "", {case: figures[skipping.flops]}, limit=none)
    yield Table("temporaries", "B", {case: figures[scratch_bytes]})
    ratio = figures[cycles][skipping.BLOCKS] / figures[cycles][none]
    yield Bar(f"cycles: {skipping.BLOCKS} / {none}", ratio, "<=", 0.7)


def train(mesh: Mesh) -> Iterator[Table | Bar]:
    """The training step of a transformer, in bfloat16, two texts a device, divided in three ways:
    by the batch, by FSDP, and by FSDP with four devices that share each matrix.
    """
    devices = [*mesh.devices.flat]
    count, none = len(devices), training.NO_DROPOUT
    shape = training.Shape(batch=2 * count, length=1024, width=1024, heads=16, layers=8)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    exchanged: dict[str, dict[str, float]] = {}
    for layout in (f"data={count}", f"fsdp={count}", f"fsdp={count // 4},tensor=4"):
        for name in (none, training.NOT_IN_ATTENTION, OWN_KEY):
            started = time.monotonic()
            program = programs.training_step(shape, name, parallel.make_mesh(layout, devices))
            compiled = program.lower().compile()
            print(f"{layout}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            for title, figure in _TRAINING.items():
                figures.setdefault(title, {}).setdefault(layout, {})[name] = figure(compiled)
            exchanged[f"{layout}, {name}"] = dict(kinds(compiled))
    for title, rows in figures.items():
        yield Table(f"{title}, {shape}", "B" if "cycles" not in title else "", rows, limit=none)
    yield Table("collectives in the program's text", "", exchanged)
    whole, divided, *_ = figures[_TEMPORARIES].values()
    yield Bar("temporaries, no dropout: FSDP / data", divided[none] / whole[none], "<=", 1.1)
    for layout, row in figures[_CYCLES].items():
        for name, bound in ((training.NOT_IN_ATTENTION, 1.05), (OWN_KEY, 1.25)):
            kept = figures[_TEMPORARIES][layout]
            added = sum(exchanged[f"{layout}, {name}"].values()) - sum(
                exchanged[f"{layout}, {none}"].values()
            )
            yield Bar(f"{layout}, cycles: {name} / none", row[name] / row[none], "<=", bound)
            yield Bar(f"{layout}, collectives added: {name}", added, "<=", 0, "")
            yield Bar(f"{layout}, temporaries: {name} / none", kept[name] / kept[none], "<=", 1.01)


def kernels(mesh: Mesh) -> Iterator[Table | Bar]:
    """Attention's kernels for TPUs, forward and backward, with every option, on one device."""
    shape, length = (1, 2048, 4, 128), 2048
    options: dict[str, dict[str, Any]] = {
        "no dropout": {},
        "causal": {},
        "lengths": {"query_seq_lengths": (1,), "key_value_seq_lengths": (1,)},
        "segments": {"segment_ids": (1, length)},
        "offset of each example": {"query_offset": (1,)},
        "mask": {"mask": (1, 1, length, length)},
        "bias": {"bias": (1, 4, length, length)},
    }
    dtypes = {"mask": jnp.bool_, "bias": jnp.bfloat16}
    device = NamedSharding(Mesh(mesh.devices.reshape(-1)[:1], ("x",)), PartitionSpec())
    _kernels.PLATFORM = "tpu"
    figures: dict[Callable[[Any], Any], dict[str, dict[str, float]]] = {
        calls: {},
        scratch_bytes: {},
    }
    key = jax.eval_shape(lambda: jaxdrop.key(0))
    for dtype, (name, given) in itertools.product((jnp.bfloat16, jnp.float32), options.items()):
        arrays = [jax.ShapeDtypeStruct(shape, dtype)] * 4
        extra = {
            option: jax.ShapeDtypeStruct(size, dtypes.get(option, jnp.int32))
            for option, size in given.items()
        }

        def both(key: Any, extra: Any, q: Any, k: Any, v: Any, c: Any, name: str = name) -> Any:
            y, pull = jax.vjp(
                lambda q, k, v: jaxdrop.dot_product_attention(
                    key,
                    q,
                    k,
                    v,
                    0.0 if name == "no dropout" else 0.1,
                    is_causal=True,
                    implementation="pallas",
                    **extra,
                ),
                q,
                k,
                v,
            )
            return y, *pull(c)

        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), (key, extra, *arrays)
        )
        compiled = jax.jit(both).lower(*placed).compile()
        for figure, table in figures.items():
            table.setdefault(jnp.dtype(dtype).name, {})[name] = figure(compiled)
    _kernels.PLATFORM = None
    yield Table("kernels of forward + backward", "", figures[calls])
    yield Table("temporaries", "B", figures[scratch_bytes])
    every = [kernels for row in figures[calls].values() for kernels in row.values()]
    yield Bar("programs that are not three kernels", sum(n != 3 for n in every), "<=", 0, "")
    for name, row in figures[scratch_bytes].items():
        queries = math.prod(shape) * jnp.dtype(name).itemsize
        yield Bar(
            f"temporaries over an array of queries, {name}", max(row.values()) / queries, "<=", 8
        )


def calls(compiled: jax.stages.Compiled) -> int:
    """How many kernels of Pallas a program calls."""
    return (compiled.as_text() or "").count('custom_call_target="tpu_custom_call"')


SUITES = {
    "attention": attention,
    "compute": compute,
    "core": core,
    "kernels": kernels,
    "schedule": schedule,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--topology", default="v5e:2x2", help="as libtpu names it (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        sys.exit(
            "libtpu is not installed in this environment. It needs one of its own:\n"
            + (__doc__ or "").split("\n\n")[1]
        )
    if arguments.suite == "schedule":
        _schedule.write_down()
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=arguments.topology)
    except jax.errors.JaxRuntimeError as error:
        # Only one process at a time can use libtpu.
        sys.exit(f"libtpu cannot compile for {arguments.topology} now: {error}")
    mesh = Mesh(
        np.array(topology.devices).reshape(-1, 2 if len(topology.devices) < 16 else 4),
        ("data", "model"),
    )
    report = Report(f"{arguments.suite}, {arguments.topology}")
    report.console.print(
        ", ".join(f"{package} {version}" for package, version in versions().items())
    )
    for item in SUITES[arguments.suite](mesh):
        report.add(item)
    report.close()
    if arguments.json:
        report.save(arguments.json)


if __name__ == "__main__":
    main()
