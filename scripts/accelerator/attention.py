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
from accelerator import hopper
from benchmarks import _peers
from benchmarks._compiled import scratch_bytes, side_by_side
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

NO_DROPOUT = "jaxdrop, no dropout"
KERNEL = "kernel"
KERNEL_NO_DROPOUT = "kernel, no dropout"
BLOCKS = "XLA's blocks"
HOPPER = "jaxdrop.key, kernels for Hopper"
HOPPER_NO_DROPOUT = "kernels for Hopper, no dropout"
_Attention = tuple[Callable[..., jax.Array], jax.Array | None]
"""A function of a key, queries, keys and values; and the key."""
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

    ours = functools.partial(_attend, is_causal=causal)

    def theirs(
        implementation: Any, key: None, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> jax.Array:
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation=implementation
        )

    attentions: dict[str, _Attention] = {
        NO_DROPOUT: (ours(), None),
        KERNEL_NO_DROPOUT: (ours(implementation="pallas"), None),
        OWN_KEY: (ours(), jaxdrop.key(1)),
        SAME_KEY: (ours(), jax.random.key(1)),
        "jaxdrop.key, XLA": (ours(implementation="xla"), jaxdrop.key(1)),
        "jax.nn, cuDNN, no dropout": (functools.partial(theirs, "cudnn"), None),
    }
    if length < 8192:  # it forms all weights
        attentions["jax.nn, XLA, no dropout"] = (functools.partial(theirs, "xla"), None)
    calls, scratch = _compiled(attentions, arrays)
    if hopper.is_here():
        kernel = ours(implementation="pallas")
        with hopper.kernels():
            more = _compiled(
                {HOPPER: (kernel, jaxdrop.key(1)), HOPPER_NO_DROPOUT: (kernel, None)}, arrays
            )
        calls |= more[0]
        scratch |= more[1]
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


def sides(quick: bool) -> Iterator[Table]:
    """With a bias of each query and key, and with a mask: whether the kernel is worth it there."""
    times: dict[str, dict[str, float]] = {}
    shapes = [(1, 64, 2, 64)]
    if not quick:
        shapes = [(4, 2048, 16, 64), (1, 4096, 16, 128), (16, 512, 16, 64)]
    for batch, length, heads, depth in shapes:
        arrays = [
            jax.random.normal(jax.random.key(i), (batch, length, heads, depth), jnp.bfloat16)
            for i in range(4)
        ]
        bias = jax.random.normal(jax.random.key(5), (1, heads, length, length), jnp.bfloat16)
        mask = jax.random.bernoulli(jax.random.key(6), 0.9, (batch, 1, length, length))
        given: dict[str, dict[str, Any]] = {"bias": {"bias": bias}, "mask": {"mask": mask}}
        for name, options in given.items():
            attentions: dict[str, _Attention] = {
                KERNEL: (_attend(implementation="pallas", **options), jaxdrop.key(1)),
                BLOCKS: (_attend(implementation="xla", **options), jaxdrop.key(1)),
                NO_DROPOUT: (_attend(**options), None),
            }
            calls, _ = _compiled(attentions, arrays)
            label = f"{name}, length {length}, {batch} x {heads} heads of {depth}"
            times[label] = interleaved(calls, seconds=0 if quick else 0.5)
    yield Table("attention with a bias or a mask, forward + backward", "s", times)


def _attend(**options: Any) -> Callable[..., jax.Array]:
    def attend(key: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        rate = 0.0 if key is None else RATE
        return jaxdrop.dot_product_attention(key, q, k, v, rate, **options)

    return attend


def _compiled(
    attentions: dict[str, _Attention],
    arrays: list[jax.Array],
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """A call with its gradient of each of those that this device has, and its temporaries."""
    lowered: dict[str, jax.stages.Lowered] = {}
    for name, (attend, key) in attentions.items():
        try:
            lowered[name] = jax.jit(_peers.with_gradient(attend)).lower(key, *arrays)
        except Exception as error:  # an implementation that this device does not have
            print(_left_out(name, error))
    calls: dict[str, Callable[[], Any]] = {}
    scratch: dict[str, float] = {}
    for name, program in side_by_side(lowered).items():
        if isinstance(program, Exception):
            print(_left_out(name, program))
            continue
        calls[name] = functools.partial(program, attentions[name][1], *arrays)
        scratch[name] = scratch_bytes(program)
    return calls, scratch


def _left_out(name: str, error: Exception) -> str:
    message = next(iter(str(error).splitlines()), "")[:120]
    return f"{name} is left out: {type(error).__name__}: {message}"


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


MEASUREMENTS = (attention, sides)
