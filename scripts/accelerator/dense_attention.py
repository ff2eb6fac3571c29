"""Whether attention is exact on the device: output and gradients of each option against dense
attention with the same mask, in float32.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from accelerator import hopper
from benchmarks._figures import Bar, Table

_KEY = jaxdrop.key(3)
_RATE = 0.2
_RESULTS = ("output", "dq", "dk", "dv")
_NOT_ON_HOPPER = {"bias", "key_value_seq_lengths", "mask", "query_seq_lengths", "segment_ids"}
"""Options with which the kernels for Hopper GPUs leave a call to the others."""


class _Case(NamedTuple):
    """What `jaxdrop.dot_product_attention` is called with, and which keys a query sees."""

    dtype: Any
    depth: int
    options: dict[str, Any]
    bias: np.ndarray | None
    sees: np.ndarray
    """`(batch, heads, queries, keys)`, of these lengths or 1."""
    offset: np.ndarray = np.zeros(2, np.int32)
    """Of the first query of each example."""


def attention(quick: bool) -> Iterator[Table | Bar]:
    """Attention as it is computed by default, and each option that the kernels for GPUs take."""
    length = 65 if quick else 700
    cases = {name: (length, case) for name, case in _cases(length).items()}
    if jax.default_backend() == "gpu":  # blocks of keys that fill the rows of weights
        whole = _cases(768)
        for name in ("bfloat16, full", "bfloat16, causal"):
            cases[f"{name}, 768"] = 768, whole[name]
            cases[f"{name.replace('bfloat16', 'float16')}, 768"] = (
                768,
                whole[name]._replace(dtype=jnp.float16),
            )
    else:  # what only the kernels have another way for
        cases = {name: cases[name] for name in ("float32, causal", "bfloat16, causal, lengths")}
    found = _all_errors(cases)
    if hopper.is_here():
        taken = {
            f"{name}, Hopper": (size, case)
            for name, (size, case) in cases.items()
            if case.dtype != jnp.float32 and not _NOT_ON_HOPPER & case.options.keys()
        }
        with hopper.kernels():
            found |= _all_errors(taken)
    yield Table(
        f"attention of length {length} against dense attention: largest difference over largest"
        " entry",
        "",
        found,
    )
    for name, row in found.items():
        bound = 2e-5 if name.startswith("float32") else 3e-2
        yield Bar(f"attention against dense, {name}", max(row.values()), "<=", bound, "")


def _cases(length: int) -> dict[str, _Case]:
    random = np.random.default_rng(0)
    place = np.arange(length)
    row, column = place[:, None], place[None]
    causal = (column <= row)[None, None]
    everything = np.ones_like(causal)
    ends = np.array([length - 9, length]), np.array([length // 2, 0])
    of_queries, of_keys = ((place < end[:, None]) for end in ends)
    within = of_queries[:, None, :, None] & of_keys[:, None, None]
    segments = np.sort(random.integers(0, 5, (2, length)), -1).astype(np.int32)
    together = (segments[:, :, None] == segments[:, None])[:, None]
    mask = random.random((2, 1, length, length)) < 0.5
    mask[0, 0, 3] = False
    bias = random.standard_normal((2, 4, length, length), np.float32)
    offset = np.array([0, 7], np.int32)
    moved = row + offset[:, None, None, None]
    window = ((column <= moved + 3) & (column >= moved - length // 3))[:, :, : length - 7]
    half = jnp.bfloat16
    lengths = {"query_seq_lengths": ends[0], "key_value_seq_lengths": ends[1]}
    plain: dict[str, Any] = {"is_causal": True}
    forced = {"implementation": "pallas"} if jax.default_backend() == "gpu" else {}
    return {
        "float32, causal": _Case(jnp.float32, 64, plain | {"precision": "highest"}, None, causal),
        "bfloat16, full": _Case(half, 64, {}, None, everything),
        "bfloat16, causal": _Case(half, 128, plain, None, causal),
        "bfloat16, causal, lengths": _Case(
            half, 64, plain | lengths | forced, None, causal & within
        ),
        "bfloat16, segments": _Case(half, 128, {"segment_ids": segments} | forced, None, together),
        "bfloat16, mask": _Case(half, 64, {"mask": mask} | forced, None, mask),
        "bfloat16, bias": _Case(half, 128, {"bias": bias} | forced, bias, everything),
        "bfloat16, bias of all queries": _Case(
            half, 64, plain | {"bias": bias[:1, :, :1]} | forced, bias[:1, :, :1], causal
        ),
        "bfloat16, offsets and a window": _Case(
            half,
            64,
            {"query_offset": offset, "local_window_size": (length // 3, 3)} | forced,
            None,
            window,
            offset,
        ),
    }


def _all_errors(cases: dict[str, tuple[int, _Case]]) -> dict[str, dict[str, float]]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        errors = pool.map(lambda case: _errors(*case), cases.values())
        return dict(zip(cases, errors, strict=True))


def _errors(length: int, case: _Case) -> dict[str, float]:
    """The largest difference of each result over its largest entry; infinite if there is none."""
    try:
        return _differences(length, case)
    except Exception as error:  # of one option, and the others are still compared
        print(f"{type(error).__name__}: {str(error)[:300]}")
        return dict.fromkeys(_RESULTS, float("inf"))


def _differences(length: int, case: _Case) -> dict[str, float]:
    # Two heads share keys and values.
    queries = case.sees.shape[-2] if case.offset.any() else length
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, size, heads, case.depth), case.dtype)
        for i, (size, heads) in enumerate(((queries, 4), (length, 2), (length, 2)))
    )

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jaxdrop.dot_product_attention(_KEY, q, k, v, _RATE, **case.options)

    def dense(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
        k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        s = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest") / np.sqrt(case.depth)
        s = s if case.bias is None else s + case.bias
        s = jnp.where(np.broadcast_to(case.sees, s.shape), s, -jnp.inf)
        top = jax.lax.stop_gradient(s.max(-1, keepdims=True))
        p = jnp.exp(s - jnp.where(jnp.isneginf(top), 0, top))
        total = p.sum(-1, keepdims=True)
        kept = jaxdrop.dropout(_KEY, jnp.ones((2, 4, length, length)), _RATE)
        kept = jnp.stack([x[:, at : at + queries] for x, at in zip(kept, case.offset, strict=True)])
        w = kept * p / jnp.where(total == 0, 1, total)
        return jnp.einsum("bhqk,bkhd->bqhd", w, v, precision="highest")

    found, right = (jax.jit(_with_gradients(attend))(q, k, v) for attend in (ours, dense))
    return {
        name: _relative(np.asarray(a, np.float32), np.asarray(b, np.float32))
        for name, a, b in zip(_RESULTS, found, right, strict=True)
    }


def _with_gradients(attend: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    def both(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(attend, q, k, v)
        return y, *pull(
            jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
        )

    return both


def _relative(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


MEASUREMENTS = (attention,)
