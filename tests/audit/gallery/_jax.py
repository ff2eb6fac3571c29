"""Faults in plain functions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import jaxdrop
from tests.audit.gallery import KEY, STEP, Call, array, call, case

X = array(8, 16)
W = {"w": array(16, 16), "v": array(16, 4)}


def dropout(key: jax.Array, x: jax.Array, rate: Any) -> jax.Array:
    """What people write by hand."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def model(w: Any, key: jax.Array, x: jax.Array, rate: Any = 0.1, drop: Any = dropout) -> Any:
    return drop(key, jax.nn.relu(x @ w["w"]), rate) @ w["v"]


def sharded(body: Any, size: int, axis: str, specs: tuple[Any, ...], out: Any) -> Any:
    mesh = Mesh(np.array(jax.devices()[:size]), (axis,))
    return jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)


ROWS = PartitionSpec("data")
ALL = PartitionSpec()


@case("JD204", "jax")
def replicas_share_a_key(broken: bool) -> Call:
    def body(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        if not broken:
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return model(w, key, x)

    return call(sharded(body, 2, "data", (ALL, ALL, ROWS), ROWS), W, KEY, X)


@case("JD204", "jax")
def replicas_share_a_key_of_jaxdrop(broken: bool) -> Call:
    def body(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        spec = None if broken else PartitionSpec("data", None)
        return model(w, key, x, drop=partial(jaxdrop.dropout, spec=spec))

    return call(sharded(body, 2, "data", (ALL, ALL, ROWS), ROWS), W, KEY, X)


@case("JD204", "jax")
def the_gradient_step_of_replicas(broken: bool) -> Call:
    def body(w: Any, keys: jax.Array, x: jax.Array) -> Any:
        grads = jax.grad(lambda w: jnp.square(model(w, keys[0], x)).mean())(w)
        return jax.lax.pmean(grads, "data")

    key_spec = ALL if broken else ROWS
    step = sharded(body, 2, "data", (ALL, key_spec, ROWS), ALL)
    return call(lambda w, key, x: step(w, jax.random.split(key, 2), x), W, KEY, X)


@case("JD203", "jax")
def accumulation_in_a_loop(broken: bool) -> Call:
    def step(w: Any, key: jax.Array, batches: jax.Array) -> Any:
        def body(index: jax.Array, total: Any) -> Any:
            own = key if broken else jax.random.fold_in(key, index)
            x = jax.lax.dynamic_index_in_dim(batches, index, keepdims=False)
            grads = jax.grad(lambda w: jnp.square(model(w, own, x)).mean())(w)
            return jax.tree.map(jnp.add, total, grads)

        return jax.lax.fori_loop(0, 3, body, jax.tree.map(jnp.zeros_like, w))

    return call(step, W, KEY, array(3, 8, 16), training=True)


@case("JD203", "jax")
def the_carried_key_is_not_renewed(broken: bool) -> Call:
    def epoch(w: Any, key: jax.Array, batches: jax.Array) -> Any:
        def body(carry: tuple[Any, jax.Array], x: jax.Array) -> tuple[Any, None]:
            w, key = carry
            own, following = jax.random.split(key)
            grads = jax.grad(lambda w: jnp.square(model(w, own, x)).mean())(w)
            w = jax.tree.map(lambda a, g: a - 0.1 * g, w, grads)
            return (w, key if broken else following), None

        return jax.lax.scan(body, (w, key), batches)[0][0]

    return call(epoch, W, KEY, array(3, 8, 16), training=True)


@case("JD106", "jax")
def a_rate_of_zero_by_hand(broken: bool) -> Call:
    return call(partial(model, rate=0.0 if broken else 0.1), W, KEY, X)


@case("JD106", "jax")
def a_schedule_that_has_ended(broken: bool) -> Call:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        rate = jnp.zeros(()) if broken else 0.0
        return model(w, key, x, rate, drop=jaxdrop.dropout)

    return call(run, W, KEY, X)


@case("JD102", "jax")
def a_partial_that_is_always_on(broken: bool) -> Call:
    layer = partial(jaxdrop.dropout, deterministic=not broken)
    return call(partial(model, drop=layer), W, KEY, X, training=False)


@case("JD206", "jax")
def masks_of_rbg_for_each_sample(broken: bool) -> Call:
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))

    def samples(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 4)
        if broken:
            return jax.vmap(lambda key: model(w, key, x))(keys)
        return jax.lax.map(lambda key: model(w, key, x), keys)

    return call(samples, W, key, X)


@case("JD207", "jax", also=("JD201",))
def weights_and_mask_of_one_key(broken: bool) -> Call:
    def start(key: jax.Array, x: jax.Array) -> jax.Array:
        first, second = (key, key) if broken else jax.random.split(key)
        w = {"w": jax.random.normal(first, (16, 16)), "v": jnp.ones((16, 4))}
        return model(w, second, x)

    return call(start, KEY, X)


@case("JD301", "jax")
def one_mask_for_the_batch(broken: bool) -> Call:
    def drop(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
        shape = (1, x.shape[1]) if broken else x.shape
        return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x / (1 - rate), 0)

    return call(partial(model, drop=drop), W, KEY, X)


@case("JD302", "jax")
def one_mask_for_all_positions(broken: bool) -> Call:
    def drop(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
        return jaxdrop.dropout(key, x, rate, broadcast_dims=(1,) if broken else ())

    return call(partial(model, drop=drop), W, KEY, array(4, 6, 16))


@case("JD304", "jax")
def a_keep_probability_of_stax(broken: bool) -> Call:
    return call(partial(model, rate=0.8 if broken else 0.2), W, KEY, X)


@case("JD304", "jax")
def inputs_at_a_rate_of_a_half(broken: bool) -> Call:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(dropout(key, x, 0.5 if broken else 0.1) @ w["w"]) @ w["v"]

    return call(run, W, KEY, X)


@case("JD307", "jax")
def a_factor_in_bfloat16(broken: bool) -> Call:
    def drop(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        if broken:
            return keep.astype(x.dtype) * x * jnp.asarray(1 / (1 - rate), x.dtype)
        scaled = x.astype(jnp.float32) * (1 / (1 - rate))
        return jnp.where(keep, scaled, 0).astype(x.dtype)

    half = {name: array(*leaf.shape, dtype=jnp.bfloat16) for name, leaf in W.items()}
    return call(partial(model, drop=drop), half, KEY, array(8, 16, dtype=jnp.bfloat16))


@case("JD307", "jax")
def weights_of_attention_in_bfloat16(broken: bool) -> Call:
    def attend(key: jax.Array, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", x, x))
        keep = jax.random.bernoulli(key, 0.9, weights.shape)
        if broken:
            weights = weights * (keep.astype(weights.dtype) / jnp.asarray(0.9, weights.dtype))
        else:
            weights = jaxdrop.dropout(key, weights, 0.1)
        return jnp.einsum("bts,bsd->btd", weights, x)

    return call(attend, KEY, array(2, 6, 8, dtype=jnp.bfloat16))


def scanned(broken: bool, prevent_cse: bool, drop: Any = dropout) -> Call:
    def step(w: Any, key: jax.Array, x: jax.Array) -> Any:
        def layer(x: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            w, key = item
            return x + drop(key, jax.nn.relu(x @ w), 0.1), None

        body = layer if broken else jax.checkpoint(layer, prevent_cse=prevent_cse)

        def loss(w: Any) -> jax.Array:
            keys = jax.random.split(key, 3)
            return jnp.square(jax.lax.scan(body, x, (w["w"], keys))[0] @ w["v"]).mean()

        return jax.grad(loss)(w)

    return call(step, {"w": array(3, 16, 16), "v": array(16, 4)}, KEY, X)


@case("JD308", "jax")
def a_scan_keeps_the_masks(broken: bool) -> Call:
    return scanned(broken, prevent_cse=False)


@case("JD308", "jax")
def a_mask_from_outside_of_remat(broken: bool) -> Call:
    def step(w: Any, key: jax.Array, x: jax.Array) -> Any:
        def loss(w: Any) -> jax.Array:
            outside = jax.random.bernoulli(key, 0.9, x.shape)

            @jax.checkpoint
            def block(w: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
                keep = outside if broken else jax.random.bernoulli(key, 0.9, x.shape)
                return jnp.where(keep, jax.nn.relu(x @ w) / 0.9, 0)

            return jnp.square(block(w["w"], x, key) @ w["v"]).mean()

        return jax.grad(loss)(w)

    return call(step, W, KEY, X)


@case("JD201", "jax")
def a_split_equals_a_fold_in(broken: bool) -> Call:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        first = jax.random.split(key, 3)[1]
        second = jax.random.fold_in(key, 1 if broken else 7)
        x = dropout(first, jax.nn.relu(x @ w["w"]), 0.1)
        return dropout(second, jax.nn.relu(x @ w["w"]), 0.1) @ w["v"]

    return call(run, W, KEY, X)


@case("JD202", "jax")
def the_step_scales_the_rate_only(broken: bool) -> Call:
    def step(w: Any, key: jax.Array, number: jax.Array, x: jax.Array) -> Any:
        rate = jnp.minimum(number.astype(jnp.float32) * 1e-5, 0.3)
        own = key if broken else jax.random.fold_in(key, number)
        return jax.grad(lambda w: jnp.square(model(w, own, x, rate, jaxdrop.dropout)).mean())(w)

    return call(step, W, KEY, STEP, X, training=True, step=2)


@case("JD303", "jax")
def batch_norm_whose_statistics_are_moved_to_their_axes(broken: bool) -> Call:
    """Libraries with named axes put new axes first, and bring them into order then."""

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        x = dropout(key, x, 0.1)
        over, own = ((0, 1), (0,)) if broken else ((2,), (1, 2))
        deviation = jax.lax.rsqrt(x.var(over) + 1e-5)
        first = jax.lax.broadcast_in_dim(deviation, (8, 4, 6), own)
        return jnp.tanh(x * jnp.transpose(first, (1, 2, 0)))

    return call(run, KEY, array(4, 6, 8))
