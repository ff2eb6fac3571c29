"""The stand-ins of docs/frameworks.md: a training step before and after the lines that change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks._compiled import flops, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved
from pages import section

BEFORE, AFTER = "before", "after"
BEFORE_EACH, AFTER_EACH = "before, an entry for each", "after, an entry for each"
Candidate = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""Name, step and arguments."""


def big_vision(x: jax.Array) -> Iterator[Candidate]:
    """Blocks of a ViT."""
    page = section("frameworks.md", "big_vision")
    key = jax.random.PRNGKey(1)
    params = page["vit"].init(key, x)
    for name in (BEFORE, AFTER):
        yield name, page[f"vit_{name}"], (params, key, 0, x)


def t5x(x: jax.Array) -> Iterator[Candidate]:
    """A layer of an encoder, also with a mask entry for each activation."""
    page = section("frameworks.md", "T5X and flaxformer")
    key = jax.random.PRNGKey(1)
    layers = {name: page[name] for name in ("t5", "t5_blocks")}
    params = page["t5"].init({"params": key, "dropout": key}, x)
    for names, shared in (((BEFORE, AFTER), (-2,)), ((BEFORE_EACH, AFTER_EACH), ())):
        # The page's steps find their layers by these names when they are traced.
        page.update({name: layer.clone(shared=shared) for name, layer in layers.items()})
        for name, step in zip(names, ("t5_before", "t5_after"), strict=True):
            yield name, functools.partial(page[step]), (params, key, 0, x)


def maxtext(x: jax.Array) -> Iterator[Candidate]:
    """Scanned layers of a decoder. Attention drops after the change only."""
    page = section("frameworks.md", "MaxText")
    width, segments = x.shape[-1], jnp.zeros(x.shape[:2], jnp.int32)
    theirs = page["Decoder"](width, page["create_rngs"](0))
    for name, model in ((BEFORE, theirs), (AFTER, page["create_model"](width, 0))):
        state = nnx.Dict({"model": model, "step": nnx.Variable(jnp.zeros((), jnp.int32))})
        graph, arrays = nnx.split(state)
        yield name, functools.partial(page[f"maxtext_{name}"], graph), (arrays, x, segments)


def training(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward: time, operations and temporaries."""
    shape = (2, 16, 16) if quick else (8, 512, 256)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    tables: list[dict[str, dict[str, float]]] = [{}, {}, {}]
    times, operations, scratch = tables
    for stand_in in (big_vision, t5x, maxtext):
        case = stand_in.__name__
        for table in tables:
            table[case] = {}
        calls = {}
        for name, step, arguments in stand_in(x):
            compiled = jax.jit(step).lower(*arguments).compile()
            calls[name] = functools.partial(compiled, *arguments)
            operations[case][name] = flops(compiled)
            scratch[case][name] = scratch_bytes(compiled)
        times[case] = interleaved(calls, seconds=0 if quick else 20)
    yield Table("training step", "s", times, limit=BEFORE, ours=(AFTER, AFTER_EACH))
    yield Table("operations", "", operations, limit=BEFORE, ours=(AFTER, AFTER_EACH))
    yield Table("temporaries", "B", scratch, limit=BEFORE, ours=(AFTER, AFTER_EACH))
    for case, theirs, ours in (("big_vision", BEFORE, AFTER), ("t5x", BEFORE_EACH, AFTER_EACH)):
        yield Bar(
            f"{case}: time, {theirs} / {ours}", times[case][theirs] / times[case][ours], ">=", 1
        )


MEASUREMENTS = (training,)
