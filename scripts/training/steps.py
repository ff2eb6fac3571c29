"""A training step: gradients over micro-batches, each with masks of its own, and the optimizer's
update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

import jaxdrop
from jaxdrop import schedules
from training import layouts, parallel
from training.config import Config, Schedule
from training.data import Examples
from training.models import Network, Strength, measure

SCHEDULES: dict[Schedule, Callable[[int], schedules.Schedule]] = {
    "constant": lambda steps: schedules.constant(1.0),
    "linear": lambda steps: schedules.linear(0.0, 1.0, max(steps // 4, 1)),
    "cosine": lambda steps: schedules.cosine(0.0, 1.0, steps),
    "early": lambda steps: schedules.early(1.0, max(steps // 2, 1)),
    "late": lambda steps: schedules.late(1.0, max(steps // 2, 1)),
    "curriculum": lambda steps: schedules.curriculum(1.0, 10 / steps),
}


class State(NamedTuple):
    """All that training changes. There is no generator among it: keys follow from the step."""

    params: Any
    stats: Any
    optimizer: Any


def learning_rates(options: Config) -> optax.Schedule:
    """Up within a tenth of the steps, and down to a tenth along a cosine."""
    highest, warmup = options.learning_rate, max(options.steps // 10, 1)
    return optax.warmup_cosine_decay_schedule(
        0.0, highest, warmup, max(options.steps, warmup + 1), highest / 10
    )


def make_optimizer(options: Config) -> optax.GradientTransformation:
    adam = optax.adamw(
        learning_rates(options), weight_decay=options.weight_decay, eps=options.adam_eps
    )
    return optax.chain(optax.clip_by_global_norm(options.clip), adam)


def initialize(
    network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[], State], State]:
    """What makes the first state on the mesh, and its shapes and layout."""

    def init() -> State:
        params, stats = network.init()
        return State(params, stats, optimizer.init(params))

    shapes = jax.eval_shape(init)
    whole = layouts.replicated(mesh)
    of_params = layouts.layout(shapes.params, mesh)
    of_optimizer = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        shapes.optimizer,
        of_params,
        transform_non_params=lambda _: whole,
    )
    shardings = State(of_params, jax.tree.map(lambda _: whole, shapes.stats), of_optimizer)
    return jax.jit(init, out_shardings=shardings), with_layout(shapes, shardings)


def with_layout(shapes: Any, shardings: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct` that says where its arrays lie."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def make_gradients(network: Network, seed: int) -> parallel.Gradients:
    """Gradients of the mean loss of a batch `(micro_batches, examples, ...)`, new statistics, and
    metrics.
    """

    def loss(
        params: Any,
        stats: Any,
        part: Examples,
        key: jax.Array,
        strength: Strength,
        axis: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        logits, stats = network.apply(params, stats, part.inputs, key, strength, axis)
        metrics = measure(network, logits, part)
        return metrics["loss"], (stats, metrics)

    def gradients(
        params: Any,
        stats: Any,
        batch: Examples,
        step: jax.Array,
        strength: Strength,
        axis: str | None = None,
    ) -> tuple[Any, Any, dict[str, jax.Array]]:
        count = len(batch.labels)

        def micro_batch(
            carry: tuple[Any, Any], numbered: tuple[jax.Array, Examples]
        ) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
            total, stats = carry
            index, part = numbered
            key = jaxdrop.step_key(jaxdrop.key(seed), step, micro_batch=index)
            gradient, (stats, metrics) = jax.grad(loss, has_aux=True)(
                params, stats, part, key, strength, axis
            )
            total = jax.tree.map(lambda total, new: total + new / count, total, gradient)
            return (total, stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, stats), metrics = lax.scan(micro_batch, (zeros, stats), (jnp.arange(count), batch))
        return total, stats, jax.tree.map(jnp.mean, metrics)

    return gradients


def make_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    options: Config,
    mesh: Mesh,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`step(state, batch, count, scale=1.0) -> (state, metrics)`, where `count` is the number of
    steps taken so far.

    Rates are `scale` times the schedule's strength, and traced: other rates do not compile anything
    again.
    """
    strengths = SCHEDULES[options.schedule](options.steps)
    rates = learning_rates(options)
    gradients = parallel.divide(make_gradients(network, options.seed), mesh, options.parallel)

    def update(state: State, gradient: Any, stats: Any) -> tuple[State, jax.Array]:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        norm = optax.tree.norm(gradient)
        return State(optax.apply_updates(state.params, updates), stats, optimizer_state), norm

    if options.parallel == "pmap":
        update = jax.jit(update, donate_argnums=0)

    def step(
        state: State, batch: Examples, count: jax.Array, scale: Strength = 1.0
    ) -> tuple[State, dict[str, jax.Array]]:
        # Traced, as it is inside `shard_map` in any case: a layer whose rate is the number 0 would
        # take no key, and all layers behind it would take another.
        strength = jnp.asarray(scale * strengths(count), jnp.float32)
        gradient, stats, metrics = gradients(state.params, state.stats, batch, count, strength)
        state, norm = update(state, gradient, stats)
        return state, metrics | {
            "gradient_norm": norm,
            "learning_rate": rates(count),
            "strength": strength,
        }

    return step


def compile_once(
    step: Callable[..., Any], target: State, batch: Examples, way: parallel.Parallel
) -> Callable[..., Any]:
    """The step, compiled ahead: what would have to compile again is an error."""
    if way == "pmap":
        return step
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    return jitted.lower(target, batch, jax.ShapeDtypeStruct((), np.int32)).compile()
