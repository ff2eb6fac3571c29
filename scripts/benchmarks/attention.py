"""Attention with dropout on its weights: time, memory by length, and exactness."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

import jaxdrop
from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import FLAX, OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

NO_DROPOUT = "jaxdrop, no dropout"
_JAX_NN = "jax.nn, no dropout"
_HEADS, _DEPTH = 8, 64

Attention = Callable[..., jax.Array]


def _flax(key: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return linen.dot_product_attention(
        q, k, v, broadcast_dropout=False, dropout_rng=key, dropout_rate=RATE
    )


def _ours(key: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jaxdrop.dot_product_attention(key, q, k, v, RATE if key is not None else 0.0)


def attentions() -> dict[str, tuple[Attention, jax.Array | None]]:
    """Ways to attend, and the key that each takes."""
    return {
        FLAX: (_flax, jax.random.key(1)),
        _JAX_NN: (lambda key, q, k, v: jax.nn.dot_product_attention(q, k, v), None),
        NO_DROPOUT: (_ours, None),
        SAME_KEY: (_ours, jax.random.key(1)),
        OWN_KEY: (_ours, jaxdrop.key(1)),
    }


def inputs_of(batch: int, length: int, heads: int, depth: int) -> list[jax.Array]:
    """Queries, keys, values and a cotangent."""
    return [
        jax.random.normal(key, (batch, length, heads, depth))
        for key in jax.random.split(jax.random.key(0), 4)
    ]


def compiled(name: str, *shape: int) -> jax.stages.Compiled:
    attend, key = attentions()[name]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 4
    return jax.jit(_peers.with_gradient(attend)).lower(key, *arrays).compile()


def speed(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward: the lengths of an image, of a text, and of a long text."""
    cases = (
        [(2, 64, 2, 8)]
        if quick
        else [(16, 197, 12, 64), (1, 2048, _HEADS, _DEPTH), (1, 4096, _HEADS, _DEPTH)]
    )
    figures = {}
    for shape in cases:
        inputs = inputs_of(*shape)
        calls: dict[str, Callable[[], Any]] = {
            name: functools.partial(compiled(name, *inputs[0].shape), key, *inputs)
            for name, (_, key) in attentions().items()
        }
        if torch := _peers.find("torch"):
            calls["torch"] = functools.partial(torch_call, torch, *map(_peers.tensor, inputs))
        figures[_case(*shape)] = interleaved(calls, seconds=0 if quick else 20)
    yield Table("attention with dropout, forward + backward", "s", figures, limit=OWN_KEY)
    case, times = next(iter(figures.items()))
    yield Bar(f"{case}: Flax / jaxdrop (jaxdrop.key)", times[FLAX] / times[OWN_KEY], ">=", 1)
    case, times = list(figures.items())[-1]
    yield Bar(f"{case}: Flax / jaxdrop (jaxdrop.key)", times[FLAX] / times[OWN_KEY], ">=", 4)
    yield Bar(
        f"{case}: jaxdrop with dropout / without", times[OWN_KEY] / times[NO_DROPOUT], "<=", 1.25
    )
    case, times = list(figures.items())[-2:][0]
    yield Bar(
        f"{case}: jaxdrop without dropout / jax.nn", times[NO_DROPOUT] / times[_JAX_NN], "<=", 1.0
    )


def temporaries(quick: bool) -> Iterator[Table | Bar]:
    """Scratch memory of forward and backward, by length."""
    lengths = [64, 128, 512] if quick else [2048, 4096, 16384]
    figures: dict[str, dict[str, float]] = {}
    for length in lengths:
        names = [NO_DROPOUT, SAME_KEY, OWN_KEY] if length == lengths[-1] else list(attentions())
        shape = (1, length, _HEADS, _DEPTH)
        figures[_case(*shape)] = {name: scratch_bytes(compiled(name, *shape)) for name in names}
    yield Table("temporaries of forward + backward", "B", figures)
    first, middle, last = figures.values()
    yield Bar(
        f"{_case(1, lengths[1], _HEADS, _DEPTH)}: temporaries, Flax / jaxdrop",
        middle[FLAX] / middle[OWN_KEY],
        ">=",
        30,
    )
    growth, bound = last[OWN_KEY] / first[OWN_KEY], lengths[-1] / lengths[0]
    yield Bar(f"temporaries at length {lengths[-1]} / at {lengths[0]}", growth, "<=", bound)


def length(quick: bool) -> Iterator[Table | Bar]:
    """One long sequence, forward and backward, from beginning to end."""
    shape = (1, 512 if quick else 32768, _HEADS, _DEPTH)
    program = compiled(OWN_KEY, *shape)
    inputs = inputs_of(*shape)
    start = time.perf_counter()
    results = jax.block_until_ready(program(jaxdrop.key(1), *inputs))
    seconds = time.perf_counter() - start
    finite = all(bool(jnp.isfinite(result).all()) for result in results)
    yield Table("one long sequence", "s", {_case(*shape): {OWN_KEY: seconds}})
    needed = scratch_bytes(program) + sum(x.nbytes for x in (*inputs, *results))
    yield Bar(
        f"{_case(*shape)}: arguments, results and temporaries",
        needed if finite else np.nan,
        "<=",
        2**31,
        "B",
    )


def exactness(quick: bool) -> Iterator[Table | Bar]:
    """The largest difference to dense attention in float64 with the same mask, as a part of the
    largest entry.
    """
    shape = (2, 65 if quick else 1025, 4, 32)
    inputs = inputs_of(*shape)
    figures: dict[str, dict[str, float]] = {"output": {}, "gradients": {}}
    for name in (SAME_KEY, OWN_KEY):
        key = attentions()[name][1]
        ours = compiled(name, *shape)(key, *inputs)
        weights = jnp.ones((shape[0], shape[2], shape[1], shape[1]))
        mask = np.asarray(jaxdrop.dropout(key, weights, RATE), np.float64)
        with jax.enable_x64(True):
            wide = [np.asarray(x, np.float64) for x in inputs]
            dense = jax.jit(_peers.with_gradient(_dense))(mask, *wide)
        errors = [
            np.abs(a - np.asarray(b)).max() / np.abs(b).max()
            for a, b in zip(ours, dense, strict=True)
        ]
        figures["output"][name], figures["gradients"][name] = (
            float(errors[0]),
            float(max(errors[1:])),
        )
    yield Table(f"relative difference to dense float64, {_case(*shape)}", "", figures)
    worst = max(value for row in figures.values() for value in row.values())
    yield Bar(
        "largest relative difference to dense float64",
        worst,
        "<=",
        16 * float(np.finfo(np.float32).eps),
        "",
    )


def _dense(mask: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
    return jnp.einsum("bhqk,bkhd->bqhd", weights * mask, v)


def torch_call(torch: Any, q: Any, k: Any, v: Any, cotangent: Any) -> Any:
    arrays = [x.detach().transpose(1, 2).requires_grad_() for x in (q, k, v)]
    y = torch.nn.functional.scaled_dot_product_attention(*arrays, dropout_p=RATE).transpose(1, 2)
    return y, torch.autograd.grad(y, arrays, cotangent)


def _case(batch: int, length: int, heads: int, depth: int) -> str:
    return f"length {length}, {batch} x {heads} heads of {depth}"


MEASUREMENTS = (temporaries, exactness, speed, length)
