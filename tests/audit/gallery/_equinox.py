"""Faults in Equinox."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.audit.gallery import KEY, STEP, Call, array, call, case

X = array(4, 8)


class MLP(eqx.Module):
    first: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear
    used: bool = eqx.field(static=True)

    def __init__(self, key: jax.Array, rate: Any = 0.1, used: bool = True) -> None:
        first, last = jax.random.split(key)
        self.first = eqx.nn.Linear(8, 16, key=first)
        self.dropout = eqx.nn.Dropout(rate)
        self.last = eqx.nn.Linear(16, 5, key=last)
        self.used = used

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.first(x))
        return self.last(self.dropout(x, key=key) if self.used else x)


class Layers(eqx.Module):
    """Three linear layers, of which a model takes what it needs, and dropout."""

    layers: list[eqx.nn.Linear]
    dropout: eqx.nn.Dropout

    def __init__(self, key: jax.Array) -> None:
        self.layers = [eqx.nn.Linear(8, 8, key=own) for own in jax.random.split(key, 3)]
        self.dropout = eqx.nn.Dropout(0.1)


def abstract(make: Any, *args: Any, **options: Any) -> Any:
    return eqx.filter_eval_shape(lambda key: make(key, *args, **options), KEY)


def batched(model: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    return jax.vmap(model)(x, jax.random.split(key, len(x)))


def loss_step(model: Any, x: jax.Array, key: jax.Array) -> Any:
    return eqx.filter_grad(lambda model: jnp.square(batched(model, x, key)).mean())(model)


@case("JD101", "equinox", also=("JD103",))
def a_field_that_is_never_called(broken: bool) -> Call:
    return call(batched, abstract(MLP, used=not broken), X, KEY, training=True)


@dataclasses.dataclass(frozen=True)
class Rates:
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.2


@case("JD101", "equinox", "stanford-crfm/levanter@9263f81 models/gpt2.py:49,195-209")
def levanter_gpt2_hands_no_rate_to_its_attention(broken: bool) -> Call:
    class Block(eqx.Module):
        config: Rates = eqx.field(static=True)
        layers: list[eqx.nn.Linear]
        resid_dropout: eqx.nn.Dropout

        def __init__(self, key: jax.Array) -> None:
            self.config = Rates()
            self.layers = [eqx.nn.Linear(8, 8, key=own) for own in jax.random.split(key, 4)]
            self.resid_dropout = eqx.nn.Dropout(self.config.resid_pdrop)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            first, second = jax.random.split(key)
            q, k, v = (jax.vmap(layer)(x) for layer in self.layers[:3])
            weights = jax.nn.softmax(q @ k.T)
            if not broken:
                weights = eqx.nn.Dropout(self.config.attn_pdrop)(weights, key=first)
            out = jax.vmap(self.layers[3])(weights @ v)
            return x + self.resid_dropout(out, key=second)

    return call(loss_step, abstract(Block), array(2, 4, 8), KEY, training=True)


@case("JD102", "equinox")
def inference_mode_was_forgotten(broken: bool) -> Call:
    model = abstract(MLP)
    if not broken:
        model = eqx.nn.inference_mode(model)
    return call(batched, model, X, KEY, training=False)


@case("JD103", "equinox")
def inference_mode_in_training(broken: bool) -> Call:
    model = eqx.nn.inference_mode(abstract(MLP), value=broken)
    return call(loss_step, model, X, KEY, training=True)


@case("JD106", "equinox")
def a_rate_of_zero_that_is_an_array(broken: bool) -> Call:
    def run(model: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        rate = jnp.zeros(()) if broken else 0.0
        model = eqx.tree_at(lambda model: model.dropout.p, model, rate)
        return batched(model, x, key)

    return call(run, abstract(MLP), X, KEY)


@case("JD201", "equinox")
def one_key_for_two_layers_in_equinox(broken: bool) -> Call:
    class Two(Layers):
        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            first, second = (key, key) if broken else jax.random.split(key)
            x = self.dropout(jax.nn.relu(self.layers[0](x)), key=first)
            x = self.dropout(jax.nn.relu(self.layers[1](x)), key=second)
            return self.layers[2](x)

    return call(batched, abstract(Two), X, KEY)


@case("JD202", "equinox")
def the_step_is_not_folded_in(broken: bool) -> Call:
    def step(model: Any, x: jax.Array, key: jax.Array, number: jax.Array) -> Any:
        return loss_step(model, x, key if broken else jax.random.fold_in(key, number))

    return call(step, abstract(MLP), X, KEY, STEP, training=True, step=3)


@case("JD205", "equinox")
def a_seed_in_the_loss(broken: bool) -> Call:
    def step(model: Any, x: jax.Array, key: jax.Array) -> Any:
        return loss_step(model, x, jax.random.key(42) if broken else key)

    return call(step, abstract(MLP), X, KEY, training=True)


@case("JD203", "equinox")
def micro_batches_share_a_key_in_equinox(broken: bool) -> Call:
    def step(model: Any, batches: jax.Array, key: jax.Array) -> Any:
        params, static = eqx.partition(model, eqx.is_array)

        def micro(total: Any, item: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            x, own = item
            grads = loss_step(eqx.combine(params, static), x, key if broken else own)
            return jax.tree.map(jnp.add, total, eqx.filter(grads, eqx.is_array)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(micro, zeros, (batches, jax.random.split(key, 3)))[0]

    return call(step, abstract(MLP), array(3, 4, 8), KEY, training=True)


@case("JD206", "equinox")
def an_rbg_key_for_each_example(broken: bool) -> Call:
    impl = "unsafe_rbg" if broken else "threefry2x32"
    key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
    return call(batched, abstract(MLP), X, key)


@case("JD301", "equinox")
def one_key_for_the_whole_batch(broken: bool) -> Call:
    def run(model: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        if broken:
            return jax.vmap(model, in_axes=(0, None))(x, key)
        return batched(model, x, key)

    return call(run, abstract(MLP), X, KEY)


@case("JD304", "equinox")
def a_keep_probability_in_equinox(broken: bool) -> Call:
    return call(batched, abstract(MLP, rate=0.9 if broken else 0.1), X, KEY)


@case("JD305", "equinox")
def dropout_behind_the_last_layer_in_equinox(broken: bool) -> Call:
    class Net(Layers):
        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            x = jax.nn.relu(self.layers[0](x))
            if broken:
                return self.dropout(self.layers[1](x), key=key)
            return self.layers[1](self.dropout(x, key=key))

    return call(loss_step, abstract(Net), X, KEY)


@case("JD306", "equinox")
def dropout_of_the_residual_stream_in_equinox(broken: bool) -> Call:
    class Net(Layers):
        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            x = self.layers[0](x)
            branch = self.layers[1](jax.nn.relu(x))
            drop = functools.partial(self.dropout, key=key)
            return self.layers[2](drop(x + branch) if broken else x + drop(branch))

    return call(batched, abstract(Net), X, KEY)


@case("JD307", "equinox")
def bfloat16_in_equinox(broken: bool) -> Call:
    def run(model: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        half = jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, model
        )
        return batched(half, x.astype(jnp.bfloat16), key)

    return call(run, abstract(MLP, rate=0.1 if broken else 0.5), X, KEY)
