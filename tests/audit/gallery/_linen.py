"""Faults in Linen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.audit.gallery import KEY, STEP, Call, array, call, case

X = array(4, 8)
TOKENS = array(4, 6, 8)


def variables(model: nn.Module, x: Any, **options: Any) -> Any:
    init = {"params": KEY, "dropout": KEY}
    return jax.eval_shape(lambda keys, x: model.init(keys, x, **options), init, x)


def applied(model: nn.Module, x: Any, audited: bool | None = None, **options: Any) -> Call:
    """A forward pass, with a key for dropout. `audited` is what the audit is told of the mode."""

    def forward(weights: Any, key: jax.Array, x: jax.Array) -> Any:
        return model.apply(weights, x, rngs={"dropout": key}, mutable=["batch_stats"], **options)[0]

    return call(forward, variables(model, x, **options), KEY, x, training=audited)


class MLP(nn.Module):
    dropout_rate: float = 0.1
    used: bool = True
    off: bool = False
    input_rate: float = 0.0
    last_rate: float = 0.0
    frozen: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        if self.input_rate:
            x = nn.Dropout(self.input_rate)(x, deterministic=not training)
        x = nn.relu(nn.Dense(16)(x))
        if self.used:
            mode = {"deterministic": False} if self.frozen else {"deterministic": not training}
            x = nn.Dropout(self.dropout_rate, **mode)(x)
        x = nn.Dense(5)(x)
        if self.last_rate:
            x = nn.Dropout(self.last_rate)(x, deterministic=not training)
        return x


@case("JD101", "linen", also=("JD103",))
def a_rate_that_no_layer_reads(broken: bool) -> Call:
    return applied(MLP(dropout_rate=0.1, used=not broken), X, audited=True)


class Attention(nn.Module):
    attention_dropout: float = 0.1
    hidden_dropout: float = 0.1
    applied: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        query, key = nn.Dense(8)(x), nn.Dense(8)(x)
        weights = nn.softmax(jnp.einsum("btd,bsd->bts", query, key))
        if self.applied:
            weights = nn.Dropout(self.attention_dropout)(weights, deterministic=not training)
        out = nn.Dense(8)(jnp.einsum("bts,bsd->btd", weights, nn.Dense(8)(x)))
        return nn.Dense(5)(nn.Dropout(self.hidden_dropout)(out, deterministic=not training))


@case("JD101", "linen")
def attention_dropout_of_the_same_rate_as_the_hidden_one(broken: bool) -> Call:
    return applied(Attention(applied=not broken), TOKENS, audited=True)


@case("JD102", "linen", also=("JD105",))
def training_mode_by_default(broken: bool) -> Call:
    return applied(MLP(), X, audited=False, **({} if broken else {"training": False}))


@case("JD102", "linen")
def the_flag_is_inverted(broken: bool) -> Call:
    class Inverted(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            x = nn.Dense(8)(x)
            x = nn.Dropout(0.2)(x, deterministic=not deterministic if broken else deterministic)
            return nn.Dense(2)(x)

    return applied(Inverted(), X, audited=False, deterministic=True)


@case("JD102", "linen", also=("JD105",))
def attention_that_is_told_nothing_of_the_mode(broken: bool) -> Call:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            mode = False if broken else deterministic
            return nn.MultiHeadDotProductAttention(
                2, dropout_rate=0.1, broadcast_dropout=False, deterministic=mode
            )(x)

    return applied(Block(), TOKENS, audited=False, deterministic=True)


@case("JD103", "linen")
def evaluation_mode_in_the_training_step(broken: bool) -> Call:
    return applied(MLP(), X, audited=True, training=not broken)


@case("JD103", "linen")
def the_training_loss_calls_the_evaluation_function(broken: bool) -> Call:
    model = MLP()

    def step(weights: Any, key: jax.Array, x: jax.Array) -> Any:
        def loss(weights: Any) -> jax.Array:
            if broken:
                return model.apply(weights, x, training=False).sum()
            return model.apply(weights, x, training=True, rngs={"dropout": key}).sum()

        return jax.value_and_grad(loss)(weights)

    return call(step, variables(model, X), KEY, X, training=True)


@case("JD105", "linen", also=("JD102",))
def deterministic_false_in_the_constructor(broken: bool) -> Call:
    return applied(MLP(frozen=broken), X, audited=False, training=False)


@case("JD105", "linen", also=("JD102",))
def deterministic_false_in_attention(broken: bool) -> Call:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            layer = nn.MultiHeadDotProductAttention(
                2,
                dropout_rate=0.1,
                broadcast_dropout=False,
                deterministic=False if broken else None,
            )
            return layer(x) if broken else layer(x, deterministic=deterministic)

    return applied(Block(), TOKENS, audited=False, deterministic=True)


def step_of(model: nn.Module, x: Any, make_key: Any, **more: Any) -> Call:
    """A gradient step; `make_key(key, step)` is the key of dropout."""

    def step(weights: Any, key: jax.Array, number: jax.Array, x: jax.Array) -> Any:
        def loss(weights: Any) -> jax.Array:
            out = model.apply(weights, x, rngs={"dropout": make_key(key, number)})
            return jnp.square(out).mean()

        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))

    return call(step, variables(model, x), KEY, STEP, x, training=True, step=2, **more)


@case("JD202", "linen")
def the_step_is_not_folded_into_the_key(broken: bool) -> Call:
    return step_of(MLP(), X, lambda key, step: key if broken else jax.random.fold_in(key, step))


@case("JD202", "linen")
def a_split_is_no_new_key_for_a_step(broken: bool) -> Call:
    def make_key(key: jax.Array, step: jax.Array) -> jax.Array:
        if not broken:
            key = jax.random.fold_in(key, step)
        return jax.random.split(key)[0]

    return step_of(MLP(), X, make_key)


@case("JD202", "linen")
def the_step_is_divided_away(broken: bool) -> Call:
    def make_key(key: jax.Array, step: jax.Array) -> jax.Array:
        return jax.random.fold_in(key, 0 * step if broken else step)

    return step_of(MLP(), X, make_key)


@case("JD205", "linen", also=("JD202",))
def a_seed_in_the_step(broken: bool) -> Call:
    return step_of(
        MLP(), X, lambda key, step: jax.random.key(0) if broken else jax.random.fold_in(key, step)
    )


@case("JD201", "linen")
def one_key_for_two_layers(broken: bool) -> Call:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            key = self.make_rng("dropout")
            first, second = (key, key) if broken else jax.random.split(key)
            x = nn.Dropout(0.1)(nn.Dense(8)(x), deterministic=False, rng=first)
            x = nn.relu(nn.Dense(8)(x))
            return nn.Dense(2)(nn.Dropout(0.1)(x, deterministic=False, rng=second))

    return applied(Two(), X)


@case("JD303", "linen")
def dropout_before_batch_norm(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(8)(x)
            if broken:
                x = nn.Dropout(0.2)(x, deterministic=False)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            if not broken:
                x = nn.Dropout(0.2)(x, deterministic=False)
            return nn.Dense(2)(x)

    return applied(Net(), X)


@case("JD303", "linen")
def dropout_before_a_convolution_and_batch_norm(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(4, (3, 3))(x)
            if broken:
                x = nn.Dropout(0.1)(x, deterministic=False)
            x = nn.Conv(4, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x)).mean((1, 2))
            if not broken:
                x = nn.Dropout(0.1)(x, deterministic=False)
            return nn.Dense(2)(x)

    return applied(Net(), array(2, 6, 6, 3))


@case("JD303", "linen")
def dropout_before_batch_norm_in_evaluation(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.Dense(8)(x))
            x = nn.Dropout(0.5)(x, deterministic=False) if broken else x
            return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x)))

    return applied(Net(), X)


@case("JD304", "linen")
def a_keep_probability_as_a_rate(broken: bool) -> Call:
    return applied(MLP(dropout_rate=0.9 if broken else 0.1), X)


@case("JD304", "linen")
def inputs_at_the_rate_of_hidden_units(broken: bool) -> Call:
    return applied(MLP(input_rate=0.5 if broken else 0.2), X)


@case("JD305", "linen")
def dropout_on_the_logits(broken: bool) -> Call:
    return applied(MLP(last_rate=0.1 if broken else 0.0), X)


@case("JD305", "linen")
def dropout_on_the_logits_of_a_step(broken: bool) -> Call:
    model = MLP(last_rate=0.1 if broken else 0.0)
    return step_of(model, X, jax.random.fold_in)


class Residual(nn.Module):
    on_stream: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(8)(x)
        for _ in range(2):
            branch = nn.Dense(8)(nn.relu(nn.Dense(16)(nn.LayerNorm()(x))))
            if self.on_stream:
                x = nn.Dropout(0.1)(x + branch, deterministic=False)
            else:
                x = x + nn.Dropout(0.1)(branch, deterministic=False)
        return nn.Dense(2)(x)


@case("JD306", "linen")
def dropout_of_the_residual_stream(broken: bool) -> Call:
    return applied(Residual(broken), X)


@case("JD301", "linen")
def the_default_of_attention(broken: bool) -> Call:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            options = {} if broken else {"broadcast_dropout": False}
            return nn.MultiHeadDotProductAttention(
                2, dropout_rate=0.1, deterministic=False, **options
            )(x)

    return applied(Block(), TOKENS)


@case("JD301", "linen")
def broadcast_over_the_batch(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            axes = (0,) if broken else ()
            return nn.Dense(2)(
                nn.Dropout(0.1, broadcast_dims=axes)(nn.Dense(8)(x), deterministic=False)
            )

    return applied(Net(), X)


@case("JD307", "linen")
def bfloat16_at_a_rate_of_a_tenth(broken: bool) -> Call:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(8, dtype=jnp.bfloat16)(x)
            return nn.Dense(2)(nn.Dropout(0.1 if broken else 0.5)(x, deterministic=False))

    return applied(Net(), X)


class ScannedLayer(nn.Module):
    """A layer of a scan."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + nn.Dropout(0.1)(nn.relu(nn.Dense(8)(x)), deterministic=False), None


def scanned(layer: Any, split: bool = True) -> nn.Module:
    """A model with three layers in a scan."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            rngs = {"params": True, "dropout": split}
            stack = nn.scan(layer, variable_axes={"params": 0}, split_rngs=rngs, length=3)
            return nn.Dense(2)(stack()(x, None)[0])

    return Net()


@case("JD308", "linen")
def layers_in_a_scan_keep_their_masks(broken: bool) -> Call:
    layer = ScannedLayer if broken else nn.remat(ScannedLayer, prevent_cse=False)
    return step_of(scanned(layer), X, jax.random.fold_in)


@case("JD203", "linen")
def layers_in_a_scan_share_their_key(broken: bool) -> Call:
    return applied(scanned(ScannedLayer, split=not broken), X)


@case("JD203", "linen")
def micro_batches_share_a_key(broken: bool) -> Call:
    model = MLP()

    def step(weights: Any, key: jax.Array, number: jax.Array, batches: jax.Array) -> Any:
        key = jax.random.fold_in(key, number)

        def micro(total: Any, item: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            index, x = item

            def loss(weights: Any) -> jax.Array:
                own = key if broken else jax.random.fold_in(key, index)
                return jnp.square(model.apply(weights, x, rngs={"dropout": own})).mean()

            return jax.tree.map(jnp.add, total, jax.grad(loss)(weights)), None

        zeros = jax.tree.map(jnp.zeros_like, weights)
        return jax.lax.scan(micro, zeros, (jnp.arange(3), batches))[0]

    return call(step, variables(model, X), KEY, STEP, array(3, 4, 8), training=True, step=2)


@case("JD206", "linen")
def samples_of_an_rbg_key(broken: bool) -> Call:
    model = MLP()
    impl = "rbg" if broken else "threefry2x32"
    key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))

    def sample(weights: Any, key: jax.Array, x: jax.Array) -> Any:
        def one(key: jax.Array) -> Any:
            return model.apply(weights, x, rngs={"dropout": key})

        return jax.vmap(one)(jax.random.split(key, 5))

    return call(sample, variables(model, X), key, X)


@case("JD207", "linen")
def one_key_for_parameters_and_dropout(broken: bool) -> Call:
    model = MLP()

    def init(key: jax.Array, x: jax.Array) -> Any:
        params, dropout = (key, key) if broken else jax.random.split(key)
        return model.init({"params": params, "dropout": dropout}, x)

    return call(init, KEY, X)
