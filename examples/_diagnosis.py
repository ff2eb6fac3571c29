"""Small networks, of digits, whose training is one program for many rates, sizes and seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from _images import Array, Images

import jaxdrop

LARGEST = 128
CHECKPOINTS = 10
RESIDUAL = ("residual", "stream")


class Runs(NamedTuple):
    """What differs between runs of one program: each an array with one entry for each run."""

    rate: Array
    number: Array
    """Of training images."""
    width: Array
    """Of hidden units: the others are zero."""
    start: Array
    """The fraction of the steps at which dropout begins."""
    seed: Array


class Curves(NamedTuple):
    """Of each run: means over images at the checkpoints, and the final logits."""

    training: Array
    """The cross-entropy of the training images, with nothing dropped, in nats."""
    validation: Array
    noise: Array
    """The share of the gradient's mean square that is its variance over batches and masks."""
    ratio: Array
    """The mean variance, over running variance, of what batch norm gets in evaluation."""
    logits: Array
    """Of the validation images after the last step."""
    missing: Array
    """The same with 30 % of the pixels missing, set to 0."""


class State(NamedTuple):
    """What a step changes."""

    params: Any
    moments: Any
    statistics: Any


def runs(
    rates: Sequence[float],
    seeds: int,
    number: int = 200,
    width: int = LARGEST,
    start: float = 0.0,
) -> Runs:
    """All rates, each with all seeds."""
    rate, seed = (x.ravel() for x in np.meshgrid(rates, np.arange(seeds), indexing="ij"))
    same = np.ones(len(rate))
    return Runs(
        rate.astype(np.float32),
        (same * number).astype(np.int32),
        (same * width).astype(np.int32),
        (same * start).astype(np.float32),
        seed,
    )


def together(several: Sequence[Runs]) -> Runs:
    """Runs of one program, in one call."""
    return Runs(*map(np.concatenate, zip(*several, strict=True)))


@functools.partial(jax.jit, static_argnames=("kind", "batch", "steps"))
def train(
    which: Runs, pool: Images, validation: Images, *, kind: str, batch: int, steps: int
) -> Curves:
    """Trains a network for each run.

    `kind` says where dropout stands: behind each activation (`"plain"`), on the `"inputs"`, before
    or after batch norm, in the branches of a residual network, or on its stream. A residual network
    has four hidden layers, others two.
    """
    fixed = functools.partial(_train, pool, validation, kind, batch, steps)
    return jax.vmap(fixed)(which)


def _train(
    pool: Images, validation: Images, kind: str, batch: int, steps: int, run: Runs
) -> Curves:
    init_key, step_key = jax.random.split(jaxdrop.random.fast(jax.random.key(run.seed)))
    params = _init(init_key, run.width, 4 if kind in RESIDUAL else 2)
    layers = len(params) - 1
    optimizer = optax.adam(2e-3)
    mine = jnp.arange(len(pool.labels)) < run.number

    def loss(params: Any, statistics: Any, rows: jax.Array, key: jax.Array, rate: Any) -> Any:
        x, labels = pool.images[rows], pool.labels[rows]
        logits, statistics, _ = _apply(params, statistics, x, key, rate, run.width, kind)
        return _cross_entropy(logits, labels).mean(), statistics

    def rate_at(step: jax.Array) -> jax.Array:
        return jnp.where(step >= run.start * steps, run.rate, 0.0)

    def drawn(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, masks = jax.random.split(jax.random.fold_in(step_key, step))
        return jax.random.randint(rows, (batch,), 0, run.number), masks

    def step(state: State, index: jax.Array) -> tuple[State, None]:
        rows, key = drawn(index)
        gradient, statistics = jax.grad(loss, has_aux=True)(
            state.params, state.statistics, rows, key, rate_at(index)
        )
        updates, moments = optimizer.update(gradient, state.moments)
        params = optax.apply_updates(state.params, updates)
        return State(params, moments, statistics), None

    def noise(state: State, index: jax.Array) -> jax.Array:
        def gradient(count: jax.Array) -> jax.Array:
            rows, key = drawn(steps + 4 * index + count)
            found, _ = jax.grad(loss, has_aux=True)(
                state.params, state.statistics, rows, key, rate_at(index)
            )
            return jax.flatten_util.ravel_pytree(found)[0]

        gradients = jax.lax.map(gradient, jnp.arange(4))
        return gradients.var(0, ddof=1).sum() / jnp.maximum((gradients**2).sum(1).mean(), 1e-12)

    def part(state: State, indices: jax.Array) -> tuple[State, Any]:
        state, _ = jax.lax.scan(step, state, indices)
        evaluate = functools.partial(
            _apply, state.params, state.statistics, key=None, rate=0.0, width=run.width, kind=kind
        )
        own = _cross_entropy(evaluate(pool.images)[0], pool.labels)
        logits, _, ratio = evaluate(validation.images)
        other = _cross_entropy(logits, validation.labels).mean()
        seen = jnp.where(mine, own, 0.0).sum() / run.number
        return state, (seen, other, noise(state, indices[-1]), ratio)

    start = State(
        params, optimizer.init(params), [(jnp.zeros(LARGEST), jnp.ones(LARGEST))] * layers
    )
    indices = jnp.arange(steps).reshape(CHECKPOINTS, -1)
    state, curves = jax.lax.scan(part, start, indices)
    gone = jax.random.bernoulli(jax.random.key(0), 0.3, validation.images.shape)
    logits, missing = (
        _apply(state.params, state.statistics, images, None, 0.0, run.width, kind)[0]
        for images in (validation.images, jnp.where(gone, 0, validation.images))
    )
    return Curves(curves[0], curves[1], curves[2], curves[3], logits, missing)


def _init(key: jax.Array, width: Any, layers: int) -> list[jax.Array]:
    sizes = (64, *[LARGEST] * layers, 10)
    fan_in = (64, *[width] * layers)
    return [
        jax.random.normal(jax.random.fold_in(key, layer), shape) * jnp.sqrt(2 / fan_in[layer])
        for layer, shape in enumerate(itertools.pairwise(sizes))
    ]


def _apply(
    params: list[jax.Array],
    statistics: Any,
    x: Any,
    key: jax.Array | None,
    rate: Any,
    width: Any,
    kind: str,
) -> tuple[jax.Array, Any, jax.Array]:
    """Logits, the new statistics of batch norm, and how far the statistics of the batch are from
    them. In evaluation, with no key, the given ones are used.
    """
    sites = iter([None] * 4 if key is None else jax.random.split(key, 4))

    def drop(x: jax.Array) -> jax.Array:
        site = next(sites)
        return jaxdrop.dropout(site, x, rate, deterministic=site is None)

    x = x.reshape(len(x), -1)
    x = drop(x) if kind == "inputs" else x
    new, ratios = [], []
    units = jnp.arange(LARGEST) < width
    for layer, weights in enumerate(params[:-1]):
        y = x @ weights
        if kind in ("before norm", "after norm"):
            y = drop(y) if kind == "before norm" else y
            mean, variance = running = statistics[layer]
            now = y.mean(0), y.var(0)
            ratios.append((now[1] / (variance + 1e-5)).mean(where=units))
            new.append(tuple(0.9 * old + 0.1 * x for old, x in zip(running, now, strict=True)))
            mean, variance = running if key is None else now
            y = (y - mean) / jnp.sqrt(variance + 1e-5)
        y = jnp.where(units, jax.nn.relu(y), 0.0)
        y = drop(y) if kind in ("plain", "after norm", "residual") else y
        residual = layer and kind in RESIDUAL
        y = x + y if residual else y
        x = drop(y) if kind == "stream" else y
    return x @ params[-1], new or statistics, jnp.stack(ratios).mean() if ratios else jnp.ones(())


def _cross_entropy(logits: jax.Array, labels: Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def by_rate(curves: Curves, which: Runs, **fixed: Any) -> Mapping[float, Curves]:
    """The curves of some runs, by rate, with the seeds along the first axis."""
    chosen = np.ones(len(which.rate), bool)
    for name, value in fixed.items():
        chosen &= np.asarray(getattr(which, name)) == value
    return {
        float(f"{rate:.4g}"): Curves(
            *(np.asarray(x)[chosen & (which.rate == rate)] for x in curves)
        )
        for rate in np.unique(which.rate[chosen])
    }
