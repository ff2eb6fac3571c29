"""One to eight devices of a CPU: what each of them computes, holds and exchanges, read from the
compiled program. Their time would say nothing, since they share the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ahead import programs
from ahead.text import all_exchanges
from benchmarks import training
from benchmarks._compiled import flops, held_bytes, scratch_bytes
from benchmarks._figures import Bar, Table, Unit
from benchmarks._peers import OWN_KEY, SAME_KEY
from training import parallel

DEVICES = 8
_COUNTS = (1, 2, 4, 8)
_ARGUMENTS = "arguments of one device"
_EXCHANGES = "exchanges between devices"
Found = dict[str, dict[str, dict[str, float]]]


_FIGURES: dict[str, tuple[Unit, Callable[[Any], float]]] = {
    "FLOPs of one device, loops counted once": ("", flops),
    "temporaries of one device": ("B", scratch_bytes),
    _ARGUMENTS: ("B", held_bytes),
    _EXCHANGES: ("", all_exchanges),
}


def _add(found: Found, case: int, name: str, compiled: jax.stages.Compiled) -> None:
    """What a program says."""
    for title, (_, figure) in _FIGURES.items():
        found.setdefault(title, {}).setdefault(str(case), {})[name] = figure(compiled)


def _tables(found: Found, title: str, without: Collection[str] = ()) -> Iterator[Table]:
    for figure, rows in found.items():
        if figure not in without:
            yield Table(f"{figure}, {title}", _FIGURES[figure][0], rows, axis="devices")


def entries(quick: bool) -> Iterator[Table | Bar]:
    """One call on an array that all devices divide among themselves, forward and backward."""
    shape = (256, 256) if quick else (4096, 4096)
    found: Found = {}
    for count in _COUNTS:
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        for case, name, program in programs.core(mesh, shape, (jnp.float32,)):
            if case.startswith("forward + backward"):
                _add(found, count, name, program.lower().compile())
    title = f"dropout of {shape[0]} x {shape[1]} float32 entries"
    yield from _tables(found, title, without=(_ARGUMENTS,))
    exchanged = max(row[OWN_KEY] for row in found[_EXCHANGES].values())
    yield Bar("dropout: exchanges between devices", exchanged, "<=", 0, "")


def step(quick: bool) -> Iterator[Table | Bar]:
    """A training step of a transformer of one layer, divided by the batch and by FSDP."""
    length, width = (16, 16) if quick else (128, 256)
    shape = training.Shape(batch=16, length=length, width=width, heads=4, layers=1)
    none = training.NO_DROPOUT
    for axis in ("data", "fsdp"):
        found: Found = {}
        for count in _COUNTS[-1:] if quick else _COUNTS:
            mesh = parallel.make_mesh(f"{axis}={count}", jax.devices()[:count])
            for name in (none, OWN_KEY, SAME_KEY, training.FLAX):
                program = programs.training_step(shape, name, mesh)
                _add(found, count, name, program.lower().compile())
        yield from _tables(found, f"training step, {shape}, {axis}")
        added = max(row[OWN_KEY] - row[none] for row in found[_EXCHANGES].values())
        yield Bar(f"{axis}: exchanges that dropout adds", added, "<=", 0, "")


MEASUREMENTS = (entries, step)
