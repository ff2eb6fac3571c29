"""Many samples of a model with dropout: time, work, memory, and what stratified keys gain."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

import jaxdrop
import jaxdrop.linen
from benchmarks import _peers
from benchmarks._compiled import flops, scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved
from jaxdrop import mc

INDEPENDENT = "jaxdrop, independent"
STRATIFIED = "jaxdrop, stratified"
PRODUCTS = "matrix products alone"
FLAX_VMAP = "flax.linen, vmap, threefry"
FLAX_LOOP = "flax.linen, jit, loop"
TORCH_LOOP = "torch, loop"
TORCH_REPEAT = "torch, repeated batch"
KERAS = "keras, loop"

_RATE = 0.5
# Of the times of a run. What else runs on the machine only ever adds to them.
_QUANTILE = 0.1


class Perceptron(linen.Module):
    """Dropout behind each hidden layer."""

    widths: Sequence[int]
    dropout: Callable[..., Any]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = self.dropout(_RATE, deterministic=False)(linen.relu(linen.Dense(width)(x)))
        return linen.Dense(self.widths[-1])(x)


class Convolutions(linen.Module):
    """Three convolutions with BatchNorm, and dropout before each of the two layers behind them."""

    dropout: Callable[..., Any]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in (16, 32, 32):
            x = linen.relu(
                linen.BatchNorm(use_running_average=True)(
                    linen.Conv(channels, (3, 3), strides=2)(x)
                )
            )
        x = self.dropout(_RATE, deterministic=False)(x.reshape(len(x), -1))
        x = linen.relu(linen.Dense(64)(x))
        return linen.Dense(10)(self.dropout(_RATE, deterministic=False)(x))


class Block(linen.Module):
    """One block of a transformer, with dropout on the weights of its attention and on both
    branches.
    """

    dropout: Callable[..., Any]
    attention: Callable[..., Any]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = self.attention(
            num_heads=4, dropout_rate=0.1, broadcast_dropout=False, deterministic=False
        )
        x = x + self.dropout(0.1, deterministic=False)(attend(linen.LayerNorm()(x)))
        y = linen.Dense(x.shape[-1])(linen.gelu(linen.Dense(4 * x.shape[-1])(linen.LayerNorm()(x))))
        return x + self.dropout(0.1, deterministic=False)(y)


class Case(NamedTuple):
    """A model with the dropout of either library, and a batch."""

    ours: linen.Module
    flax: linen.Module
    x: jax.Array


def perceptron(batch: int, features: int, *widths: int) -> Case:
    """A perceptron and a batch for it."""
    x = jax.random.normal(jax.random.key(1), (batch, features))
    return Case(Perceptron(widths, jaxdrop.linen.Dropout), Perceptron(widths, linen.Dropout), x)


def speed(quick: bool) -> Iterator[Table | Bar]:
    """Samples of a perceptron, against its matrix products alone and against what other libraries
    have.
    """
    samples, chunk = (8, 4) if quick else (100, 10)
    batch, *widths = (8, 16, 32, 32, 10) if quick else (256, 784, 1024, 1024, 10)
    case = perceptron(batch, *widths)
    running = calls(case, samples, chunk) | {PRODUCTS: _products(case, samples, chunk)}
    if torch := _peers.find("torch"):
        running |= torch_calls(torch, case.x, widths, samples)
    if keras := _peers.find("keras"):
        running[KERAS] = keras_call(keras, case.x, widths, samples)
    times = interleaved(running, seconds=0 if quick else 90, quantile=_QUANTILE)
    name = f"perceptron {'-'.join(map(str, widths))}, batch {batch}"
    yield Table(f"{samples} samples of a {name}", "s", {"time": times}, limit=PRODUCTS)
    for ours in (INDEPENDENT, STRATIFIED):
        yield Bar(f"time, {ours} / {PRODUCTS}", times[ours] / times[PRODUCTS], "<=", 1.25)
        for peer, bound in (
            (FLAX_VMAP, 1.8),
            (FLAX_LOOP, 1.3),
            (TORCH_LOOP, 3),
            (TORCH_REPEAT, 3),
            (KERAS, 3),
        ):
            if peer in times:
                yield Bar(f"time, {peer} / {ours}", times[peer] / times[ours], ">=", bound)


def models(quick: bool) -> Iterator[Table | Bar]:
    """Smaller models of several kinds, against the loop over a compiled Flax model."""
    samples = 8 if quick else 100
    size, length, width = (8, 8, 16) if quick else (32, 64, 128)
    images = jax.random.normal(jax.random.key(1), (size, 28, 28, 1))
    tokens = jax.random.normal(jax.random.key(1), (size // 4, length, width))
    attention = jaxdrop.linen.MultiHeadDotProductAttention
    cases = {
        "small perceptron": (perceptron(size, 64, 256, 256, 10), 6.0),
        "CNN with BatchNorm": (
            Case(Convolutions(jaxdrop.linen.Dropout), Convolutions(linen.Dropout), images),
            1.0,
        ),
        "transformer block": (
            Case(
                Block(jaxdrop.linen.Dropout, attention),
                Block(linen.Dropout, linen.MultiHeadDotProductAttention),
                tokens,
            ),
            1.0,
        ),
    }
    figures, bars = {}, []
    for name, (case, bound) in cases.items():
        times = figures[name] = interleaved(
            calls(case, samples, samples // 2), seconds=0 if quick else 20, quantile=_QUANTILE
        )
        for ours in (INDEPENDENT, STRATIFIED):
            bars.append(
                Bar(
                    f"time, {name}, {FLAX_LOOP} / {ours}",
                    times[FLAX_LOOP] / times[ours],
                    ">=",
                    bound,
                )
            )
    yield Table(f"{samples} samples", "s", figures, limit=STRATIFIED)
    yield from bars


def work(quick: bool) -> Iterator[Table | Bar]:
    """Operations that XLA counts, with dropout before the last layer only, in chunks of several
    sizes.
    """
    samples, batch, width = (6, 4, 32) if quick else (60, 64, 256)
    first, last = (jnp.full((width, outputs), 1 / width) for outputs in (width, 10))
    x = jnp.ones((batch, width))

    def prefix(x: jax.Array) -> jax.Array:
        return linen.relu(linen.relu(x @ first) @ first)

    def tail(key: jax.Array, hidden: jax.Array) -> jax.Array:
        return jaxdrop.dropout(key, hidden, _RATE) @ last

    keys = mc.keys(jaxdrop.key(0), samples)
    needed = _operations(prefix, x) + samples * _operations(tail, keys[0], x)
    counts = {PRODUCTS: needed}
    for chunk in (1, 2, samples // 2, samples):
        found = _operations(
            lambda keys, x, c=chunk: mc.predict(
                lambda key: tail(key, prefix(x)), keys, batch_size=c
            ),
            keys,
            x,
        )
        counts[f"{chunk} at once"] = found
        yield Bar(
            f"operations, {samples} samples, {chunk} at once / one prefix + {samples} tails",
            found / needed,
            "<=",
            1.05,
        )


def memory(quick: bool) -> Iterator[Table | Bar]:
    """Scratch memory of moments in one pass, by the number of samples."""
    batch, *widths = (8, 16, 32, 32, 10) if quick else (256, 784, 1024, 1024, 10)
    case = perceptron(batch, *widths)
    variables = case.ours.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, case.x)

    def run(keys: jax.Array, variables: Any, x: jax.Array) -> mc.Moments:
        return mc.moments(lambda key: case.ours.apply(variables, x, rngs={"dropout": key}), keys)

    counts = (64, 640) if quick else (100, 10_000)
    needed = {}
    for samples in counts:
        keys = mc.keys(jaxdrop.key(0), samples)
        needed[samples] = scratch_bytes(jax.jit(run).lower(keys, variables, case.x).compile())
    yield Table(
        "temporaries of mc.moments",
        "B",
        {f"{samples} samples": {STRATIFIED: size} for samples, size in needed.items()},
    )
    few, many = counts
    yield Bar(
        f"temporaries of mc.moments, {many} samples / {few}", needed[many] / needed[few], "<=", 1.1
    )


def estimates(quick: bool) -> Iterator[Table | Bar]:
    """Errors of predictive means and variances from few samples of a perceptron that was trained on
    digits.
    """
    datasets = _peers.find("sklearn.datasets")
    if datasets is None:
        return
    samples, repeats, truth, steps = (8, 4, 100, 20) if quick else (32, 300, 10_000, 1000)
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = Perceptron((256, 256, 10), jaxdrop.linen.Dropout)
    weights = _train(model, x[:1400], y[:1400], steps)
    held_out = x[1400:]

    def probabilities(key: jax.Array) -> jax.Array:
        return jax.nn.softmax(model.apply(weights, held_out, rngs={"dropout": key}))

    exact = jax.jit(functools.partial(mc.moments, probabilities))(
        mc.keys(jaxdrop.key(0), truth, "independent")
    )

    @functools.partial(jax.jit, static_argnums=1)
    def errors(keys: jax.Array, strategy: mc.Strategy) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = mc.moments(probabilities, mc.keys(key, samples, strategy))
            return jnp.mean((found.mean - exact.mean) ** 2), jnp.mean(found.variance)

        squares, variances = jax.lax.map(one, keys)
        return squares.mean(), variances.mean() / exact.variance.mean()

    keys = jax.random.split(jaxdrop.key(1), repeats)
    strategies: tuple[mc.Strategy, ...] = ("independent", "antithetic", "stratified")
    found = {strategy: errors(keys, strategy) for strategy in strategies}
    table: dict[str, float] = {name: float(square) for name, (square, _) in found.items()}
    yield Table(f"mean squared error of predictive means, {samples} samples", "", {"error": table})
    stratified, bias = found["stratified"][0], found["stratified"][1] - 1
    yield Bar(
        "mean squared error, stratified / independent",
        float(stratified / found["independent"][0]),
        "<=",
        0.36,
    )
    yield Bar(
        "bias of variances, stratified (population variance)", abs(float(bias)), "<=", 0.02, ""
    )
    key = jaxdrop.key(2)
    sources = {"hash": key, "stratified": mc.keys(key, samples)[3]}
    draw = jax.jit(lambda key: jnp.sum(jaxdrop.random.bits(key, (2**16 if quick else 2**24,))))
    times = interleaved(
        {name: functools.partial(draw, key) for name, key in sources.items()},
        seconds=0.1 if quick else 5,
        quantile=_QUANTILE,
    )
    yield Bar("time of a word, stratified / hash", times["stratified"] / times["hash"], "<=", 2.6)


def calls(case: Case, samples: int, chunk: int) -> dict[str, Any]:
    """Both kinds of keys of this library, and Flax."""
    first = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = case.flax.init(first, case.x)

    @jax.jit
    def ours(keys: jax.Array, variables: Any, x: jax.Array) -> jax.Array:
        return mc.predict(
            lambda key: case.ours.apply(variables, x, rngs={"dropout": key}), keys, batch_size=chunk
        )

    def single(key: jax.Array, variables: Any, x: jax.Array) -> jax.Array:
        return case.flax.apply(variables, x, rngs={"dropout": key})

    one, many = jax.jit(single), jax.jit(jax.vmap(single, in_axes=(0, None, None)))
    threefry = jax.random.split(jax.random.key(0), samples)
    separate = list(threefry)
    independent, stratified = (
        mc.keys(jaxdrop.key(0), samples, strategy) for strategy in ("independent", "stratified")
    )
    return {
        INDEPENDENT: functools.partial(ours, independent, variables, case.x),
        STRATIFIED: functools.partial(ours, stratified, variables, case.x),
        FLAX_VMAP: functools.partial(many, threefry, variables, case.x),
        FLAX_LOOP: lambda: jnp.stack([one(key, variables, case.x) for key in separate]),
    }


def _products(case: Case, samples: int, chunk: int) -> Callable[[], Any]:
    """The first matrix product once, and the others for each sample, on arrays that are there
    already.
    """
    assert isinstance(case.ours, Perceptron)
    widths = (case.x.shape[-1], *case.ours.widths)
    first, *others = (jnp.full(shape, 1 / shape[0]) for shape in itertools.pairwise(widths))
    hidden = jax.random.normal(
        jax.random.key(0), (samples // chunk, chunk * len(case.x), widths[1])
    )

    @jax.jit
    def run(x: jax.Array, hidden: jax.Array, first: jax.Array, others: Sequence[jax.Array]) -> Any:
        return x @ first, jax.lax.map(
            lambda hidden: functools.reduce(jnp.matmul, others, hidden), hidden
        )

    return functools.partial(run, case.x, hidden, first, others)


def torch_calls(
    torch: Any, x: jax.Array, widths: Sequence[int], samples: int
) -> dict[str, Callable[[], Any]]:
    layers = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU(), torch.nn.Dropout(_RATE)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*widths[-2:])).train()
    inputs = _peers.tensor(x)

    @torch.inference_mode()
    def loop() -> Any:
        return torch.stack([model(inputs) for _ in range(samples)])

    @torch.inference_mode()
    def repeated() -> Any:
        return model(inputs.repeat(samples, 1)).reshape(samples, len(inputs), -1)

    return {TORCH_LOOP: loop, TORCH_REPEAT: repeated}


def keras_call(keras: Any, x: jax.Array, widths: Sequence[int], samples: int) -> Callable[[], Any]:
    layers = []
    for width in widths[1:-1]:
        layers += [keras.layers.Dense(width, activation="relu"), keras.layers.Dropout(_RATE)]
    model = keras.Sequential([keras.Input((widths[0],)), *layers, keras.layers.Dense(widths[-1])])
    return lambda: jnp.stack([model(x, training=True) for _ in range(samples)])


def _train(model: linen.Module, x: jax.Array, y: jax.Array, steps: int) -> Any:
    optimizer = optax.adam(1e-3)
    weights = model.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x[:1])

    def loss(weights: Any, key: jax.Array) -> jax.Array:
        rows = jax.random.randint(jax.random.fold_in(key, 0), (64,), 0, len(x))
        logits = model.apply(weights, x[rows], rngs={"dropout": jax.random.fold_in(key, 1)})
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        weights, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(weights, key), moments)
        return (optax.apply_updates(weights, updates), moments), None

    keys = jax.random.split(jaxdrop.key(0), steps)
    return jax.jit(
        lambda weights: jax.lax.scan(step, (weights, optimizer.init(weights)), keys)[0][0]
    )(weights)


def _operations(fn: Callable[..., Any], *args: Any) -> float:
    """How many floating operations XLA counts in the compiled function. It counts the body of a
    loop once: here, every turn.
    """
    traced = jax.jit(fn).trace(*args)
    total = flops(traced.lower().compile())
    for loop in _loops(traced.jaxpr.jaxpr):
        body: ClosedJaxpr = loop.params["jaxpr"]
        arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in body.in_avals]
        total += (loop.params["length"] - 1) * flops(
            jax.jit(jaxpr_as_fun(body)).lower(*arguments).compile()
        )
    return total


def _loops(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        elif equation.primitive.name == "jit":
            yield from _loops(equation.params["jaxpr"].jaxpr)


MEASUREMENTS = (work, memory, estimates, models, speed)
