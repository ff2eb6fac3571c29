"""What `jaxdrop.random.fast(key)` saves in programs of other libraries, whose code stays as it is:
the key is the only difference. Libraries that are not installed are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE, find
from benchmarks._timing import interleaved

PLAIN = "jax.random.key"
FAST = "jaxdrop.random.fast"


class Program(NamedTuple):
    """`run(key, *data)`. What is not among the data, the compiler would compute beforehand."""

    run: Callable[..., Any]
    data: tuple[Any, ...]


def equinox(quick: bool) -> Program | None:
    """A training step of an MLP with `eqx.nn.Dropout` behind each hidden layer."""
    library = find("equinox")
    if library is None:
        return None
    batch, width = _sizes(quick)
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [library.nn.Linear(width, width, key=key) for key in keys]
    dropout, x = library.nn.Dropout(RATE), jnp.ones((batch, width))

    def loss(layers: Any, key: jax.Array, y: jax.Array) -> jax.Array:
        for layer, site in zip(layers, jax.random.split(key, 3), strict=True):
            y = dropout(jax.nn.relu(jax.vmap(layer)(y)), key=site)
        return (y**2).mean()

    static = library.partition(layers, library.is_array)[1]

    def run(key: jax.Array, arrays: Any, x: jax.Array) -> Any:
        return library.filter_grad(loss)(library.combine(arrays, static), key, x)

    return Program(run, (library.filter(layers, library.is_array), x))


def haiku(quick: bool) -> Program | None:
    """The same with `hk.dropout`."""
    library = find("haiku")
    if library is None:
        return None
    batch, width = _sizes(quick)

    def model(x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = jax.nn.relu(library.Linear(width)(x))
            x = library.dropout(library.next_rng_key(), RATE, x)
        return (x**2).mean()

    x = jnp.ones((batch, width))
    transformed = library.transform(model)
    params = transformed.init(jax.random.key(0), x)
    return Program(
        lambda key, *data: jax.grad(transformed.apply)(data[0], key, data[1]), (params, x)
    )


def add_noise(quick: bool) -> Program:
    """`optax.add_noise`, of a network of four million parameters."""
    gradient = jnp.ones((4, 8) if quick else (2048, 2048))

    def run(key: jax.Array, gradient: jax.Array) -> Any:
        transformation = optax.add_noise(0.1, 0.55, key)
        return transformation.update(gradient, transformation.init(gradient))

    return Program(run, (gradient,))


def private(quick: bool) -> Program:
    """`optax.contrib.differentially_private_aggregate`, for 16 examples of a million parameters."""
    gradients = jnp.ones((2, 4, 8) if quick else (16, 1024, 1024))

    def run(key: jax.Array, gradients: jax.Array) -> Any:
        aggregate = optax.contrib.differentially_private_aggregate(1.0, 1.0, key)
        return aggregate.update(gradients, aggregate.init(gradients[0]))

    return Program(run, (gradients,))


def diffusion(quick: bool) -> Program:
    """Fifty steps of ancestral sampling (DDPM), of 64 images of 32 x 32 x 3 by a small network."""
    shape = (2, 4, 4, 3) if quick else (64, 32, 32, 3)
    kernels = [0.1 * jnp.ones((3, 3, *sizes)) for sizes in ((3, 16), (16, 3))]

    def denoise(kernels: Any, x: jax.Array) -> jax.Array:
        for kernel in kernels:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jnp.tanh(
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, numbers)
            )
        return x

    def run(key: jax.Array, kernels: Any) -> jax.Array:
        def step(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return 0.99 * x - 0.1 * denoise(kernels, x) + 0.1 * jax.random.normal(key, shape), None

        first, *rest = jax.random.split(key, 2)
        start = jax.random.normal(first, shape)
        return jax.lax.scan(step, start, jax.random.split(rest[0], 2 if quick else 50))[0]

    return Program(run, (kernels,))


def numpyro(quick: bool) -> Program | None:
    """A step of stochastic variational inference with a million latent variables."""
    library = find("numpyro")
    if library is None:
        return None
    infer, distributions = find("numpyro.infer"), find("numpyro.distributions")
    guides = find("numpyro.infer.autoguide")
    assert infer is not None
    assert distributions is not None
    assert guides is not None
    size = 64 if quick else 2**20

    def model() -> None:
        prior = distributions.Normal(jnp.zeros(size), 1.0).to_event(1)
        weights = library.sample("weights", prior)
        library.sample("y", distributions.Normal(weights.mean(), 1.0), obs=1.0)

    inference = infer.SVI(model, guides.AutoNormal(model), optax.adam(1e-3), infer.Trace_ELBO())
    state = inference.init(jax.random.key(0))

    def run(key: jax.Array, state: Any) -> Any:
        state, loss = inference.update(state._replace(rng_key=key))
        return state.optim_state, loss

    return Program(run, (state,))


PROGRAMS: dict[str, Callable[[bool], Program | None]] = {
    "Equinox": equinox,
    "Haiku": haiku,
    "Optax noise": add_noise,
    "Optax, private": private,
    "diffusion": diffusion,
    "NumPyro": numpyro,
}


def one_line(quick: bool) -> Iterator[Table | Bar]:
    """Programs of other libraries with a key of JAX, and with `fast` of that key."""
    figures: dict[str, dict[str, float]] = {}
    for name, make in PROGRAMS.items():
        if program := make(quick):
            figures[name] = _times(program, jax.random.key(1), quick)
    if keras := _keras(quick):
        figures["Keras"] = keras
    yield Table("programs of other libraries", "s", figures, limit=PLAIN, ours=(FAST,))
    for name, row in figures.items():
        yield Bar(f"{name}: time, {PLAIN} / {FAST}", row[PLAIN] / row[FAST], ">=", 1)


def _keras(quick: bool) -> dict[str, float] | None:
    """A training step with `keras.layers.Dropout`, whose layers make raw keys themselves."""
    library = find("keras")
    if library is None:
        return None

    class FastSeeds(library.random.SeedGenerator):  # type: ignore[name-defined]
        def next(self, ordered: bool = True) -> jax.Array:
            return jaxdrop.random.fast(super().next(ordered))

    batch, width = _sizes(quick)
    x = jnp.ones((batch, width))
    calls = {}
    for name in (PLAIN, FAST):
        layers: list[Any] = []
        for seed in range(3):
            dropout = library.layers.Dropout(RATE, seed=seed)
            if name == FAST:
                dropout.seed_generator.__class__ = FastSeeds
            layers += [library.layers.Dense(width, activation="relu"), dropout]
        model = library.Sequential(layers)
        model.build(x.shape)
        weights = [variable.value for variable in model.trainable_variables]
        rest = [variable.value for variable in model.non_trainable_variables]

        def loss(weights: Any, rest: Any, x: jax.Array, model: Any = model) -> jax.Array:
            y, _ = model.stateless_call(weights, rest, x, training=True)
            return (y**2).mean()

        calls[name] = functools.partial(jax.jit(jax.grad(loss)), weights, rest, x)
    return interleaved(calls, seconds=0 if quick else 10)


def _times(program: Program, key: jax.Array, quick: bool) -> dict[str, float]:
    keys = {PLAIN: key, FAST: jaxdrop.random.fast(key)}
    run = jax.jit(program.run)
    calls = {name: functools.partial(run, key, *program.data) for name, key in keys.items()}
    return interleaved(calls, seconds=0 if quick else 10)


def _sizes(quick: bool) -> tuple[int, int]:
    """Examples and units."""
    return (4, 16) if quick else (512, 1024)


MEASUREMENTS = (one_line,)
