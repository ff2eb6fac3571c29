#!/usr/bin/env python3
"""Compiles dropout for a TPU, on any x86-64 Linux machine, and prints what the compiler says about
it.

    python -m venv .venv-tpu
    .venv-tpu/bin/pip install 'jax[tpu]' '.[scripts]'
    .venv-tpu/bin/python scripts/compile_tpu.py core
    .venv-tpu/bin/python scripts/compile_tpu.py core --topology v5p:2x2x1 --json tpu.json
    .venv-tpu/bin/python scripts/compile_tpu.py train --topology v5e:4x4
    .venv-tpu/bin/python scripts/compile_tpu.py schedule
    .venv-tpu/bin/python scripts/compile_tpu.py scale --json docs/results/tpu-scale.json

The package libtpu carries the real compiler, and no TPU is needed. It gets an environment of its
own, because JAX looks for a TPU wherever libtpu is installed.

Two figures stand for the time of one device. Neither has communication in it, and what stands in a
loop counts as often as the loop runs.

- `estimated cycles` are the compiler's own estimates. They take memory to be 2.5 times slower than
  its specification, so that arithmetic hides behind it. None exists for a kernel of Pallas.
- `bundles` are the instructions that the compiler has scheduled, one a cycle, as if memory never
  let them wait. Of a kernel of Pallas one step of its grid counts.

Trust the bundles where they are more than the cycles that the memory takes, as in `schedule`, and
for what arithmetic, such as that of a mask, adds; and the estimates for a whole program, of which
the larger part waits for memory. `train` has bundles with `--schedule` only: the compiler writes
some sixty files for each fusion.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from ahead.text import all_exchanges, calls, collectives, cycles, kinds
from benchmarks import _peers, _schedule, training
from benchmarks import compute as skipping
from benchmarks._compiled import flops, held_bytes, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY
from benchmarks._report import Report
from benchmarks.attention import NO_DROPOUT
from training import parallel

_CYCLES = "estimated cycles of one device"
_BUNDLES = "bundles of one device"
_TEMPORARIES = "temporaries of one device"
_COLLECTIVES = "collectives in the program's text"
_EXCHANGES = "exchanges between devices"
_COMPILING = "processor seconds of the compilation"
_KERNELS = "kernels of forward + backward"
_FIGURES: dict[str, Callable[[Any], float]] = {
    _CYCLES: cycles,
    _TEMPORARIES: scratch_bytes,
    _COLLECTIVES: collectives,
}
_TRAINING: dict[str, Callable[[Any], float]] = {
    _CYCLES: cycles,
    _TEMPORARIES: scratch_bytes,
    "parameters and optimizer on one device": held_bytes,
}
# With more chips than these, libtpu ends the process that compiles.
_MOST = {"v4": 1024, "v5e": 256, "v5p": 6144, "v6e": 1024}


class Figures:
    """What the compiler says about the programs of a suite, by figure, case and name."""

    def __init__(self, figures: dict[str, Callable[[Any], Any]]) -> None:
        self.figures = figures
        self.found: dict[str, dict[str, dict[str, float]]] = {}

    def add(self, case: str, name: str, program: Any) -> jax.stages.Compiled:
        """Compiles a traced program, and says how long that took."""
        started, spent = time.monotonic(), time.process_time()
        compiled, bundles = _schedule.compile_and_count(lambda: program.lower().compile())
        print(f"{case}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        every = {title: figure(compiled) for title, figure in self.figures.items()}
        every |= {_BUNDLES: bundles, _COMPILING: time.process_time() - spent}
        for title, value in every.items():
            self.found.setdefault(title, {}).setdefault(case, {})[name] = value
        return compiled

    def tables(self, limit: str | None = None) -> Iterator[Table]:
        """All figures; times as ratios to that of `limit`."""
        for title, rows in self.found.items():
            values = [value for row in rows.values() for value in row.values()]
            if all(map(math.isnan, values)):
                continue
            is_time = title in (_CYCLES, _BUNDLES)
            unit: Any = "B" if title == _TEMPORARIES or title.startswith("parameters") else ""
            unit = "s" if title == _COMPILING else unit
            yield Table(title, unit, rows, limit=limit if is_time else None)


def core(mesh: Mesh) -> Iterator[Table | Bar]:
    """One call over an array of 16384 x 4096 that is divided along both axes."""
    figures = Figures(_FIGURES)
    for case, name, program in programs.core(mesh):
        figures.add(case, name, program)
    yield from figures.tables(_peers.MULTIPLY)
    case = "forward, bfloat16"
    estimate = figures.found[_CYCLES][case]
    yield Bar(
        f"cycles, {case}: jaxdrop / multiply",
        estimate[OWN_KEY] / estimate[_peers.MULTIPLY],
        "<=",
        1.1,
    )
    yield Bar(f"collectives, {case}", figures.found[_COLLECTIVES][case][OWN_KEY], "<=", 0, "")


def schedule(mesh: Mesh) -> Iterator[Table | Bar]:
    """One call over 4096 x 4096 bfloat16 entries on one device."""
    alone = NamedSharding(Mesh(mesh.devices.ravel()[:1], ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=alone)
    case = "4096 x 4096, forward, bfloat16"
    figures = Figures({_CYCLES: cycles})
    for name in (_peers.MULTIPLY, _peers.SAME_KEY, OWN_KEY):
        peer = _peers.peers()[name]
        single = jax.eval_shape(lambda keys=peer.keys: keys(2)[1])
        key = jax.ShapeDtypeStruct(single.shape, single.dtype, sharding=alone)
        figures.add(case, name, jax.jit(peer.drop).trace(key, x))
    bound = _schedule.memory_bound(mesh.devices.flat[0], 2 * x.size * x.dtype.itemsize)
    found = figures.found[_BUNDLES][case]
    figures.found[_BUNDLES][case] = {**found, "cycles that the memory takes": bound}
    yield from figures.tables()
    yield Bar(f"bundles, {case}: jaxdrop", found[OWN_KEY], "<=", 96e3, "")


def attention(mesh: Mesh) -> Iterator[Table | Bar]:
    """Forward and backward over 4096 tokens of 8 examples with 16 heads of 64, divided by example
    and head.
    """
    case = "8 x 16 heads of 64, length 4096, bfloat16, forward + backward"
    figures = Figures(_FIGURES)
    for name, program in programs.attention(mesh):
        figures.add(case, name, program)
    yield from figures.tables(OWN_KEY)
    estimate = figures.found[_CYCLES][case]
    yield Bar(
        "cycles: with dropout / without", estimate[OWN_KEY] / estimate[NO_DROPOUT], "<=", 1.25
    )
    yield Bar("collectives", figures.found[_COLLECTIVES][case][OWN_KEY], "<=", 0, "")


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
    figures = Figures({_CYCLES: cycles, "FLOPs": flops, _TEMPORARIES: scratch_bytes})
    for name, program in skipping.mlps(jax.nn.gelu).items():
        gradient = jax.jit(jax.grad(program, (1, 2)))
        figures.add(case, name, gradient.trace(key, weights, given(tokens, features)))
    yield from figures.tables(skipping.NO_DROPOUT)
    estimate = figures.found[_CYCLES][case]
    ratio = estimate[skipping.BLOCKS] / estimate[skipping.NO_DROPOUT]
    yield Bar(f"cycles: {skipping.BLOCKS} / {skipping.NO_DROPOUT}", ratio, "<=", 0.7)


def train(mesh: Mesh, layouts: Sequence[str] = ()) -> Iterator[Table | Bar]:
    """The training step of a transformer, in bfloat16, two texts a device, divided in three ways:
    by the batch, by FSDP, and by FSDP with four devices that share each matrix.
    """
    devices = [*mesh.devices.flat]
    count, none = len(devices), training.NO_DROPOUT
    shape = training.Shape(batch=2 * count, length=1024, width=1024, heads=16, layers=8)
    usual = [f"data={count}", f"fsdp={count}"]
    usual += [f"fsdp={count // 4},tensor=4"] if count % 4 == 0 else []
    figures = Figures(_TRAINING)
    exchanged: dict[str, dict[str, float]] = {}
    for layout in layouts or usual:
        for name in (none, training.NOT_IN_ATTENTION, OWN_KEY):
            program = programs.training_step(shape, name, parallel.make_mesh(layout, devices))
            exchanged[f"{layout}, {name}"] = dict(kinds(figures.add(layout, name, program)))
    print(f"The step: {shape}", file=sys.stderr)
    yield from figures.tables(none)
    yield Table(_COLLECTIVES, "", exchanged)
    memory = figures.found[_TEMPORARIES]
    if not layouts:
        whole, divided, *_ = memory.values()
        yield Bar("temporaries, no dropout: FSDP / data", divided[none] / whole[none], "<=", 1.1)
    for layout, row in figures.found[_CYCLES].items():
        for name, bound in ((training.NOT_IN_ATTENTION, 1.03), (OWN_KEY, 1.25)):
            kept = memory[layout]
            added = sum(exchanged[f"{layout}, {name}"].values()) - sum(
                exchanged[f"{layout}, {none}"].values()
            )
            yield Bar(f"{layout}, cycles: {name} / none", row[name] / row[none], "<=", bound)
            yield Bar(f"{layout}, collectives added: {name}", added, "<=", 0, "")
            yield Bar(f"{layout}, temporaries: {name} / none", kept[name] / kept[none], "<=", 1.05)


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
    single = Mesh(mesh.devices.reshape(-1)[:1], ("x",))
    device = NamedSharding(single, PartitionSpec())
    figures = Figures({_KERNELS: calls, _TEMPORARIES: scratch_bytes})
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
        with jax.set_mesh(single):  # says which kernels
            traced = jax.jit(both).trace(*placed)
        figures.add(jnp.dtype(dtype).name, name, traced)
    yield from figures.tables()
    every = [kernels for row in figures.found[_KERNELS].values() for kernels in row.values()]
    yield Bar("programs that are not three kernels", sum(n != 3 for n in every), "<=", 0, "")
    for name, row in figures.found[_TEMPORARIES].items():
        queries = math.prod(shape) * jnp.dtype(name).itemsize
        yield Bar(
            f"temporaries over an array of queries, {name}", max(row.values()) / queries, "<=", 8
        )


def scale(mesh: Mesh) -> Iterator[Table | Bar]:
    """On all devices: attention over 32768 tokens, masks of ten billion entries, and a model with a
    hundred dropout sites; with dropout and without.
    """
    figures = Figures({_CYCLES: cycles, _TEMPORARIES: scratch_bytes, _EXCHANGES: all_exchanges})
    examples, heads = mesh.devices.shape
    shape = (examples, 32768, 4 * heads, 128)
    limits: dict[str, str] = {}
    long = f"attention, {shape[0]} x 32768 tokens, {shape[2]} heads of {shape[3]}, bfloat16"
    for name, program in programs.attention(mesh, shape, (NO_DROPOUT, OWN_KEY, _peers.SAME_KEY)):
        figures.add(long, name, program)
    limits[long] = NO_DROPOUT
    wide = (131072, 81920)
    for case, name, program in programs.core(mesh, wide, (jnp.bfloat16,)):
        if name in (_peers.MULTIPLY, _peers.FLAX, _peers.SAME_KEY, OWN_KEY):
            case = f"{case}, 131072 x 81920 entries"
            figures.add(case, name, program)
            limits[case] = _peers.MULTIPLY
    many = "100 x dense 1024, gelu, dropout, bfloat16, gradient"
    names = (skipping.NO_DROPOUT, _peers.FLAX, _peers.SAME_KEY, OWN_KEY)
    for name, program in programs.sites(mesh, 100, names):
        figures.add(many, name, program)
    limits[many] = skipping.NO_DROPOUT
    yield from figures.tables()
    for case, none in limits.items():
        estimate, exchanged = figures.found[_CYCLES][case], figures.found[_EXCHANGES][case]
        ratio = estimate[OWN_KEY] / estimate[none]
        yield Bar(f"{case}: cycles, {OWN_KEY} / {none}", ratio, "<=", 1.03)
        added = exchanged[OWN_KEY] - exchanged[none]
        yield Bar(f"{case}: exchanges that dropout adds", added, "<=", 0, "")


SUITES: dict[str, Callable[[Mesh], Iterator[Table | Bar]]] = {
    "attention": attention,
    "compute": compute,
    "core": core,
    "kernels": kernels,
    "scale": scale,
    "schedule": schedule,
    "train": train,
}


def refused(topology: str) -> str | None:
    """Why a topology cannot be compiled for, if that is known. The compiler would end the process,
    with nothing but a stack of C++.
    """
    if not (form := re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)):
        return "must be a kind of TPU and its grid of chips, such as v5e:4x4"
    chips, most = math.prod(map(int, form[2].split("x"))), _MOST.get(form[1], math.inf)
    return (
        f"{chips} chips; the compiler takes at most {most} of {form[1]}" if chips > most else None
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--topology", help="as libtpu names it (default: v5e:2x2; for scale v5e:16x16)"
    )
    parser.add_argument(
        "--mesh",
        action="append",
        help="for train: a layout such as fsdp=4,tensor=4, in place of all three; may be repeated",
    )
    parser.add_argument("--schedule", action="store_true", help="for train: bundles too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if arguments.topology is None:
        arguments.topology = "v5e:16x16" if arguments.suite == "scale" else "v5e:2x2"
    if problem := refused(arguments.topology):
        parser.error(f"--topology {arguments.topology}: {problem}")
    if (arguments.mesh or arguments.schedule) and arguments.suite != "train":
        parser.error("--mesh and --schedule are for train")
    if importlib.util.find_spec("libtpu") is None:
        sys.exit(
            "libtpu is not installed in this environment. It needs one of its own:\n"
            + (__doc__ or "").split("\n\n")[1]
        )
    if arguments.suite not in ("train", "scale") or arguments.schedule:
        _schedule.write_down()
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=arguments.topology)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        sys.exit(f"libtpu cannot compile for {arguments.topology} now: {error}")
    count = len(topology.devices)
    shared = next(parts for parts in (4 if count >= 16 else 2, 2, 1) if count % parts == 0)
    mesh = Mesh(np.array(topology.devices).reshape(-1, shared), ("data", "model"))
    report = Report(f"tpu-{arguments.suite}", target=arguments.topology)
    report.introduce()
    suite = SUITES[arguments.suite]
    if arguments.mesh:
        suite = functools.partial(train, layouts=arguments.mesh)
    report.measure(arguments.suite, suite(mesh))
    report.close()
    if arguments.json:
        report.save(arguments.json)


if __name__ == "__main__":
    main()
