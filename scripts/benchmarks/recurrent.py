"""Two recurrent layers with every kind of dropout: time and memory of a training step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx

import jaxdrop
from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks._timing import interleaved
from jaxdrop.functional.recurrent import Rates
from jaxdrop.nnx import RNN, StackedRNN

NO_DROPOUT = "flax.nnx, none"
TIED = "jaxdrop, all, tied"
PER_GATE = "jaxdrop, all, per gate"
THREEFRY = "jaxdrop, all, tied, threefry"
AS_KERAS = "jaxdrop, as keras"
KERAS = "keras"
TORCH = "torch, between layers"

_LAYERS = 2
# Of the times of a step. What else runs on the machine only ever adds to them.
_QUANTILE = 0.1


class Network(NamedTuple):
    """Layers of LSTM: `run(key, weights, x)`."""

    run: Callable[[jax.Array, Any, jax.Array], jax.Array]
    key: jax.Array | None
    weights: Any


def networks(units: int) -> dict[str, Callable[[], Network]]:
    """What makes each network: with no dropout, with all that there is, and with that of Keras."""
    every: dict[str, Any] = dict.fromkeys(("dropout", *Rates._fields), RATE)
    as_keras: dict[str, Any] = {"input_rate": RATE, "recurrent_rate": RATE, "per_gate": True}
    cell = functools.partial(nnx.OptimizedLSTMCell, units, units, rngs=nnx.Rngs(0))

    def stack(key: jax.Array, *, per_gate: bool = False) -> Network:
        layers = StackedRNN(
            nnx.OptimizedLSTMCell,
            units,
            units,
            num_layers=_LAYERS,
            per_gate=per_gate,
            rngs=nnx.Rngs(0),
            **every,
        )
        return _network(layers, key)

    found: dict[str, Callable[[], Network]] = {
        NO_DROPOUT: lambda: _network(
            nnx.Sequential(*(nnx.RNN(cell()) for _ in range(_LAYERS))), None
        ),
        TIED: lambda: stack(jaxdrop.key(1)),
        PER_GATE: lambda: stack(jaxdrop.key(1), per_gate=True),
        THREEFRY: lambda: stack(jax.random.key(1)),
        AS_KERAS: lambda: _network(
            nnx.Sequential(*(RNN(cell(), **as_keras) for _ in range(_LAYERS))), jaxdrop.key(1)
        ),
    }
    if keras := _peers.find("keras"):
        found[KERAS] = lambda: _keras(keras, units)
    return found


def speed(quick: bool) -> Iterator[Table | Bar]:
    """Forward and backward, with dropout and without, and what other libraries have."""
    batch, length, units = (2, 8, 16) if quick else (32, 128, 256)
    x, cotangent = _inputs(batch, length, units)
    calls: dict[str, Callable[[], Any]] = {}
    for name, make in networks(units).items():
        network = make()
        calls[name] = functools.partial(
            _compiled(network, x), network.key, network.weights, x, cotangent
        )
    if torch := _peers.find("torch"):
        calls[TORCH] = _torch(torch, x, cotangent)
    times = interleaved(calls, seconds=0 if quick else 60, quantile=_QUANTILE)
    yield Table(
        f"{_LAYERS} layers of LSTM, forward + backward",
        "s",
        {_case(*x.shape): times},
        limit=NO_DROPOUT,
        bounds=(NO_DROPOUT,),
    )
    for name in (TIED, PER_GATE):
        yield Bar(f"step time, {name} / {NO_DROPOUT}", times[name] / times[NO_DROPOUT], "<=", 1.15)
    if KERAS in times:
        for name in (AS_KERAS, PER_GATE):
            yield Bar(f"step time, {KERAS} / {name}", times[KERAS] / times[name], ">=", 1)


def temporaries(quick: bool) -> Iterator[Table | Bar]:
    """Scratch memory of forward and backward, by length."""
    batch, units = (2, 16) if quick else (32, 256)
    figures: dict[str, dict[str, float]] = {}
    for length in (16,) if quick else (128, 512):
        x, _ = _inputs(batch, length, units)
        made = networks(units)
        figures[_case(*x.shape)] = {
            name: scratch_bytes(_compiled(made[name](), x)) for name in (NO_DROPOUT, TIED, PER_GATE)
        }
    yield Table(
        f"temporaries of {_LAYERS} layers of LSTM, forward + backward",
        "B",
        figures,
        bounds=(NO_DROPOUT,),
    )
    needed = list(figures.values())[-1]
    for name in (TIED, PER_GATE):
        yield Bar(
            f"temporaries at T {length}, {name} / {NO_DROPOUT}",
            needed[name] / needed[NO_DROPOUT],
            "<=",
            1.05,
        )


def _inputs(batch: int, length: int, units: int) -> tuple[jax.Array, jax.Array]:
    """Sequences and a cotangent."""
    x, cotangent = jax.random.normal(jax.random.key(0), (2, batch, length, units))
    return x, cotangent


def _compiled(network: Network, x: jax.Array) -> jax.stages.Compiled:
    return (
        jax.jit(_peers.with_gradient(network.run))
        .lower(network.key, network.weights, x, x)
        .compile()
    )


def _network(module: nnx.Module, key: jax.Array | None) -> Network:
    graph, weights, rest = nnx.split(module, nnx.Param, ...)

    def run(key: jax.Array | None, weights: Any, x: jax.Array) -> jax.Array:
        module = nnx.merge(graph, weights, rest, copy=True)
        return module(x) if key is None else module(x, rngs=nnx.Rngs(dropout=key))

    return Network(run, key, weights)


def _keras(keras: Any, units: int) -> Network:
    """A key takes the place of what the layers' seed generators hold."""
    layer = functools.partial(
        keras.layers.LSTM,
        units,
        return_sequences=True,
        dropout=RATE,
        recurrent_dropout=RATE,
        seed=0,
    )
    model = keras.Sequential([keras.Input((None, units)), *(layer() for _ in range(_LAYERS))])

    def run(key: jax.Array, weights: Any, x: jax.Array) -> jax.Array:
        seeds = list(jax.random.key_data(jax.random.split(key, _LAYERS)))
        return model.stateless_call(weights, seeds, x, training=True)[0]

    return Network(run, jax.random.key(1), [weight.value for weight in model.trainable_variables])


def _torch(torch: Any, x: jax.Array, cotangent: jax.Array) -> Callable[[], Any]:
    units = x.shape[-1]
    model = torch.nn.LSTM(units, units, num_layers=_LAYERS, dropout=RATE, batch_first=True)
    inputs, pulled = _peers.tensor(x).requires_grad_(), _peers.tensor(cotangent)

    def both() -> Any:
        y = model(inputs)[0]
        return y, torch.autograd.grad(y, [*model.parameters(), inputs], pulled)

    return both


def _case(batch: int, length: int, units: int) -> str:
    return f"batch {batch}, T {length}, {units} units"


MEASUREMENTS = (temporaries, speed)
