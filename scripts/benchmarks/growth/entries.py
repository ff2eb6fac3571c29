"""One call on arrays of 2^10 to 2^26 entries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved
from benchmarks.core.speed import torch_both


def entries(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward, float32, compiled."""
    times: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    for power in (8, 10) if quick else range(10, 27, 2):
        case = str(2**power)
        shape = (2 ** (power - power // 2), 2 ** (power // 2))
        x, cotangent = jax.random.normal(jax.random.key(1), (2, *shape))
        calls: dict[str, Callable[[], Any]] = {}
        scratch[case] = {}
        for name, peer in _peers.peers().items():
            given = peer.keys(2)[1], x, cotangent
            compiled = jax.jit(_peers.with_gradient(peer.drop)).lower(*given).compile()
            calls[name] = functools.partial(compiled, *given)
            scratch[case][name] = scratch_bytes(compiled)
        if torch := _peers.find("torch"):
            calls["torch"] = functools.partial(
                torch_both, torch, *map(_peers.tensor, (x, cotangent))
            )
        times[case] = interleaved(calls, seconds=0 if quick else 3, least=3)
    title = "dropout of an array, float32, forward + backward"
    yield Table(f"time, {title}", "s", times, limit=_peers.MULTIPLY, axis="entries")
    yield Table(f"temporaries, {title}", "B", scratch, axis="entries")
