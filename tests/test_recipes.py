"""What training code does with keys: accumulation, remat, scan, mapped axes, layouts, pipelines.

`tests/test_sharding.py` has the masks of each variant by itself; here are steps of training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import step_key

pytestmark = pytest.mark.usefixtures("relaxed")

P = PartitionSpec
KEY = jaxdrop.key(3)
WIDTH = 16
IMAGES = np.random.default_rng(0).normal(size=(16, WIDTH)).astype(np.float32)
WAYS = [AxisType.Auto, AxisType.Explicit]


class Model(nnx.Module):
    """Two layers, dropped behind each, with no stream of keys of its own."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(0.5)

    def __call__(
        self, x: jax.Array, rngs: nnx.Rngs | None, spec: PartitionSpec | None = None
    ) -> jax.Array:
        for layer in (self.first, self.second):
            x = self.dropout(jnp.tanh(layer(x)), rngs=rngs, spec=spec)
        return x


GRAPH, PARAMS = nnx.split(Model())


def apply(params: Any, x: Any, key: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
    return nnx.merge(GRAPH, params)(x, nnx.Rngs(key), spec)


def loss(params: Any, x: Any, key: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
    return jnp.mean(apply(params, x, key, spec) ** 2)


@jax.jit
def plain(params: Any, x: Any, key: jax.Array) -> tuple[jax.Array, Any]:
    return jax.value_and_grad(loss)(params, x, key)


def assert_close(found: Any, expected: Any) -> None:
    """Up to rounding: another mask somewhere would make a difference of a tenth of it."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected
    )


# -- no state


def test_nnx_stores_no_stream_and_linen_neither() -> None:
    assert not jax.tree.leaves(nnx.state(Model(), nnx.RngState))
    linen = nn.Sequential([nn.Dense(WIDTH), jaxdrop.linen.Dropout(0.5, deterministic=False)])
    variables = linen.init({"params": jax.random.key(0), "dropout": KEY}, IMAGES)
    assert set(variables) == {"params"}

    @jax.jit
    def run(step: Any) -> tuple[jax.Array, jax.Array]:
        key = step_key(KEY, step)
        return apply(PARAMS, IMAGES, key), linen.apply(variables, IMAGES, rngs={"dropout": key})

    for once, again, later in zip(run(5), run(5), run(6), strict=True):
        np.testing.assert_array_equal(once, again)
        assert np.mean((np.asarray(once) == 0) != (np.asarray(later) == 0)) > 0.3


def test_a_resumed_run_draws_the_masks_that_it_would_have_drawn() -> None:
    def train(params: Any, steps: range) -> Any:
        for step in steps:
            gradient = plain(params, IMAGES, step_key(KEY, step))[1]
            params = jax.tree.map(lambda param, gradient: param - 0.1 * gradient, params, gradient)
        return params

    saved = jax.tree.map(np.asarray, train(PARAMS, range(3)))
    jax.tree.map(np.testing.assert_array_equal, train(saved, range(3, 6)), train(PARAMS, range(6)))


# -- within one device


def test_accumulated_gradients_are_those_of_each_micro_batch_with_masks_of_its_own() -> None:
    parts = jnp.stack([jnp.asarray(IMAGES)] * 4)

    @jax.jit
    def accumulated(params: Any, step: Any) -> Any:
        def add(total: Any, numbered: Any) -> tuple[Any, jax.Array]:
            index, part = numbered
            key = step_key(KEY, step, micro_batch=index)
            gradient = jax.grad(loss)(params, part, key)
            return jax.tree.map(jnp.add, total, gradient), apply(params, part, key)

        zeros = jax.tree.map(jnp.zeros_like, params)
        return lax.scan(add, zeros, (jnp.arange(len(parts)), parts))

    total, outputs = accumulated(PARAMS, 5)
    alone = [plain(PARAMS, IMAGES, step_key(KEY, 5, micro_batch=index))[1] for index in range(4)]
    assert_close(total, jax.tree.map(lambda *gradients: sum(gradients), *alone))
    masks = np.asarray(outputs).reshape(4, -1) == 0
    assert np.corrcoef(masks)[np.triu_indices(4, 1)] == pytest.approx(
        0, abs=0.3
    )  # of 256 entries: 4.8 standard deviations


def test_remat_computes_the_same_masks_again() -> None:
    @jax.jit
    def remat(params: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        return jax.value_and_grad(jax.checkpoint(loss))(params, IMAGES, key)

    assert_close(remat(PARAMS, step_key(KEY, 5)), plain(PARAMS, IMAGES, step_key(KEY, 5)))


@pytest.mark.parametrize(
    "wrap", [lambda f: f, lambda f: jax.checkpoint(f, prevent_cse=False)], ids=["stored", "remat"]
)
def test_scan_over_layers_is_a_loop_over_layers(wrap: Callable[..., Any]) -> None:
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), PARAMS)
    keys = jax.random.split(step_key(KEY, 5), 3)

    @jax.jit
    def scanned(stacked: Any) -> jax.Array:
        layer = wrap(lambda x, own: (apply(own[0], x, own[1]), None))
        return jnp.mean(lax.scan(layer, jnp.asarray(IMAGES), (stacked, keys))[0] ** 2)

    @jax.jit
    def looped(stacked: Any) -> jax.Array:
        x = jnp.asarray(IMAGES)
        for index in range(3):
            x = apply(jax.tree.map(lambda leaf, index=index: leaf[index], stacked), x, keys[index])
        return jnp.mean(x**2)

    assert_close(
        jax.jit(jax.value_and_grad(scanned))(stacked), jax.jit(jax.value_and_grad(looped))(stacked)
    )


def test_linen_scan_with_remat_has_masks_for_each_layer() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            mask = jaxdrop.linen.Dropout(0.5, deterministic=False)(jnp.ones_like(x))
            return nn.Dense(WIDTH)(x * mask), mask

    rngs = {"params": True, "dropout": True}
    stack = nn.scan(
        nn.remat(Block, prevent_cse=False), variable_axes={"params": 0}, split_rngs=rngs, length=3
    )()
    variables = jax.jit(stack.init)({"params": jax.random.key(0), "dropout": KEY}, IMAGES, None)

    @jax.jit
    def masks(key: jax.Array) -> jax.Array:
        return stack.apply(variables, IMAGES, None, rngs={"dropout": key})[1]

    drawn = np.asarray(masks(step_key(KEY, 5)))
    np.testing.assert_array_equal(drawn, masks(step_key(KEY, 5)))
    assert np.corrcoef(drawn.reshape(3, -1))[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.3)


# -- on several devices


def test_pmap_with_spec_takes_the_step_of_jit() -> None:
    def local(params: Any, x: jax.Array, step: Any) -> Any:
        return lax.pmean(
            jax.value_and_grad(loss)(params, x, step_key(KEY, step), P("data")), "data"
        )

    parts = IMAGES.reshape(8, -1, WIDTH)
    found = jax.pmap(local, axis_name="data", in_axes=(None, 0, None), out_axes=None)(
        PARAMS, parts, 5
    )
    assert_close(found, plain(PARAMS, IMAGES, step_key(KEY, 5)))


@pytest.mark.parametrize("way", WAYS)
def test_shard_map_with_spec_takes_the_step_of_jit(way: AxisType) -> None:
    """One axis is mapped by hand, the other left alone."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(way, way))

    def local(params: Any, x: jax.Array, step: Any) -> Any:
        return lax.pmean(
            jax.value_and_grad(loss)(params, x, step_key(KEY, step), P("data")), "data"
        )

    specs = {
        "in_specs": (P(), P("data"), P()),
        "out_specs": P(),
        "axis_names": {"data"},
        "check_vma": False,
    }
    step = jax.jit(jax.shard_map(local, mesh=mesh, **specs))
    images = jax.device_put(IMAGES, NamedSharding(mesh, P("data")))
    assert_close(step(PARAMS, images, 5), plain(PARAMS, IMAGES, step_key(KEY, 5)))


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("of_batch", "of_params"),
    [(P("data"), P()), (P("data"), P(None, "model")), (P(("data", "model")), P("data", "model"))],
    ids=["data", "tensor", "fsdp"],
)
def test_jit_takes_the_same_step_under_every_layout(
    way: AxisType, of_batch: PartitionSpec, of_params: PartitionSpec
) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(way, way))

    def place(leaf: jax.Array) -> jax.Array:
        return jax.device_put(leaf, NamedSharding(mesh, of_params if leaf.ndim == 2 else P()))

    params = jax.tree.map(place, PARAMS)
    if way is AxisType.Explicit:
        # Where axes are explicit, a parameter is gathered by hand before it is multiplied with what
        # the same axis divides.
        def step(params: Any, x: jax.Array, key: jax.Array) -> Any:
            return jax.value_and_grad(
                lambda params: loss(
                    jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, P()), params), x, key
                )
            )(params)

    else:
        step = plain
    with jax.set_mesh(mesh):
        found = jax.jit(step)(
            params, jax.device_put(IMAGES, NamedSharding(mesh, of_batch)), step_key(KEY, 5)
        )
    assert_close(jax.tree.map(np.asarray, found), plain(PARAMS, IMAGES, step_key(KEY, 5)))


def test_replicas_have_masks_of_their_own() -> None:
    """`replica` is for ensembles: models that are to differ, here of a batch that all of them
    see.
    """

    def local(x: jax.Array, step: Any) -> jax.Array:
        return jaxdrop.dropout(step_key(KEY, step, replica=lax.axis_index("models")), x, 0.5)

    ones = np.ones((16, 16), np.float32)
    outputs = jax.pmap(local, axis_name="models", in_axes=(0, None))(np.stack([ones] * 8), 5)
    for index, output in enumerate(outputs):
        np.testing.assert_array_equal(
            output, jaxdrop.dropout(step_key(KEY, 5, replica=index), ones, 0.5)
        )
    assert len(np.unique(np.asarray(outputs).reshape(8, -1), axis=0)) == 8


def test_a_pipeline_of_two_programs_is_one_program() -> None:
    """Each stage has a key of its own, so that it does not matter what ran before it, nor where."""

    def stage(params: Any, x: jax.Array, step: Any, number: int) -> jax.Array:
        return apply(params, x, jax.random.fold_in(step_key(KEY, step), number))

    def both(params: Any, x: jax.Array, step: Any) -> jax.Array:
        return stage(params, stage(params, x, step, 0), step, 1)

    ends = [SingleDeviceSharding(device) for device in jax.devices()[:2]]
    programs = [
        jax.jit(lambda params, x, step, number=number: stage(params, x, step, number))
        for number in range(2)
    ]
    params = [jax.device_put(PARAMS, end) for end in ends]

    x = jax.device_put(IMAGES, ends[0])
    y, back_0 = jax.vjp(lambda params, x: programs[0](params, x, 5), params[0], x)
    z, back_1 = jax.vjp(
        lambda params, y: programs[1](params, y, 5), params[1], jax.device_put(y, ends[1])
    )
    of_params_1, of_y = back_1(jnp.ones_like(z))
    of_params_0, _ = back_0(jax.device_put(of_y, ends[0]))

    expected, back = jax.vjp(jax.jit(lambda params: both(params, IMAGES, 5)), PARAMS)
    assert_close(z, expected)
    total = jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), of_params_0, of_params_1)
    assert_close(total, jax.tree.map(np.asarray, back(jnp.ones_like(expected))[0]))


def test_the_update_of_a_policy_sees_the_masks_of_the_rollout() -> None:
    """Consistent dropout (Hausknecht & Wagener, 2022, arXiv:2202.11818), by the key alone: step t
    of the rollout is part t of one array, and a minibatch of the update any steps of it. The first
    ratio of probabilities is then 1.
    """
    steps, environments = 12, 4
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    start = IMAGES[:environments]

    def log_probs(x: jax.Array, key: jax.Array, part: jaxdrop.Part | None = None) -> jax.Array:
        hidden = jaxdrop.dropout(key, jnp.tanh(x @ weights), 0.5, part=part)
        return jax.nn.log_softmax(hidden[..., :3])

    def at(x: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return log_probs(x[None], key, jaxdrop.Part(t, steps, axis=0))[0]

    def act(x: jax.Array, t: jax.Array) -> Any:
        found = at(x, t, KEY)
        action = jax.random.categorical(jax.random.fold_in(jax.random.key(1), t), found)
        return jnp.roll(x, 1, axis=1) + action[:, None], (x, action, found)

    def ratio(found: jax.Array, before: jax.Array, actions: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(found - before, actions[..., None], -1)
        return jnp.exp(chosen[..., 0])

    @jax.jit
    def update(order: jax.Array) -> Any:
        _, (seen, actions, before) = lax.scan(act, start, jnp.arange(steps))
        shuffled = jax.vmap(at, in_axes=(0, 0, None))(seen[order], order, KEY)
        return (
            ratio(log_probs(seen, KEY), before, actions),
            ratio(shuffled, before[order], actions[order]),
            ratio(log_probs(seen, step_key(KEY, 1)), before, actions),
        )

    whole, minibatch, other = update(np.random.default_rng(1).permutation(steps)[:5])
    np.testing.assert_allclose(whole, 1, rtol=1e-5)
    np.testing.assert_allclose(minibatch, 1, rtol=1e-5)
    assert np.abs(other - 1).max() > 0.1
