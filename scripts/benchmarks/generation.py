"""Texts of many masks from one prompt, against one generation for each mask."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved

sys.path.append(str(Path(__file__).parents[2] / "examples"))
generation = importlib.import_module("_generation")
transformer = importlib.import_module("models.transformer")

TOGETHER = "all masks in one call"
APART = "a call for each mask, jitted, with a cache"
_SAMPLES = 16
_QUANTILE = 0.1


def shared_prompt(quick: bool) -> Iterator[Table | Bar]:
    """16 texts of one transformer behind a prompt of 90 % of its length, with dropout in the last
    quarter of the blocks, and in all of them.
    """
    layers = 4
    length, width, heads = (20, 32, 4) if quick else (64, 512, 8)
    shape = {"length": length, "width": width, "heads": heads, "layers": layers}
    prompt = jnp.arange(round(0.9 * length)) % 96
    keys = jaxdrop.mc.keys(jaxdrop.key(0), _SAMPLES)
    for case, first, bound in (
        ("dropout in the last quarter of the blocks", layers - layers // 4, 0.35),
        ("dropout in all blocks", 0, 0.8),
    ):
        model = transformer.Transformer(96, **shape, rate=0.1, path_rate=0.0, rngs=nnx.Rngs(0))
        cache, decode = generation.decoder(model, first)
        write = functools.partial(
            generation.write, decode, cache, prompt, count=length - len(prompt)
        )
        one, all_of_them = jax.jit(write), jax.jit(jax.vmap(write))
        times = interleaved(
            {
                TOGETHER: functools.partial(all_of_them, keys),
                APART: functools.partial(_each, one, [*keys]),
            },
            seconds=0 if quick else 60,
            quantile=_QUANTILE,
        )
        yield Table(
            f"{_SAMPLES} texts, {case}", "s", {"time": times}, limit=APART, ours=(TOGETHER,)
        )
        yield Bar(f"time, {case}, together / apart", times[TOGETHER] / times[APART], "<=", bound)


def _each(one: Callable[[jax.Array], Any], keys: Sequence[jax.Array]) -> list[Any]:
    return [one(key) for key in keys]


MEASUREMENTS = (shared_prompt,)
