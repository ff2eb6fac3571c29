"""What the Linen modules of paths add to the functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdrop.linen import LayerDrop
from tests.catalogue import KEY

X = jnp.linspace(0.5, 2, 32).reshape(8, 4)


class Block(nn.Module):
    """A residual block with every kind of state."""

    @nn.compact
    def __call__(self, x: jax.Array, gain: jax.Array) -> jax.Array:
        y = nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x))
        return x + gain * nn.Dropout(0.5, deterministic=False)(y)


class Net(nn.Module):
    rate: float = 0.5
    deterministic: bool | None = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = LayerDrop(self.rate, deterministic=self.deterministic)(x, Block(), jnp.float32(2))
        return x


@pytest.fixture
def variables() -> Any:
    return Net().init({"params": KEY, "dropout": KEY}, X)


def apply(variables: Any, key: jax.Array, **options: Any) -> tuple[jax.Array, Any]:
    y, updates = Net(**options).apply(variables, X, rngs={"dropout": key}, mutable="batch_stats")
    return y, updates["batch_stats"]


@pytest.mark.usefixtures("relaxed")
def test_layer_drop_carries_the_variables_of_the_layer(variables: Any) -> None:
    """Through the compiled `cond` as by the Python `if`; a skipped layer changes nothing."""
    compiled = jax.jit(apply)
    patterns = set()
    for key in jax.random.split(KEY, 8):
        found, expected = compiled(variables, key), apply(variables, key)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
        )
        ran = [bool(jnp.any(found[1][f"Block_{i}"]["BatchNorm_0"]["mean"] != 0)) for i in range(2)]
        assert bool(jnp.all(found[0] == X)) == (not any(ran))
        patterns.add(tuple(ran))
    assert len(patterns) >= 3


@pytest.mark.usefixtures("relaxed")
def test_parameters_are_where_they_are_without_layer_drop(variables: Any) -> None:
    """And `init` makes those of every layer, also at rate 1."""

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return Block()(Block()(x, jnp.float32(2)), jnp.float32(2))

    rngs = {"params": KEY, "dropout": KEY}
    plain = jax.tree.map(jnp.shape, Plain().init(rngs, X))
    assert jax.tree.map(jnp.shape, variables) == plain
    assert jax.tree.map(jnp.shape, Net(rate=1.0).init(rngs, X)) == plain


@pytest.mark.usefixtures("relaxed")
def test_evaluation_runs_all_layers(variables: Any) -> None:
    _, statistics = apply(variables, KEY, deterministic=True)
    assert all(bool(jnp.any(block["BatchNorm_0"]["mean"] != 0)) for block in statistics.values())
    np.testing.assert_array_equal(apply(variables, KEY, rate=1.0)[0], X)


def test_layer_drop_takes_modules() -> None:
    with pytest.raises(
        TypeError,
        match=(
            r"layer must be a Linen module, got function .*. For functions there is"
            r" jaxdrop.layer_drop"
        ),
    ):
        LayerDrop(0.5, deterministic=False).apply({}, X, lambda x: x, rng=KEY)
