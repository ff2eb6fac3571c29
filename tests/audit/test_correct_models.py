"""Whole training steps of usual models, in which nothing is wrong: nothing is reported, and every
place is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import audit
from tests.audit.gallery import KEY, STEP, array
from tests.audit.gallery._linen import variables

pytestmark = pytest.mark.usefixtures("relaxed")

TOKENS = array(2, 6, dtype=jnp.int32)
IMAGES = array(2, 8, 8, 3)


def drop(x: jax.Array, rate: float = 0.1, axes: tuple[int, ...] = ()) -> jax.Array:
    return nn.Dropout(rate, broadcast_dims=axes, deterministic=False)(x)


def attend(x: jax.Array) -> jax.Array:
    layer = nn.MultiHeadDotProductAttention(
        2, dropout_rate=0.1, broadcast_dropout=False, deterministic=False
    )
    return layer(x)


class Encoder(nn.Module):
    """Two blocks with dropout in five places: attention, branches, the inner layer, two paths."""

    post: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def mlp(x: jax.Array) -> jax.Array:
            return nn.Dense(8)(drop(nn.gelu(nn.Dense(32)(x))))

        for _ in range(2):
            for branch in (attend, mlp):
                y = drop(drop(branch(x if self.post else nn.LayerNorm()(x))), axes=(1, 2))
                x = nn.LayerNorm()(x + y) if self.post else x + y
        return x


class ViT(nn.Module):
    post: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (2, 2), strides=(2, 2))(x).reshape(x.shape[0], -1, 8)
        first = self.param("first", nn.initializers.zeros, (1, 1, 8))
        x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], 1)
        x = drop(x + self.param("places", nn.initializers.normal(), (1, x.shape[1], 8)))
        return nn.Dense(5)(nn.LayerNorm()(Encoder(self.post)(x))[:, 0])


class GPT(nn.Module):
    """The last layer is the embedding."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        embed = nn.Embed(50, 8)
        x = drop(embed(ids) + nn.Embed(6, 8)(jnp.arange(6))[None])
        return embed.attend(nn.LayerNorm()(Encoder()(x)))


class Bert(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(50, 8)(ids) + nn.Embed(6, 8)(jnp.arange(6))[None]
        x = Encoder(post=True)(drop(nn.LayerNorm()(x + nn.Embed(2, 8)(jnp.zeros_like(ids)))))
        return nn.Dense(3)(drop(nn.tanh(nn.Dense(8)(x[:, 0]))))


class LanguageModel(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = drop(nn.Embed(50, 8)(ids), 0.3)
        for _ in range(2):
            x = drop(nn.RNN(nn.OptimizedLSTMCell(8))(x), 0.3)
        return nn.Dense(50)(x)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3))(x))

        x = nn.relu(layer(x))
        for _ in range(2):
            x = nn.relu(x + layer(nn.relu(layer(x))))
        return nn.Dense(4)(drop(x.mean((1, 2)), 0.5))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = nn.relu(nn.Conv(4, (3, 3))(x))
        second = drop(nn.relu(nn.Conv(8, (3, 3), strides=(2, 2))(first)), 0.2)
        up = drop(nn.ConvTranspose(4, (2, 2), strides=(2, 2))(second), 0.2, (1, 2))
        return nn.Conv(3, (1, 1))(jnp.concatenate([first, up], -1))


class Graph(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        edges = self.variable("graph", "edges", lambda: jnp.eye(6)).value
        for _ in range(2):
            x = edges @ nn.Dense(8)(drop(nn.relu(x), 0.2))
        return edges @ nn.Dense(3)(drop(x, 0.5))


class VariationalCell(nn.Module):
    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nn.SimpleCell(8)(carry, drop(x, 0.2))


class VariationalRNN(nn.Module):
    """One mask for all time steps, on purpose."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        split = {"params": False, "dropout": False}
        cell = nn.scan(
            VariationalCell, variable_broadcast="params", split_rngs=split, in_axes=1, out_axes=1
        )
        return nn.Dense(3)(cell()(jnp.zeros((x.shape[0], 8)), nn.Dense(8)(x))[1])


def training_step(model: nn.Module, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step of Adam with weight decay, and shapes for its arguments."""
    weights, optimizer = variables(model, x), optax.adamw(1e-3)
    state = jax.eval_shape(optimizer.init, weights["params"])

    def step(weights: Any, state: Any, key: jax.Array, number: jax.Array, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            rngs = {"dropout": jax.random.fold_in(key, number)}
            filled = {**weights, "params": params}
            logits, _ = model.apply(filled, x, rngs=rngs, mutable=["batch_stats"])
            labels = jnp.zeros(logits.shape[:-1], jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(weights["params"])
        updates, state = optimizer.update(grads, state, weights["params"])
        params = optax.apply_updates(weights["params"], updates)
        return {**weights, "params": params}, state, value

    return step, (weights, state, KEY, STEP, x)


@pytest.mark.parametrize(
    ("model", "x", "sites"),
    [
        (ViT(), IMAGES, 13),
        (ViT(post=True), IMAGES, 13),
        (GPT(), TOKENS, 13),
        (Bert(), TOKENS, 14),
        (LanguageModel(), TOKENS, 3),
        (ResNet(), IMAGES, 1),
        (UNet(), IMAGES, 2),
        (Graph(), array(6, 8), 3),
        (VariationalRNN(), array(2, 6, 8), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_nothing_is_reported_and_all_is_seen(model: nn.Module, x: Any, sites: int) -> None:
    step, arguments = training_step(model, x)
    report = audit.check(step, *arguments, step="number", training=True)
    assert [str(each) for each in report.findings] == []
    assert len(report.sites) == sites
    assert all(site.active for site in report.sites)


def test_a_function_may_use_a_part_of_a_model() -> None:
    class Part(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(2))
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.unused = nnx.Dropout(0.2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(self.dropout(nnx.relu(self.first(x))))

    class Both(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.encoder, self.decoder = Part(rngs), Part(rngs)

    def encode(model: Any, x: jax.Array) -> jax.Array:
        return model.encoder(x)

    model = nnx.eval_shape(lambda: Both(nnx.Rngs(0)))
    (found,) = audit.check(encode, model, array(4, 8), training=True).findings
    assert (found.id, found.where) == ("JD101", "encoder/unused")


def test_the_same_models_do_not_pass_as_evaluation() -> None:
    step, arguments = training_step(Bert(), TOKENS)
    report = audit.check(step, *arguments, step="x", training=False)
    assert {each.id for each in report.findings} == {"JD102", "JD105", "JD202"}
    assert sum(each.id == "JD102" for each in report.findings) == 14
