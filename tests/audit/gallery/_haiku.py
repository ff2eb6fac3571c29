"""Faults in Haiku."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tests.audit.gallery import KEY, STEP, Call, array, call, case

X = array(4, 8)
TOKENS = array(4, 6, 8)


class MLP(hk.Module):
    def __init__(self, dropout_rate: float = 0.1, applied: bool = True, last: bool = False) -> None:
        super().__init__()
        self.dropout_rate, self.applied, self.last_one = dropout_rate, applied, last

    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        x = jax.nn.relu(hk.Linear(16)(x))
        if training and self.applied:
            x = hk.dropout(hk.next_rng_key(), self.dropout_rate, x)
        x = hk.Linear(5)(x)
        if training and self.last_one:
            x = hk.dropout(hk.next_rng_key(), self.dropout_rate, x)
        return x


def applied(body: Any, x: Any, make_key: Any = lambda key, step: key, **options: Any) -> Call:
    net = hk.transform_with_state(body)
    params, state = jax.eval_shape(net.init, KEY, x)

    def forward(params: Any, key: jax.Array, step: jax.Array, x: jax.Array) -> jax.Array:
        return net.apply(params, state_of(state), make_key(key, step), x)[0]

    return call(forward, params, KEY, STEP, x, **options)


def state_of(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@case("JD101", "haiku", also=("JD103",))
def a_haiku_module_that_keeps_its_rate(broken: bool) -> Call:
    return applied(lambda x: MLP(applied=not broken)(x), X, training=True)


@case("JD102", "haiku")
def training_by_default_in_haiku(broken: bool) -> Call:
    return applied(lambda x: MLP()(x, training=broken), X, training=False)


@case("JD103", "haiku", also=("JD101",))
def evaluation_in_the_training_step_of_haiku(broken: bool) -> Call:
    return applied(lambda x: MLP()(x, training=not broken), X, training=True)


@case("JD106", "haiku")
def a_rate_of_zero_from_a_schedule(broken: bool) -> Call:
    rate = 1.0 - jnp.ones(()) if broken else 0.0

    def body(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Linear(16)(x))
        return hk.Linear(5)(hk.dropout(hk.next_rng_key(), rate, x))

    return applied(body, X)


@case("JD201", "haiku")
def one_key_for_two_dropouts(broken: bool) -> Call:
    def body(x: jax.Array) -> jax.Array:
        first = hk.next_rng_key()
        second = first if broken else hk.next_rng_key()
        x = hk.dropout(first, 0.1, jax.nn.relu(hk.Linear(16)(x)))
        return hk.Linear(5)(hk.dropout(second, 0.1, jax.nn.relu(hk.Linear(16)(x))))

    return applied(body, X)


@case("JD202", "haiku")
def the_step_is_not_folded_in_haiku(broken: bool) -> Call:
    def make_key(key: jax.Array, step: jax.Array) -> jax.Array:
        return key if broken else jax.random.fold_in(key, step)

    return applied(lambda x: MLP()(x), X, make_key, training=True, step=2)


@case("JD205", "haiku", also=("JD202",))
def a_prng_sequence_of_a_constant(broken: bool) -> Call:
    def make_key(key: jax.Array, step: jax.Array) -> jax.Array:
        return jax.random.PRNGKey(428) if broken else key

    return applied(lambda x: MLP()(x), X, make_key, training=True)


@case("JD203", "haiku")
def layers_of_a_scan_share_a_key_in_haiku(broken: bool) -> Call:
    def body(x: jax.Array) -> jax.Array:
        weights = hk.get_parameter("w", (3, 8, 8), init=jnp.ones)
        key = hk.next_rng_key()

        def layer(x: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            own, index = item
            mine = key if broken else jax.random.fold_in(key, index)
            return x + hk.dropout(mine, 0.1, jax.nn.relu(x @ own)), None

        return hk.Linear(2)(jax.lax.scan(layer, x, (weights, jnp.arange(3)))[0])

    return applied(body, X)


@case("JD304", "haiku")
def a_keep_probability_in_haiku(broken: bool) -> Call:
    return applied(lambda x: MLP(dropout_rate=0.9 if broken else 0.1)(x), X)


@case("JD305", "haiku")
def dropout_behind_the_last_layer_in_haiku(broken: bool) -> Call:
    return applied(lambda x: MLP(last=broken)(x), X)


@case("JD303", "haiku")
def dropout_before_batch_norm_in_haiku(broken: bool) -> Call:
    def body(x: jax.Array) -> jax.Array:
        x = hk.Linear(8)(x)
        if broken:
            x = hk.dropout(hk.next_rng_key(), 0.3, x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=True))
        if not broken:
            x = hk.dropout(hk.next_rng_key(), 0.3, x)
        return hk.Linear(2)(x)

    return applied(body, X)


@case("JD301", "haiku")
def broadcast_dims_of_the_batch(broken: bool) -> Call:
    def body(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Linear(16)(x))
        axes = (0,) if broken else ()
        return hk.Linear(5)(hk.dropout(hk.next_rng_key(), 0.1, x, broadcast_dims=axes))

    return applied(body, X)


@case("JD307", "haiku")
def bfloat16_in_haiku(broken: bool) -> Call:
    def body(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Linear(16)(x)).astype(jnp.bfloat16)
        x = hk.dropout(hk.next_rng_key(), 0.1 if broken else 0.25, x)
        return hk.Linear(5)(x.astype(jnp.float32))

    return applied(body, X)
