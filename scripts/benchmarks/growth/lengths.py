"""Attention with dropout on its weights, of 128 to 32768 tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table, number
from benchmarks._peers import OWN_KEY
from benchmarks._timing import interleaved
from benchmarks.attention import attentions, compiled, inputs_of, torch_call

_HEADS, _DEPTH = 1, 64
# A program with more temporaries than these is compiled, and not run.
_MOST = 4 * 2**30


def lengths(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward, float32, one head of 64."""
    most = 2**20 if quick else _MOST
    times: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    not_run: dict[str, dict[str, str]] = {}
    for length in (64, 512) if quick else (128, 512, 2048, 8192, 32768):
        case = str(length)
        inputs = inputs_of(1, length, _HEADS, _DEPTH)
        calls: dict[str, Callable[[], Any]] = {}
        needed: dict[str, float] = {}
        for name, (_, key) in attentions().items():
            program = compiled(name, *inputs[0].shape)
            needed[name] = scratch_bytes(program)
            calls[name] = functools.partial(program, key, *inputs)
        scratch[case] = dict(needed)
        if torch := _peers.find("torch"):
            calls["torch"] = functools.partial(torch_call, torch, *map(_peers.tensor, inputs))
            # It forms scores, weights and dropped weights.
            needed["torch"] = 3 * 4 * _HEADS * length**2
        for name in [*calls]:
            if needed[name] > most:
                how = "at least" if name == "torch" else "by the compiled program"
                reason = f"temporaries of {number(needed[name], 'B')}, {how}"
                not_run.setdefault(case, {})[name] = reason
                del calls[name]
        # The longest takes a minute for all.
        few = 1 if length > 10_000 else 3
        times[case] = interleaved(calls, seconds=0 if quick or few == 1 else 5, least=few)
    title = f"attention, float32, {_HEADS} head of {_DEPTH}, forward + backward"
    yield Table(f"time, {title}", "s", times, limit=OWN_KEY, axis="tokens", not_run=not_run)
    yield Table(f"temporaries, {title}", "B", scratch, axis="tokens")
