"""Layer dropout that skips a fixed number of layers."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxdrop
from jaxdrop import layer_subset
from tests import statistics
from tests.catalogue import KEY

LEVEL = 1e-6
LAYERS, WIDTH = 6, 16
WEIGHTS = np.random.default_rng(0).normal(size=(LAYERS, WIDTH, WIDTH)).astype(np.float32) / 8
X = np.linspace(-1, 1, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
RATES = jaxdrop.depth_rates(0.6, LAYERS, "exp")


def block(x: jax.Array, weights: jax.Array) -> jax.Array:
    return x + jnp.tanh(x @ weights)


def numbers(rates: Any, count: int) -> np.ndarray:
    draw = jax.jit(jax.vmap(lambda key: layer_subset(key, rates).indices[0]))
    return np.asarray(draw(jax.random.split(KEY, count)))


@pytest.mark.sweep
def test_layers_of_equal_rates_are_a_simple_random_subset() -> None:
    drawn = numbers([0.4] * 5, 20_000)
    ways = [sum(1 << i for i in way) for way in itertools.combinations(range(5), 3)]
    counts = np.bincount((1 << drawn).sum(1), minlength=32)
    assert statistics.chi_square(counts[ways], 20_000 / len(ways)) > LEVEL
    assert counts[ways].sum() == 20_000


def test_each_layer_is_skipped_at_its_rate() -> None:
    """Scaled so that the number of skipped layers is whole; 0 and 1 are met exactly."""
    for rates in (RATES, [1.0, 0.0, 0.5, 0.5, 0.25, 0.75], [0.0, 0.9, 0.9, 0.9, 0.2]):
        drawn = numbers(tuple(rates), 20_000)
        skipped = round(sum(rates))
        assert drawn.shape[1] == len(rates) - skipped
        assert (np.diff(drawn, axis=1) > 0).all()
        counts = 20_000 - np.bincount(drawn.ravel(), minlength=len(rates))
        expected = np.array(rates) * skipped / sum(rates)
        noise = np.sqrt(20_000 * expected * (1 - expected))
        deviates = (counts - 20_000 * expected) / np.where(noise > 0, noise, 1)
        assert statistics.normal(deviates) > LEVEL
        assert (deviates[noise == 0] == 0).all()


def test_work_is_saved_under_vmap_too() -> None:
    """FLOPs of the compiled programs, in which the loop is unrolled; values and gradients are those
    of a loop in Python over the layers that run.
    """
    keys = jax.random.split(KEY, 4)
    inputs = np.random.default_rng(1).normal(size=(4, 64, WIDTH)).astype(np.float32)

    def samples(weights: jax.Array, inputs: jax.Array, *, deterministic: bool = False) -> jax.Array:
        def run(key: jax.Array, x: jax.Array) -> jax.Array:
            kept = layer_subset(key, RATES, deterministic=deterministic)
            layers = kept.gather(weights)
            return lax.scan(lambda x, w: (block(x, w), None), x, layers, unroll=True)[0]

        return jax.vmap(run)(keys, inputs).sum()

    drawn = [layer_subset(key, RATES).indices[0].tolist() for key in keys]
    assert [len(layers) for layers in drawn] == [4] * 4

    def loop(weights: jax.Array, inputs: jax.Array) -> jax.Array:
        total = jnp.float32(0)
        for layers, x in zip(drawn, inputs, strict=True):
            for layer in layers:
                x = block(x, weights[layer])
            total += x.sum()
        return total

    every = functools.partial(samples, deterministic=True)
    programs = [
        jax.jit(jax.value_and_grad(f)).lower(WEIGHTS, inputs).compile()
        for f in (samples, loop, every)
    ]
    flops = [program.cost_analysis()["flops"] for program in programs]
    assert flops[0] < (4 / 6 + 0.06) * flops[2]  # and choosing the layers
    found, expected = (program(WEIGHTS, inputs) for program in programs[:2])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4), found, expected
    )


def test_all_layers_run_in_evaluation_and_at_rate_zero() -> None:
    for kept in (
        layer_subset(None, RATES, deterministic=True),
        layer_subset(None, [0.0] * LAYERS),
        layer_subset(None, [0.05] * LAYERS),  # 0.3 layers on average: none
    ):
        np.testing.assert_array_equal(kept.indices[0], np.arange(LAYERS))
        np.testing.assert_array_equal(kept.gather(WEIGHTS), WEIGHTS)


@pytest.mark.usefixtures("relaxed")
def test_a_stack_of_nnx_blocks() -> None:
    """`nnx.split`, the kept layers, and a loop over them."""

    class Block(nnx.Module):
        def __init__(self, key: jax.Array) -> None:
            self.linear = nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(key))

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.linear(x)

    graph, params = nnx.split(nnx.vmap(Block)(jax.random.split(KEY, LAYERS)))

    @jax.jit
    def both(params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = layer_subset(key, RATES)
        run = jax.tree.map(kept.gather, params)
        y, _ = lax.scan(lambda x, layer: (nnx.merge(graph, layer)(x), None), X, run)
        x = jnp.asarray(X)
        for place in range(4):
            number = kept.indices[0, place]
            layer = jax.tree.map(lambda leaf, number=number: leaf[number], params)
            x = nnx.merge(graph, layer)(x)
        return y, x

    np.testing.assert_allclose(*both(params, KEY), rtol=1e-5)


@pytest.mark.usefixtures("relaxed")
def test_a_stack_of_linen_blocks() -> None:
    """`nn.scan` with as many turns as layers run, whose parameters `nn.map_variables` takes."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
            return x + nn.Dense(WIDTH)(x), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
            kept = layer_subset(key, RATES, deterministic=key is None)
            scanned = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=kept.indices.shape[1],
            )
            if key is None:
                return scanned(name="blocks")(x)[0]
            taken = nn.map_variables(
                scanned, "params", lambda params: jax.tree.map(kept.gather, params)
            )
            return taken(name="blocks")(x)[0]

    variables = Stack().init(KEY, X)
    kernel = variables["params"]["blocks"]["Dense_0"]["kernel"]
    assert kernel.shape == (LAYERS, WIDTH, WIDTH)
    x = jnp.asarray(X)
    for layer in layer_subset(KEY, RATES).indices[0]:
        x = x + x @ kernel[layer]
    np.testing.assert_allclose(jax.jit(Stack().apply)(variables, X, KEY), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rates": 0.5}, TypeError, "rates must be a sequence of numbers.*depth_rates"),
        ({"rates": np.array(0.5)}, TypeError, "rates must be a sequence of numbers"),
        ({"rates": [0.5, 1.5]}, ValueError, r"rates\[1\] must lie in \[0, 1\], got 1.5"),
        ({"rates": [0.5, "a"]}, TypeError, r"rates\[1\] must be a real number"),
        ({"rates": []}, ValueError, r"len\(rates\) must be at least 1"),
        ({"rates": [0.5] * 4096}, ValueError, r"len\(rates\) must be at most 4095, got 4096"),
        ({"rates": [0.9] * 3}, ValueError, "add up to 2.7: none of 3 layers would run"),
        ({"rates": [0.9, 0.7]}, ValueError, "none of 2 layers"),
        ({"rates": [0.95, 0.6, 0.0]}, ValueError, "the rate 0.95 becomes 1.22581. Lower it"),
        ({"key": None}, ValueError, "layer_subset is stochastic here and needs a key"),
        ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
    ],
)
def test_bad_input(options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        layer_subset(**{"key": KEY, "rates": [0.5] * 4} | options)


def test_traced_rates_are_refused() -> None:
    with pytest.raises(TypeError, match=r"rates\[0\] must be one number that is known now.*shape"):
        jax.eval_shape(lambda rate: layer_subset(KEY, [rate] * 4).indices, 0.5)
    with pytest.raises(TypeError, match="rates must be known when"):
        jax.eval_shape(lambda rates: layer_subset(KEY, rates).indices, np.full(4, 0.5))
