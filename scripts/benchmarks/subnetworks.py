"""Monte Carlo samples by smaller networks: time, work and agreement with masked passes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import jaxdrop
from benchmarks._compiled import flops
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved
from jaxdrop import mc, subsets

_RATE = 0.5
_MASKED, _SMALL = "masked passes", "subnetworks"


def perceptron(quick: bool) -> Iterator[Table | Bar]:
    """784-1024-1024-10 with one mask for the batch behind each hidden layer: 100 samples.

    The first hidden layer does not depend on the sample, and all candidates compute it once.
    """
    samples, batch, inputs, units = (4, 8, 16, 32) if quick else (100, 256, 784, 1024)
    shapes = {"w1": (inputs, units), "w2": (units, units), "w3": (units, 10)}
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        name: jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    x = jax.random.normal(keys[3], (batch, inputs))
    axes = {"h": P(None, "a"), "w2": P("a*", "b"), "w3": P("b*", None)}

    def kept(key: jax.Array) -> dict[str, subsets.Subset]:
        first, second = jax.random.split(key)
        return {"a": subsets.draw(first, units, _RATE), "b": subsets.draw(second, units, _RATE)}

    def masked(key: jax.Array, hidden: jax.Array) -> jax.Array:
        factors = {
            name: one.scatter(jnp.full(one.indices.shape[-1], one.scale))
            for name, one in kept(key).items()
        }
        hidden = jax.nn.relu((hidden * factors["a"]) @ params["w2"])
        return (hidden * factors["b"]) @ params["w3"]

    def small(key: jax.Array, hidden: jax.Array) -> jax.Array:
        cut = mc.subnetwork(params | {"h": hidden}, axes, kept(key))
        return jax.nn.relu(cut["h"] @ cut["w2"]) @ cut["w3"]

    def compiled(
        fn: Callable[[jax.Array, jax.Array], jax.Array], size: int | None
    ) -> Callable[[], jax.Array]:
        def run(keys: jax.Array, x: jax.Array) -> jax.Array:
            hidden = jax.nn.relu(x @ params["w1"])
            return mc.predict(lambda key: fn(key, hidden), keys, batch_size=size)

        return functools.partial(jax.jit(run), sample_keys, x)

    sample_keys = mc.keys(jaxdrop.key(0), samples)
    calls = {
        f"{_MASKED}, all at once": compiled(masked, None),
        **{
            f"{_MASKED}, {size} at once": compiled(masked, size)
            for size in (1, 2, 5, 10, 25)
            if size < samples
        },
        _SMALL: compiled(small, 1),
    }
    default, *others = [name for name in calls if name != _SMALL]
    times = interleaved(calls, seconds=0.1 if quick else 60)
    yield Table("time of all samples", "s", {"MLP": times})
    yield Bar("subnetworks / masked passes, by default", times[_SMALL] / times[default], "<=", 0.32)
    best = min(times[name] for name in (default, *others))
    yield Bar("subnetworks / masked passes, best batch size", times[_SMALL] / best, "<=", 0.45)
    expected, found = calls[others[0]](), calls[_SMALL]()
    difference = float(jnp.abs(found - expected).max() / jnp.abs(expected).max())
    yield Bar("largest difference / largest logit", difference, "<=", 1e-6, "")
    hidden = jax.nn.relu(x @ params["w1"])
    work = {
        name: flops(jax.jit(fn).lower(sample_keys[0], hidden).compile())
        for name, fn in ((_MASKED, masked), (_SMALL, small))
    }
    yield Table("floating operations of a sample", "", {"MLP": work})


MEASUREMENTS = (perceptron,)
