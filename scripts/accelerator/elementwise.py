"""Dropout by itself and beside its neighbors: time over a multiplication of the same array, memory,
and fusions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks import _peers
from benchmarks._chains import chains
from benchmarks._compiled import compiled, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import FLAX, FLAX_SWAPPED, MULTIPLY, OWN_KEY, SAME_KEY
from benchmarks._timing import interleaved

_RBG = "flax.linen, rbg"


def one_call(quick: bool) -> Iterator[Table | Bar]:
    """One call on an array of 2**28 bytes, forward, and forward with its gradient."""
    size = 2**16 if quick else 2**28
    forward: dict[str, dict[str, float]] = {}
    both: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    residual: dict[str, dict[str, float]] = {}
    bandwidth = {}
    peers = {
        name: _peers.peers()[name] for name in (MULTIPLY, FLAX, FLAX_SWAPPED, SAME_KEY, OWN_KEY)
    }
    peers[_RBG] = _peers.Peer(
        peers[FLAX].drop, lambda n: jax.random.split(jax.random.key(0, impl="rbg"), n)
    )
    for dtype in (jnp.bfloat16, jnp.float32):
        shape = (size // jnp.dtype(dtype).itemsize // 256, 256)
        case = f"{jnp.dtype(dtype).name}, {shape[0]} x {shape[1]}"
        x, cotangent = (jax.random.normal(jax.random.key(i), shape, dtype) for i in range(2))
        keys = {name: peer.keys(1)[0] for name, peer in peers.items()}
        alone = compiled(
            {name: jax.jit(peer.drop).lower(keys[name], x) for name, peer in peers.items()}
        )
        forward[case] = _times(
            {name: functools.partial(run, keys[name], x) for name, run in alone.items()}, quick
        )
        scratch[case] = {name: scratch_bytes(run) for name, run in alone.items()}
        bandwidth[case] = {MULTIPLY: 2 * x.nbytes / forward[case][MULTIPLY] / 1e9}
        with_gradient = compiled(
            {
                name: jax.jit(_peers.with_gradient(peer.drop)).lower(keys[name], x, cotangent)
                for name, peer in peers.items()
            }
        )
        both[case] = _times(
            {
                name: functools.partial(run, keys[name], x, cotangent)
                for name, run in with_gradient.items()
            },
            quick,
        )
        residual[case] = {name: _residual_bytes(peer, x) for name, peer in peers.items()}
    yield Table("memory bandwidth of the multiplication, GB/s", "", bandwidth)
    yield Table("one call, forward", "s", forward, limit=MULTIPLY)
    yield Table("one call, forward + backward", "s", both, limit=MULTIPLY)
    yield Table("temporaries of a call", "B", scratch)
    yield Table("bytes kept for the backward pass", "B", residual)
    for (case, times), bound in zip(forward.items(), (1.15, 1.05), strict=True):
        yield Bar(f"{case}: jaxdrop.key / multiply", times[OWN_KEY] / times[MULTIPLY], "<=", bound)
    yield Bar(
        "bytes kept for the backward pass, jaxdrop.key",
        max(row[OWN_KEY] for row in residual.values()),
        "<=",
        64,
        "B",
    )


def fused(quick: bool) -> Iterator[Table | Bar]:
    """Dropout with its neighbors: how many kernels and how many bytes of temporaries, with dropout
    and without.
    """
    batch, width = (64, 128) if quick else (16384, 4096)
    key = jaxdrop.key(0)
    x, residual, cotangent = (
        jax.random.normal(jax.random.key(i), (batch, width), jnp.bfloat16) for i in range(3)
    )
    found = chains(width)
    times: dict[str, dict[str, float]] = {}
    kernels: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    for name, chain in found.items():
        both = jax.jit(_peers.with_gradient(chain))
        keys = {"no dropout": None, OWN_KEY: key}
        programs = compiled(
            {label: both.lower(given, x, residual, cotangent) for label, given in keys.items()}
        )
        times[name] = _times(
            {
                label: functools.partial(run, keys[label], x, residual, cotangent)
                for label, run in programs.items()
            },
            quick,
        )
        kernels[name] = {label: _kernels(run) for label, run in programs.items()}
        scratch[name] = {label: scratch_bytes(run) for label, run in programs.items()}
    yield Table("forward + backward", "s", times, limit="no dropout")
    yield Table("kernels of forward + backward", "", kernels)
    yield Table("temporaries of forward + backward", "B", scratch)
    for name in found:
        yield Bar(
            f"{name}: with dropout / without",
            times[name][OWN_KEY] / times[name]["no dropout"],
            "<=",
            1.15,
        )


def _times(calls: dict[str, Callable[[], Any]], quick: bool) -> dict[str, float]:
    return interleaved(calls, seconds=0 if quick else 2, queued=True)


def _residual_bytes(peer: _peers.Peer, x: jax.Array) -> float:
    """What the derivative holds besides constants, where forward and backward are programs of their
    own.
    """
    pull = jax.eval_shape(
        lambda key, x: jax.vjp(functools.partial(peer.drop, key), x)[1], peer.keys(1)[0], x
    )
    shapes = [
        jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        for leaf in jax.tree.leaves(pull)
    ]
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in shapes))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kernels(program: jax.stages.Compiled) -> float:
    """Operations at the top level of the program that are launched on the device."""
    entry = (program.as_text() or "").split("ENTRY")[-1]
    return float(len(re.findall(r"= [^=]*? (fusion|custom-call|copy|convert|reduce|dot)\(", entry)))


MEASUREMENTS = (one_call, fused)
