"""A training step of the transformer, with dropout in its four places and without: time and
memory.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxdrop
import jaxdrop.nnx
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from models.transformer import Transformer

NO_DROPOUT = "no dropout"
NOT_IN_ATTENTION = "jaxdrop.key, not in attention"
FLAX = "flax.nnx"
FLAX_NO_DROPOUT = "flax.nnx, no dropout"
_VOCABULARY = 256
# Of the times of a step. What else runs on the machine only ever adds to them.
_QUANTILE = 0.1


class Shape(NamedTuple):
    """The size of a step."""

    batch: int
    length: int
    width: int
    heads: int
    layers: int

    def __str__(self) -> str:
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{layers} of width {self.width}, {self.batch} x {self.length} tokens"


def make(name: str, shape: Shape) -> Transformer:
    """The transformer of the examples, or that with Flax's dropout and attention in place of this
    library's.
    """
    sizes: dict[str, Any] = {
        "length": shape.length,
        "width": shape.width,
        "heads": shape.heads,
        "layers": shape.layers,
    }
    model = Transformer(_VOCABULARY, rate=RATE, path_rate=0.0, rngs=nnx.Rngs(0), **sizes)
    model.blocks.drop_path = _Nothing()
    if name in (FLAX, FLAX_NO_DROPOUT):
        model.dropout = _Dropout()
        model.blocks.dropout = _Dropout()
        model.blocks.attention.attention_fn = _attend
    if name == NOT_IN_ATTENTION:
        model.blocks.attention.attention_fn = _attend_without_dropout
    if name in (NO_DROPOUT, FLAX_NO_DROPOUT):
        model.eval()
    return model


class _Dropout(nnx.Module):
    """Flax's layer, in a call that names the rate. What else the model passes is for decoding."""

    def __init__(self) -> None:
        self.deterministic = False

    def __call__(self, x: jax.Array, *, rate: float, rngs: nnx.Rngs | None, **_: Any) -> jax.Array:
        return nnx.Dropout(rate, deterministic=self.deterministic)(x, rngs=rngs)


class _Nothing(nnx.Module):
    def __call__(self, x: jax.Array, **_: Any) -> jax.Array:
        return x


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, *, is_causal: bool = False, **options: Any
) -> jax.Array:
    given = {name: options[name] for name in ("dropout_rng", "dropout_rate", "deterministic")}
    mask = nnx.make_causal_mask(jnp.zeros(q.shape[:1] + q.shape[1:2])) if is_causal else None
    return nnx.dot_product_attention(q, k, v, mask=mask, broadcast_dropout=False, **given)


def _attend_without_dropout(q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> jax.Array:
    return jaxdrop.nnx.dot_product_attention(q, k, v, **options | {"deterministic": True})


class Candidate(NamedTuple):
    """A step `run(key, params, state, tokens)`, and what makes its first three arguments."""

    run: Callable[..., Any]
    start: Callable[[], tuple[jax.Array | None, Any, Any]]


def candidates(shape: Shape, dtype: jax.typing.DTypeLike = jnp.float32) -> dict[str, Candidate]:
    """A step for each way to drop, computed in `dtype`."""
    keys: dict[str, Callable[[], jax.Array | None]] = {
        NO_DROPOUT: lambda: None,
        NOT_IN_ATTENTION: lambda: jaxdrop.key(1),
        OWN_KEY: lambda: jaxdrop.key(1),
        SAME_KEY: lambda: jax.random.key(1),
        FLAX_NO_DROPOUT: lambda: None,
        FLAX: lambda: jax.random.key(1),
    }
    return {
        name: _candidate(functools.partial(make, name, shape), key, dtype)
        for name, key in keys.items()
    }


def _candidate(
    make: Callable[[], Transformer],
    key: Callable[[], jax.Array | None],
    dtype: jax.typing.DTypeLike,
) -> Candidate:
    graph = nnx.graphdef(nnx.eval_shape(make))
    optimizer = optax.adamw(1e-3)

    def start() -> tuple[jax.Array | None, Any, Any]:
        params = nnx.state(make())
        return key(), params, optimizer.init(params)

    def loss(params: Any, key: jax.Array | None, tokens: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        logits = nnx.merge(graph, params)(tokens[:, :-1], rngs).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def run(key: jax.Array | None, params: Any, state: Any, tokens: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, key, tokens)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return Candidate(run, start)


def step(quick: bool) -> Iterator[Table | Bar]:
    """Forward, backward and the optimizer's update."""
    shape = Shape(2, 16, 16, 2, 2) if quick else Shape(16, 128, 256, 8, 4)
    tokens = jax.random.randint(jax.random.key(2), (shape.batch, shape.length + 1), 0, _VOCABULARY)
    calls: dict[str, Callable[[], Any]] = {}
    scratch: dict[str, float] = {}
    for name, candidate in candidates(shape).items():
        given = candidate.start()
        compiled = jax.jit(candidate.run).lower(*given, tokens).compile()
        scratch[name] = scratch_bytes(compiled)
        calls[name] = functools.partial(compiled, *given, tokens)
    times = interleaved(calls, seconds=0 if quick else 120, quantile=_QUANTILE)
    yield Table(
        "training step of the transformer, dropout in four places",
        "s",
        {str(shape): times},
        limit=NO_DROPOUT,
    )
    yield Table("temporaries of the step", "B", {str(shape): scratch}, limit=NO_DROPOUT)
    yield Bar("step time, with dropout / without", times[OWN_KEY] / times[NO_DROPOUT], "<=", 1.10)
    yield Bar(
        "temporaries, with dropout / without", scratch[OWN_KEY] / scratch[NO_DROPOUT], "<=", 1.05
    )
    yield Bar("step time, flax.nnx / jaxdrop", times[FLAX] / times[OWN_KEY], ">=", 1)


MEASUREMENTS = (step,)
