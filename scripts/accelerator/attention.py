"""Time and memory of attention with dropout on its weights, by length, beside what else there
is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

NO_DROPOUT = "jaxdrop, no dropout"
_Case = tuple[int, int, int, int, bool]
"""Batch, length, heads, depth, and whether it is causal."""


def attention(quick: bool) -> Iterator[Table | Bar]:
    """Forward + backward, bfloat16."""
    cases: list[_Case] = [(1, 128, 2, 64, True)]
    if not quick:
        cases = [
            (1, 8192, 16, 128, True),
            (1, 8192, 16, 64, False),
            (4, 2048, 16, 64, True),
            (1, 32768, 8, 128, True),
        ]
    for case in cases:
        yield from _measure(case, quick)


def _measure(case: _Case, quick: bool) -> Iterator[Table | Bar]:
    batch, length, heads, depth, causal = case
    label = f"length {length}, {batch} x {heads} heads of {depth}, {'causal' if causal else 'full'}"
    arrays = [
        jax.random.normal(jax.random.key(i), (batch, length, heads, depth), jnp.bfloat16)
        for i in range(4)
    ]

    def ours(
        key: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
    ) -> jax.Array:
        return jaxdrop.dot_product_attention(
            key, q, k, v, 0.0 if key is None else RATE, is_causal=causal, **options
        )

    def theirs(
        implementation: Any, key: None, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> jax.Array:
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation=implementation
        )

    attentions: dict[str, tuple[Callable[..., jax.Array], jax.Array | None]] = {
        NO_DROPOUT: (ours, None),
        OWN_KEY: (ours, jaxdrop.key(1)),
        SAME_KEY: (ours, jax.random.key(1)),
        "jaxdrop.key, XLA": (functools.partial(ours, implementation="xla"), jaxdrop.key(1)),
        "jax.nn, cuDNN, no dropout": (functools.partial(theirs, "cudnn"), None),
    }
    if length < 8192:  # it forms all weights
        attentions["jax.nn, XLA, no dropout"] = (functools.partial(theirs, "xla"), None)
    calls: dict[str, Callable[[], Any]] = {}
    scratch: dict[str, float] = {}
    for name, (attend, key) in attentions.items():
        try:
            program = jax.jit(_peers.with_gradient(attend)).lower(key, *arrays).compile()
        except Exception as error:  # an implementation that this device does not have
            print(f"{name} is left out: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        calls[name] = functools.partial(program, key, *arrays)
        scratch[name] = scratch_bytes(program)
    if torch := _peers.find("torch"):
        for rate in (RATE, 0.0):
            calls[f"torch, {'dropout' if rate else 'no dropout'}"] = _torch(
                torch, arrays, rate, causal
            )
    times = interleaved(calls, seconds=0 if quick else 1.5)
    yield Table("attention, forward + backward", "s", {label: times})
    yield Table("temporaries", "B", {label: scratch})
    bound = 1.10 if depth == 128 else 1.25
    yield Bar(f"{label}: with dropout / without", times[OWN_KEY] / times[NO_DROPOUT], "<=", bound)


def _torch(torch: Any, arrays: list[jax.Array], rate: float, causal: bool) -> Callable[[], Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    *leaves, cotangent = (_peers.tensor(x).transpose(1, 2).contiguous().to(device) for x in arrays)
    leaves = [x.requires_grad_() for x in leaves]

    def call() -> Any:
        y = torch.nn.functional.scaled_dot_product_attention(
            *leaves, dropout_p=rate, is_causal=causal
        )
        found = torch.autograd.grad(y, leaves, cotangent)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return call


MEASUREMENTS = (attention,)
