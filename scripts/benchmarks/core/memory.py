"""Bytes: temporaries of a compiled call, and what is kept for the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import FLAX, FLAX_SWAPPED, OWN_KEY, SAME_KEY
from benchmarks._timing import interleaved

_NONE = "no dropout"


def temporaries(quick: bool) -> Iterator[Table | Bar]:
    """Scratch memory of one jitted call."""
    shape = (256, 1024) if quick else (4096, 4096)
    x, cotangent = jnp.ones(shape), jnp.ones(shape)
    figures: dict[str, dict[str, float]] = {"forward": {}, "forward + backward": {}}
    for name, peer in _peers.peers().items():
        once, both = jax.jit(peer.drop), jax.jit(_peers.with_gradient(peer.drop))
        key = peer.keys(2)[1]
        figures["forward"][name] = scratch_bytes(once.lower(key, x).compile())
        figures["forward + backward"][name] = scratch_bytes(both.lower(key, x, cotangent).compile())
    case = f"float32 {shape[0]} x {shape[1]}"
    yield Table(f"temporaries, {case}", "B", figures)
    for name in (OWN_KEY, SAME_KEY):
        yield Bar(
            f"temporaries, forward, {case}: {name}", figures["forward"][name], "<=", 2**16, "B"
        )


def residuals(quick: bool) -> Iterator[Table | Bar]:
    """The gradient of eight layers of dense, gelu and dropout under scan."""
    layers, (batch, width) = 8, (64, 32) if quick else (1024, 512)
    x = jnp.ones((batch, width))
    weights = jax.random.normal(jax.random.key(0), (layers, width, width)) / width**0.5
    contestants = _peers.peers()
    keeps: dict[str, float] = {}
    scratch: dict[str, float] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name in (_NONE, FLAX, FLAX_SWAPPED, SAME_KEY, OWN_KEY):
        drop = contestants[name].drop if name != _NONE else lambda key, x: x
        keys = contestants[name if name != _NONE else FLAX].keys(layers)
        loss = functools.partial(_layers, drop)
        keeps[name] = _kept(loss, weights, x, keys)
        compiled = jax.jit(jax.grad(loss)).lower(weights, x, keys).compile()
        scratch[name] = scratch_bytes(compiled)
        calls[name] = functools.partial(compiled, weights, x, keys)
    sites = {name: (kept - keeps[_NONE]) / layers for name, kept in keeps.items()}
    case = f"{layers} layers of dense + gelu + dropout under scan, {batch} x {width}, gradient"
    yield Table(case, "B", {"residuals of a dropout site": sites, "temporaries": scratch})
    yield Table(case, "s", {"time": interleaved(calls, seconds=0 if quick else 15)}, limit=_NONE)
    for name in (OWN_KEY, SAME_KEY):
        size = contestants[name].keys(1).dtype.itemsize
        yield Bar(
            f"residuals of a site across scan: {name} (the key has {size} B)",
            sites[name],
            "<=",
            size,
            "B",
        )


def _layers(
    drop: Callable[..., Any], weights: jax.Array, x: jax.Array, keys: jax.Array
) -> jax.Array:
    def layer(x: jax.Array, leaf: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, key = leaf
        return drop(key, jax.nn.gelu(x @ weight)), None

    return jax.lax.scan(layer, x, (weights, keys))[0].sum()


def _kept(loss: Callable[..., Any], weights: jax.Array, x: jax.Array, keys: jax.Array) -> int:
    """The bytes of all that a backward pass closes over."""

    def pull(weights: jax.Array, x: jax.Array, keys: jax.Array) -> Any:
        return jax.vjp(lambda weights, x: loss(weights, x, keys), weights, x)[1]

    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(pull, weights, x, keys))
    )
