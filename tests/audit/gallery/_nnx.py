"""Faults in NNX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.audit.gallery import KEY, STEP, Call, array, call, case

X = array(4, 8)
TOKENS = array(4, 6, 8)


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, **options: Any) -> None:
        self.first = nnx.Linear(8, 16, rngs=rngs)
        own = options.pop("own_rngs", True)
        self.dropout = nnx.Dropout(
            options.pop("rate", 0.1), rngs=rngs if own else None, **options.pop("mode", {})
        )
        self.last = nnx.Linear(16, 5, rngs=rngs)
        self.used = options.pop("used", True)
        self.call = options.pop("call", {})

    def __call__(self, x: jax.Array, **more: Any) -> jax.Array:
        x = nnx.relu(self.first(x))
        if self.used:
            x = self.dropout(x, **self.call, **more)
        return self.last(x)


def abstract(make: Any, *args: Any, **options: Any) -> Any:
    """A model whose arrays are shapes."""
    return nnx.eval_shape(lambda: make(*args, rngs=nnx.Rngs(0), **options))


def forward(model: Any, x: jax.Array) -> jax.Array:
    return model(x)


def loss_step(model: Any, x: jax.Array) -> Any:
    return nnx.grad(lambda model: jnp.square(model(x)).mean())(model)


@case("JD101", "nnx", also=("JD103",))
def a_layer_that_is_never_called(broken: bool) -> Call:
    return call(forward, abstract(MLP, used=not broken), X, training=True)


@case("JD102", "nnx")
def eval_was_not_called(broken: bool) -> Call:
    model = abstract(MLP)
    if not broken:
        model.eval()
    return call(forward, model, X, training=False, ignore=("JD105",))


@case("JD103", "nnx")
def train_was_not_called(broken: bool) -> Call:
    model = abstract(MLP)
    model.eval()
    if not broken:
        model.train()
    return call(loss_step, model, X, training=True)


@case("JD104", "nnx")
def no_rngs_anywhere(broken: bool) -> Call:
    model = abstract(MLP, own_rngs=not broken)
    return call(loss_step, model, X, training=True)


@case("JD104", "nnx")
def no_rngs_anywhere_seen_in_evaluation(broken: bool) -> Call:
    model = abstract(MLP, own_rngs=not broken)
    model.eval()
    return call(forward, model, X, training=False)


@case("JD104", "nnx")
def no_rngs_in_attention(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.attention = nnx.MultiHeadAttention(
                2,
                8,
                dropout_rate=0.1,
                broadcast_dropout=False,
                deterministic=False,
                decode=False,
                rngs=rngs,
            )
            self.dropout = nnx.Dropout(0.1, rngs=None if broken else rngs)
            self.last = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.dropout(self.attention(x)))

    return call(forward, abstract(Block), TOKENS, training=True)


@case("JD105", "nnx", also=("JD102",))
def the_constructor_turns_it_on(broken: bool) -> Call:
    model = abstract(MLP, mode={"deterministic": not broken})
    return call(forward, model, X, training=False)


@case("JD201", "nnx")
def one_key_for_two_calls(broken: bool) -> Call:
    class Two(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
            self.dropout = nnx.Dropout(0.1)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            keys = (key, key) if broken else jax.random.split(key)
            for layer, key in zip(self.layers, keys, strict=False):
                x = self.dropout(nnx.relu(layer(x)), rngs=key)
            return self.layers[2](x)

    return call(lambda model, x, key: model(x, key), abstract(Two), X, KEY)


@case("JD201", "nnx")
def streams_that_begin_with_one_key(broken: bool) -> Call:
    def init_and_run(key: jax.Array, x: jax.Array) -> jax.Array:
        second = key if broken else jax.random.fold_in(key, 1)
        layers = [nnx.Dropout(0.1, rngs=nnx.Rngs(dropout=k)) for k in (key, second)]
        weights = jnp.ones((8, 8))
        return layers[1](nnx.relu(layers[0](x @ weights) @ weights)) @ weights

    return call(init_and_run, KEY, X)


@case("JD202", "nnx")
def the_state_of_the_stream_is_not_kept(broken: bool) -> Call:
    graph, state = nnx.split(abstract(MLP))

    def step(state: Any, number: jax.Array, x: jax.Array) -> Any:
        before = jax.tree.map(lambda leaf: leaf, state)
        model = nnx.merge(graph, state)
        return model(x), before if broken else nnx.state(model)

    return call(step, state, STEP, X, training=True, step=1)


@case("JD202", "nnx")
def one_key_for_all_steps(broken: bool) -> Call:
    model = abstract(MLP, own_rngs=False)

    def step(model: Any, key: jax.Array, number: jax.Array, x: jax.Array) -> Any:
        key = key if broken else jax.random.fold_in(key, number)
        return nnx.grad(lambda model: model(x, rngs=key).sum())(model)

    return call(step, model, KEY, STEP, X, training=True, step=2)


@case("JD205", "nnx", also=("JD202",))
def rngs_of_a_constant_in_the_call(broken: bool) -> Call:
    model = abstract(MLP, own_rngs=False)

    def step(model: Any, key: jax.Array, x: jax.Array) -> Any:
        rngs = nnx.Rngs(dropout=0) if broken else nnx.Rngs(dropout=key)
        return model(x, rngs=rngs)

    return call(step, model, KEY, X, training=True)


@case("JD304", "nnx")
def a_keep_probability_in_nnx(broken: bool) -> Call:
    return call(forward, abstract(MLP, rate=0.8 if broken else 0.2), X)


@case("JD301", "nnx")
def the_default_of_attention_in_nnx(broken: bool) -> Call:
    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            options = {} if broken else {"broadcast_dropout": False}
            self.attention = nnx.MultiHeadAttention(
                2, 8, dropout_rate=0.1, decode=False, rngs=rngs, **options
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.attention(x, deterministic=False)

    return call(forward, abstract(Block), TOKENS)


@case("JD303", "nnx")
def dropout_before_batch_norm_in_nnx(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.last = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.first(x)
            x = self.norm(self.dropout(x)) if broken else self.dropout(self.norm(x))
            return self.last(x)

    return call(forward, abstract(Net), X)


@case("JD306", "nnx")
def dropout_of_the_residual_stream_in_nnx(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.branch, self.last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(3))
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.first(x)
            branch = nnx.gelu(self.branch(x))
            x = self.dropout(x + branch) if broken else x + self.dropout(branch)
            return self.last(x)

    return call(forward, abstract(Net), X)


@case("JD305", "nnx")
def dropout_behind_the_last_layer_in_nnx(broken: bool) -> Call:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.last = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.first(x))
            return self.dropout(self.last(x)) if broken else self.last(self.dropout(x))

    return call(loss_step, abstract(Net), X)
