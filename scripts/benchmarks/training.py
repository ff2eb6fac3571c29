"""A training step of the transformer, with dropout in its four places and without: time and memory."""

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
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from models.transformer import Transformer

NO_DROPOUT = "no dropout"
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
        return f"{self.layers} layers of width {self.width}, {self.batch} x {self.length} tokens"


def make(shape: Shape, *, flax: bool) -> Transformer:
    """The transformer of the examples; with Flax's dropout and attention in place of this library's if `flax`."""
    sizes: dict[str, Any] = {"length": shape.length, "width": shape.width, "heads": shape.heads, "layers": shape.layers}
    model = Transformer(_VOCABULARY, rate=RATE, path_rate=0.0, rngs=nnx.Rngs(0), **sizes)
    if flax:
        model.dropout = _Dropout()
        model.blocks.dropout = _Dropout()
        model.blocks.drop_path = _Nothing()
        model.blocks.attention.attention_fn = _attend
    return model


class _Dropout(nnx.Module):
    """Flax's layer, in a call that names the rate."""

    def __init__(self) -> None:
        self.deterministic = False

    def __call__(self, x: jax.Array, *, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
        return nnx.Dropout(rate, deterministic=self.deterministic)(x, rngs=rngs)


class _Nothing(nnx.Module):
    def __call__(self, x: jax.Array, **_: Any) -> jax.Array:
        return x


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, *, is_causal: bool = False, **options: Any) -> jax.Array:
    given = {name: options[name] for name in ("dropout_rng", "dropout_rate", "deterministic")}
    mask = nnx.make_causal_mask(jnp.zeros(q.shape[:1] + q.shape[1:2])) if is_causal else None
    return nnx.dot_product_attention(q, k, v, mask=mask, broadcast_dropout=False, **given)


class Candidate(NamedTuple):
    """A step `run(key, params, state, tokens)`, and what it is called with."""

    run: Callable[..., Any]
    key: jax.Array | None
    params: Any
    state: Any


def candidates(shape: Shape) -> dict[str, Candidate]:
    """A step for each way to drop."""
    keys = {
        NO_DROPOUT: None,
        OWN_KEY: jaxdrop.key(1),
        SAME_KEY: jax.random.key(1),
        FLAX_NO_DROPOUT: None,
        FLAX: jax.random.key(1),
    }
    return {name: _candidate(make(shape, flax=name in (FLAX, FLAX_NO_DROPOUT)), key) for name, key in keys.items()}


def _candidate(model: Transformer, key: jax.Array | None) -> Candidate:
    if key is None:
        model.eval()
    graph, params = nnx.split(model)
    optimizer = optax.adamw(1e-3)

    def loss(params: Any, key: jax.Array | None, tokens: jax.Array) -> jax.Array:
        rngs = None if key is None else nnx.Rngs(dropout=key)
        logits = nnx.merge(graph, params)(tokens[:, :-1], rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(key: jax.Array | None, params: Any, state: Any, tokens: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, key, tokens)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return Candidate(step, key, params, optimizer.init(params))


def step(quick: bool) -> Iterator[Table | Bar]:
    """Forward, backward and the optimizer's update."""
    shape = Shape(2, 16, 16, 2, 2) if quick else Shape(16, 128, 256, 8, 4)
    tokens = jax.random.randint(jax.random.key(2), (shape.batch, shape.length + 1), 0, _VOCABULARY)
    calls: dict[str, Callable[[], Any]] = {}
    scratch: dict[str, float] = {}
    for name, (run, *given) in candidates(shape).items():
        compiled = jax.jit(run).lower(*given, tokens).compile()
        scratch[name] = scratch_bytes(compiled)
        calls[name] = functools.partial(compiled, *given, tokens)
    times = interleaved(calls, seconds=0 if quick else 120, quantile=_QUANTILE)
    yield Table("training step of the transformer, dropout in four places", "s", {str(shape): times}, limit=NO_DROPOUT)
    yield Table("temporaries of the step", "B", {str(shape): scratch}, limit=NO_DROPOUT)
    yield Bar("step time, with dropout / without", times[OWN_KEY] / times[NO_DROPOUT], "<=", 1.10)
    yield Bar("temporaries, with dropout / without", scratch[OWN_KEY] / scratch[NO_DROPOUT], "<=", 1.05)
    yield Bar("step time, flax.nnx / jaxdrop", times[FLAX] / times[OWN_KEY], ">=", 1)


MEASUREMENTS = (step,)
