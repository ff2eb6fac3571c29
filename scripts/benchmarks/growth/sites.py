"""A model with 1 to 100 dropout sites."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Measured, Table
from benchmarks._peers import FLAX
from benchmarks._timing import interleaved
from benchmarks.core.compilation import Model, compiled_in_turns, layers_and_keys


def sites(quick: bool) -> Iterator[Table | Bar]:
    """Dense, gelu and dropout, again and again: the gradient's compile time, with all caches
    cleared before each compilation; its time; and how large its program is.
    """
    contestants = layers_and_keys()
    compiling: dict[str, dict[str, float]] = {}
    times: dict[str, dict[str, float]] = {}
    instructions: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    batch, width = (8, 16) if quick else (128, 128)
    x = jnp.ones((batch, width))
    for count in (1, 2) if quick else (1, 3, 10, 32, 100):
        case = str(count)
        params = Model(count, None).init(jax.random.key(0), x)
        programs, spent = compiled_in_turns(count, params, x, 1 if quick else 3)
        walls = {name: [wall for wall, _ in pairs] for name, pairs in spent.items()}
        compiling[case] = {
            name: Measured(statistics.median(runs), runs) for name, runs in walls.items()
        }
        calls: dict[str, Callable[[], Any]] = {
            name: functools.partial(program, params, x, contestants[name][1])
            for name, program in programs.items()
        }
        times[case] = interleaved(calls, seconds=0 if quick else 3, least=3)
        instructions[case] = {
            name: (program.as_text() or "").count(" = ") for name, program in programs.items()
        }
        scratch[case] = {name: scratch_bytes(program) for name, program in programs.items()}
    title = f"dense {width}, gelu and dropout, batch {batch}, forward + backward"
    yield Table(f"compile time, {title}", "s", compiling, limit=FLAX, axis="sites")
    yield Table(f"time, {title}", "s", times, limit=FLAX, axis="sites")
    yield Table(f"instructions of the program, {title}", "", instructions, axis="sites")
    yield Table(f"temporaries, {title}", "B", scratch, axis="sites")
