"""What dropout costs in a model: a training step of a transformer, and Monte Carlo samples of a
perceptron.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

import jaxdrop
from benchmarks import training
from benchmarks._compiled import compiled, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY
from benchmarks._timing import interleaved
from benchmarks.training import FLAX, FLAX_NO_DROPOUT, NO_DROPOUT, NOT_IN_ATTENTION


def training_step(quick: bool) -> Iterator[Table | Bar]:
    """Forward, backward and update of the example's transformer, bfloat16, dropout in four
    places.
    """
    shape = training.Shape(2, 16, 16, 2, 2) if quick else training.Shape(16, 1024, 1024, 16, 12)
    tokens = jax.random.randint(jax.random.key(2), (shape.batch, shape.length + 1), 0, 256)
    names = (NO_DROPOUT, NOT_IN_ATTENTION, OWN_KEY, FLAX_NO_DROPOUT, FLAX)
    candidates = training.candidates(shape, jnp.bfloat16)
    given = {name: candidates[name].start() for name in names}
    programs = compiled(
        {
            name: jax.jit(candidates[name].run).lower(*arguments, tokens)
            for name, arguments in given.items()
        }
    )
    scratch = {name: scratch_bytes(program) for name, program in programs.items()}
    calls = {
        name: functools.partial(program, *given[name], tokens) for name, program in programs.items()
    }
    times = interleaved(calls, seconds=0 if quick else 6)
    yield Table(
        "training step of the transformer, dropout in four places",
        "s",
        {str(shape): times},
        limit=NO_DROPOUT,
    )
    yield Table("temporaries of the step", "B", {str(shape): scratch})
    yield Bar(
        "step, dropout in three places (not in attention) / none",
        times[NOT_IN_ATTENTION] / times[NO_DROPOUT],
        "<=",
        1.05,
    )
    yield Bar("step, dropout in four places / none", times[OWN_KEY] / times[NO_DROPOUT], "<=", 1.05)


def monte_carlo(quick: bool) -> Iterator[Table | Bar]:
    """100 samples of a perceptron 784-1024-1024-10, over its matrix products alone."""
    samples, batch = (10, 32) if quick else (100, 1024)
    widths = (784, 1024, 1024, 10)
    w = [
        jax.random.normal(jax.random.key(i), s) / 30
        for i, s in enumerate(itertools.pairwise(widths))
    ]
    x = jax.random.normal(jax.random.key(9), (batch, widths[0]))
    layer = linen.Dropout(0.5, deterministic=False)

    def model(
        drop: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, key: jax.Array
    ) -> jax.Array:
        first, second = jax.random.split(key)
        return drop(second, jax.nn.relu(drop(first, jax.nn.relu(x @ w[0])) @ w[1])) @ w[2]

    def products(x: jax.Array, shift: jax.Array) -> jax.Array:
        return jax.nn.relu((jax.nn.relu(x @ w[0]) + shift) @ w[1]) @ w[2]

    def sampled(one: Callable[..., jax.Array], over: jax.Array) -> Callable[[], Any]:
        return functools.partial(jax.jit(jax.vmap(one, (None, 0))), x, over)

    ours = functools.partial(model, lambda key, x: jaxdrop.dropout(key, x, 0.5))
    flax = functools.partial(model, lambda key, x: layer.apply({}, x, rng=key))
    calls = {
        "products": sampled(products, jnp.zeros(samples)),
        "stratified": sampled(ours, jaxdrop.mc.keys(jaxdrop.key(0), samples)),
        "independent": sampled(ours, jax.random.split(jaxdrop.key(0), samples)),
        "flax, threefry": sampled(flax, jax.random.split(jax.random.key(0), samples)),
    }
    times = interleaved(calls, seconds=0 if quick else 2)
    yield Table(
        f"{samples} samples of a perceptron, batch {batch}", "s", {"": times}, limit="products"
    )
    for name in ("independent", "stratified"):
        yield Bar(
            f"Monte Carlo, {name} / matrix products alone",
            times[name] / times["products"],
            "<=",
            1.25,
        )


MEASUREMENTS = (training_step, monte_carlo)
