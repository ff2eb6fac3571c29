"""Models with Flax's dropout, and the same models after `replace_dropout`: a training step each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxdrop.linen
import jaxdrop.nnx
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks._timing import interleaved

FLAX = "Flax"
NO_DROPOUT = "Flax, no dropout"
SAME_KEY = "replaced, threefry"
OWN_KEY = "replaced, jaxdrop.key"
CANDIDATES = NO_DROPOUT, FLAX, SAME_KEY, OWN_KEY


class MLP(nn.Module):
    """Three hidden layers, with dropout behind each."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for _ in range(3):
            x = nn.Dropout(RATE)(nn.relu(nn.Dense(self.width)(x)), deterministic=not train)
        return nn.Dense(10)(x)


class ResNet(nn.Module):
    """Residual blocks of convolutions with batch norm, and dropout inside."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for _ in range(2):
            y = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.width, (3, 3))(x))
            y = nn.Dropout(RATE)(nn.relu(y), deterministic=not train)
            x = x + nn.Conv(self.width, (3, 3))(y)
        return nn.Dense(10)(x.mean((1, 2)))


class Encoder(nn.Module):
    """Blocks of attention and an MLP, with dropout on weights and outputs."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for _ in range(2):
            attend = nn.MultiHeadDotProductAttention(4, dropout_rate=RATE, broadcast_dropout=False)
            y = attend(nn.LayerNorm()(x), deterministic=not train)
            x = x + nn.Dropout(RATE)(y, deterministic=not train)
            y = nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
            x = x + nn.Dropout(RATE)(y, deterministic=not train)
        return x


class Transformer(nnx.Module):
    """A decoder of NNX."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([_Block(width, rngs) for _ in range(2)])

    def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        for block in self.blocks:
            x = block(x, rngs)
        return x


class _Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            4,
            width,
            dropout_rate=RATE,
            broadcast_dropout=False,
            decode=False,
            rngs=rngs,
            keep_rngs=False,
        )
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(RATE)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        y = self.attention(self.norms[0](x), is_causal=True, rngs=rngs)
        x = x + self.dropout(y, rngs=rngs)
        y = self.down(nnx.gelu(self.up(self.norms[1](x))))
        return x + self.dropout(y, rngs=rngs)


class Step(NamedTuple):
    """`run(params, key, x)` with Flax's dropout, with this library's, and without dropout."""

    flax: Callable[..., Any]
    replaced: Callable[..., Any]
    without: Callable[..., Any]
    params: Any
    x: jax.Array

    def calls(self) -> Iterator[tuple[str, Callable[[], Any], float]]:
        """Name, compiled call and temporaries of each candidate."""
        keys = {OWN_KEY: jaxdrop.key(1)}
        runs = {FLAX: self.flax, NO_DROPOUT: self.without}
        for name in CANDIDATES:
            run = runs.get(name, self.replaced)
            given = self.params, keys.get(name, jax.random.key(1)), self.x
            compiled = jax.jit(run).lower(*given).compile()
            yield name, functools.partial(compiled, *given), scratch_bytes(compiled)


def of_linen(model: nn.Module, x: jax.Array) -> Step:
    """A step of a Linen model."""
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)

    def run(train: bool, params: Any, key: jax.Array, x: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            state = variables | {"params": params}
            rngs = {"dropout": key}
            y, _ = model.apply(state, x, train, rngs=rngs, mutable=["batch_stats"])
            return (y.astype(jnp.float32) ** 2).mean()

        return jax.value_and_grad(loss)(params)

    step = functools.partial(run, True)
    replaced = jaxdrop.linen.replace_dropout()(step)
    return Step(step, replaced, functools.partial(run, False), variables["params"], x)


def of_nnx(model: nnx.Module, x: jax.Array) -> Step:
    """A step of an NNX model."""

    def run(model: nnx.Module) -> Callable[..., Any]:
        graph, rest = nnx.split(model)[0], nnx.state(model, nnx.Not(nnx.Param))

        def step(params: Any, key: jax.Array, x: jax.Array) -> Any:
            def loss(params: Any) -> Any:
                y: Any = nnx.merge(graph, params, rest)
                return (y(x, nnx.Rngs(dropout=key)) ** 2).mean()

            return jax.value_and_grad(loss)(params)

        return step

    model.train()
    view = jaxdrop.nnx.replace_dropout(model).model
    without = nnx.view(model, deterministic=True)
    return Step(run(model), run(view), run(without), nnx.state(model, nnx.Param), x)


def training(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward, of models that were not edited."""
    width, batch = (16, 4) if quick else (256, 16)
    length, size = (8, 8) if quick else (256, 28)
    normal = functools.partial(jax.random.normal, jax.random.key(2))
    steps = {
        "MLP": of_linen(MLP(4 * width), normal((32 * batch, 64))),
        "ResNet": of_linen(ResNet(width // 8), normal((2 * batch, size, size, width // 8))),
        "encoder": of_linen(Encoder(width), normal((batch, length, width))),
        "NNX transformer": of_nnx(Transformer(width, nnx.Rngs(0)), normal((batch, length, width))),
    }
    figures: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    for case, step in steps.items():
        calls: dict[str, Callable[[], Any]] = {}
        scratch[case] = {}
        for name, call, temporaries in step.calls():
            calls[name] = call
            scratch[case][name] = temporaries
        figures[case] = interleaved(calls, seconds=0 if quick else 20)
    yield Table("training step of a model that was not edited", "s", figures, limit=FLAX)
    yield Table("temporaries of the step", "B", scratch, limit=FLAX)
    for case, row in figures.items():
        yield Bar(f"{case}: time, Flax / replaced", row[FLAX] / row[SAME_KEY], ">=", 1)
        yield Bar(
            f"{case}: time, Flax / replaced with jaxdrop.key", row[FLAX] / row[OWN_KEY], ">=", 1
        )


MEASUREMENTS = (training,)
