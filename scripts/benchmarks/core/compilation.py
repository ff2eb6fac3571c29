"""Time to trace, lower and compile a model with many sites."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

import jaxdrop
import jaxdrop.linen
from benchmarks._figures import Bar, Table
from benchmarks._peers import FLAX, FLAX_SWAPPED, OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import rounds

_NONE = "no dropout"
_SITES_PER_LAYER = 3


class Model(linen.Module):
    """Dense, gelu and dropout, again and again, nothing shared between them."""

    sites: int
    dropout: Callable[..., Any] | None

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The sum of the last layer's outputs."""
        for _ in range(self.sites):
            x = linen.gelu(linen.Dense(x.shape[-1])(x))
            if self.dropout is not None:
                x = self.dropout(RATE, deterministic=False)(x)
        return x.sum()


def layers_and_keys() -> dict[str, tuple[Any, jax.Array]]:
    """Dropout of a model, and the key of a step."""
    return {
        _NONE: (None, jax.random.key(0)),
        FLAX: (linen.Dropout, jax.random.key(0)),
        FLAX_SWAPPED: (linen.Dropout, jaxdrop.key(0)),
        SAME_KEY: (jaxdrop.linen.Dropout, jax.random.key(0)),
        OWN_KEY: (jaxdrop.linen.Dropout, jaxdrop.key(0)),
    }


def compilation(quick: bool) -> Iterator[Table | Bar]:
    """A model of 24 layers and 72 sites, forward + backward, with all caches cleared before each
    run.
    """
    layers, runs = (1, 1) if quick else (24, 5)
    sites = layers * _SITES_PER_LAYER
    x = jnp.ones((32, 64))
    params = Model(sites, None).init(jax.random.key(0), x)
    _, spent = compiled_in_turns(sites, params, x, runs)
    figures = {
        clock: {
            name: statistics.median(pair[index] for pair in pairs) for name, pairs in spent.items()
        }
        for index, clock in enumerate(("wall clock", "processor"))
    }
    times = figures["wall clock"]
    case = f"{layers} layers, {sites} sites"
    yield Table(f"compile time of {case}, forward + backward", "s", figures, limit=FLAX)
    yield Bar(
        f"compile time, {case}: jaxdrop (jaxdrop.key) / Flax",
        times[OWN_KEY] / times[FLAX],
        "<=",
        1.1,
    )
    yield Bar(
        f"compile time, {case}: jaxdrop (the same threefry key) / Flax",
        times[SAME_KEY] / times[FLAX],
        "<=",
        1.5,
    )


def compiled_in_turns(
    sites: int, params: Any, x: jax.Array, runs: int
) -> tuple[dict[str, jax.stages.Compiled], dict[str, list[tuple[float, float]]]]:
    """The gradient with each dropout, compiled so many times in turn: the last program, and the
    wall-clock and processor seconds of each compilation.
    """
    contestants = layers_and_keys()
    programs: dict[str, jax.stages.Compiled] = {}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for order in itertools.islice(rounds(contestants), runs):
        for name in order:
            dropout, key = contestants[name]
            programs[name], seconds = _compile_step(Model(sites, dropout), params, x, key)
            spent[name].append(seconds)
    return programs, spent


def _compile_step(
    model: Model, params: Any, x: jax.Array, key: jax.Array
) -> tuple[jax.stages.Compiled, tuple[float, float]]:
    """The gradient, and the wall-clock and processor seconds that its compilation takes."""
    jax.clear_caches()
    step = jax.jit(jax.grad(lambda params, x, key: model.apply(params, x, rngs={"dropout": key})))
    wall, cpu = time.perf_counter(), time.process_time()
    compiled = step.lower(params, x, key).compile()
    return compiled, (time.perf_counter() - wall, time.process_time() - cpu)
