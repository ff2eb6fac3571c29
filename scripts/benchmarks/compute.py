"""Dropout that does not compute what it drops: time and FLOPs of a gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxdrop
from benchmarks._compiled import compiled, flops
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved

NO_DROPOUT = "no dropout"
MASKED = "masked"
UNITS = "units"
BLOCKS = "blocks of 128"
SLICE = "slice"
SUBSET = "k of n examples"
WHOLE = "whole length"
HALF = "half length, 10 of 12 layers"
MLP_RATE = 0.5
PATH_RATE = 0.4
TOKEN_RATE = 0.5
# Of the times of a call. What else runs on the machine only ever adds to them.
_QUANTILE = 0.1


class Sizes(NamedTuple):
    """How large the models are."""

    mlp: tuple[int, int, int]
    """Batch, features, hidden units."""
    residual: tuple[int, int, int]
    """Examples, length, features."""
    tokens: tuple[int, int, int]
    """Batch, length, features."""
    dtype: Any


QUICK_SIZES = Sizes((8, 16, 256), (10, 2, 8), (2, 8, 16), jnp.float32)
CPU_SIZES = Sizes((512, 512, 2048), (20, 64, 512), (2, 1024, 256), jnp.float32)
ACCELERATOR_SIZES = Sizes((8192, 4096, 16384), (20, 1024, 2048), (4, 2048, 1024), jnp.bfloat16)

Weights = dict[str, jax.Array]
Program = Callable[[jax.Array, Weights, jax.Array], jax.Array]
"""A loss: `program(key, weights, x)`."""


def mlps(activation: Callable[[jax.Array], jax.Array]) -> dict[str, Program]:
    """Hidden units dropped by a mask that the batch shares, or not computed."""

    def loss(drop: Callable[[jax.Array, Weights, jax.Array], jax.Array]) -> Program:
        return lambda key, weights, x: _square(drop(key, weights, x))

    def masked(key: jax.Array, weights: Weights, x: jax.Array) -> jax.Array:
        hidden = activation(x @ weights["w_in"])
        return jaxdrop.dropout(key, hidden, MLP_RATE, broadcast_dims=(0,)) @ weights["w_out"]

    def skipped(rate: float, **options: Any) -> Program:
        return loss(
            lambda key, weights, x: jaxdrop.dropout_mlp(
                key, x, weights["w_in"], weights["w_out"], rate, activation=activation, **options
            )
        )

    return {
        NO_DROPOUT: skipped(0.0),
        MASKED: loss(masked),
        UNITS: skipped(MLP_RATE),
        BLOCKS: skipped(MLP_RATE, pattern="block"),
        SLICE: skipped(MLP_RATE, pattern="slice"),
    }


def mlp(quick: bool) -> Iterator[Table | Bar]:
    """An MLP: the gradient of its weights."""
    title, times, work = mlp_figures(_sizes(quick), _seconds(quick))
    ours = (UNITS, BLOCKS, SLICE)
    yield Table(title, "s", times, limit=NO_DROPOUT, ours=ours)
    yield Table(f"FLOPs of the {title}", "", work, limit=NO_DROPOUT, ours=ours)
    for case, row in times.items():
        for name, bound in ((UNITS, 0.65), (BLOCKS, 0.6), (SLICE, 0.57)):
            ratio = row[name] / row[NO_DROPOUT]
            yield Bar(f"time, {case}, {name} / {NO_DROPOUT}", ratio, "<=", bound)
            ratio = work[case][name] / work[case][NO_DROPOUT]
            yield Bar(f"FLOPs, {case}, {name} / {NO_DROPOUT}", ratio, "<=", 0.51)


def residual(quick: bool) -> Iterator[Table | Bar]:
    """A residual block with stochastic depth: the gradient of its weights and its input."""
    title, times, work = residual_figures(_sizes(quick), _seconds(quick))
    yield Table(title, "s", {"time": times}, limit=MASKED, ours=(SUBSET,))
    yield Bar(f"time, {SUBSET} / {MASKED}", times[SUBSET] / times[MASKED], "<=", 0.62)
    kept = 1 - PATH_RATE
    yield Bar(f"FLOPs, {SUBSET} / {MASKED}", work[SUBSET] / work[MASKED], "<=", kept + 0.01)


def tokens(quick: bool) -> Iterator[Table | Bar]:
    """A transformer of 12 layers. The inner ten, under `scan`, see half of the tokens."""
    title, times = tokens_figures(_sizes(quick), _seconds(quick))
    yield Table(title, "s", {"time": times}, limit=WHOLE, ours=(HALF,), bounds=(WHOLE,))
    yield Bar(f"time, {HALF} / {WHOLE}", times[HALF] / times[WHOLE], "<=", 0.55)


Figures = dict[str, float]


def mlp_figures(sizes: Sizes, seconds: float) -> tuple[str, dict[str, Figures], dict[str, Figures]]:
    """A title, and for each activation the seconds and the FLOPs of the gradient."""
    batch, features, units = sizes.mlp
    weights = _normal(sizes.dtype, w_in=(features, units), w_out=(units, features))
    x = _normal(sizes.dtype, x=(batch, features))["x"]
    times: dict[str, Figures] = {}
    work: dict[str, Figures] = {}
    for activation in (jax.nn.relu, jax.nn.gelu):
        case = activation.__name__
        times[case], work[case] = _measured(mlps(activation), weights, x, seconds)
    title = f"MLP {features}-{units}-{features}, batch {batch}, rate {MLP_RATE}: gradient"
    return title, times, work


def residual_figures(sizes: Sizes, seconds: float) -> tuple[str, Figures, Figures]:
    """A title, the seconds and the FLOPs of the gradient."""
    examples, length, features = sizes.residual
    shapes = {"w_in": (features, 4 * features), "w_out": (4 * features, features)}
    weights = _normal(sizes.dtype, **shapes)
    x = _normal(sizes.dtype, x=(examples, length, features))["x"]

    def branch(weights: Weights, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(_normalized(x) @ weights["w_in"]) @ weights["w_out"]

    def masked(key: jax.Array, weights: Weights, x: jax.Array) -> jax.Array:
        return _square(x + jaxdrop.drop_path(key, branch(weights, x), PATH_RATE))

    def subset(key: jax.Array, weights: Weights, x: jax.Array) -> jax.Array:
        part = functools.partial(branch, weights)
        return _square(jaxdrop.drop_path_add(key, x, PATH_RATE, part))

    times, work = _measured({MASKED: masked, SUBSET: subset}, weights, x, seconds, inputs=True)
    title = f"residual block, {examples} x {length} x {features}, drop path {PATH_RATE}: gradient"
    return title, times, work


def tokens_figures(sizes: Sizes, seconds: float) -> tuple[str, Figures]:
    """A title, and the seconds of the gradient."""
    batch, length, features = sizes.tokens
    shapes = {
        "qkv": (3, features, features),
        "out": (features, features),
        "w_in": (features, 4 * features),
        "w_out": (4 * features, features),
    }
    weights = _normal(sizes.dtype, **{name: (12, *shape) for name, shape in shapes.items()})
    x = _normal(sizes.dtype, x=(batch, length, features))["x"]

    def block(weights: Weights, x: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], -1, min(64, features))
        normal = _normalized(x)
        query, key, value = ((normal @ weights["qkv"][which]).reshape(heads) for which in range(3))
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + attended.reshape(x.shape) @ weights["out"]
        return x + jax.nn.gelu(_normalized(x) @ weights["w_in"]) @ weights["w_out"]

    def model(rate: float) -> Program:
        def middle(x: jax.Array, layer: tuple[jax.Array, Weights]) -> tuple[jax.Array, None]:
            key, weights = layer
            return jaxdrop.random_ltd(key, x, rate, functools.partial(block, weights)), None

        def loss(key: jax.Array, weights: Weights, x: jax.Array) -> jax.Array:
            first, inner, last = (
                jax.tree.map(lambda w, part=part: w[part], weights)
                for part in (0, slice(1, -1), -1)
            )
            x, _ = lax.scan(middle, block(first, x), (jax.random.split(key, 10), inner))
            return _square(block(last, x))

        return loss

    times, _ = _measured({WHOLE: model(0.0), HALF: model(TOKEN_RATE)}, weights, x, seconds)
    return f"transformer, 12 layers, {batch} x {length} x {features}: gradient", times


def _sizes(quick: bool) -> Sizes:
    return QUICK_SIZES if quick else CPU_SIZES


def _seconds(quick: bool) -> float:
    return 0 if quick else 20


def _measured(
    programs: dict[str, Program],
    weights: Weights,
    x: jax.Array,
    seconds: float,
    *,
    inputs: bool = False,
) -> tuple[Figures, Figures]:
    """The seconds and the FLOPs of the gradient of each program, in its weights, or also in x."""
    key = jaxdrop.key(1)
    found = compiled(
        {
            name: jax.jit(jax.grad(program, (1, 2) if inputs else 1)).lower(key, weights, x)
            for name, program in programs.items()
        }
    )
    calls = {name: functools.partial(program, key, weights, x) for name, program in found.items()}
    times = interleaved(calls, seconds=seconds, quantile=_QUANTILE)
    return times, {name: flops(program) for name, program in found.items()}


def _normal(dtype: Any, **shapes: tuple[int, ...]) -> Weights:
    """Normal weights of a variance that keeps that of a dense layer's outputs."""
    keys = jax.random.split(jaxdrop.key(0), len(shapes))
    return {
        name: (jax.random.normal(key, shape) / jnp.sqrt(jnp.float32(shape[-2]))).astype(dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _normalized(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    return (centered * lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)).astype(x.dtype)


def _square(x: jax.Array) -> jax.Array:
    return jnp.square(x.astype(jnp.float32)).sum()


MEASUREMENTS = (mlp, residual, tokens)
