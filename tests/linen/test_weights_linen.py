"""The Linen layers and wrappers with dropped weights."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdrop.functional import weights
from jaxdrop.linen import DropConnect, QuantNoise, WeightDrop
from tests.catalogue import KEY, RATE

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
RECURRENT = "h[ifgo]/kernel$"


class Net(nn.Module):
    """A recurrent network with variables of every kind: parameters, statistics, random numbers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RNN(nn.OptimizedLSTMCell(4))(x)
        return nn.Dropout(0.5, deterministic=False)(nn.BatchNorm(use_running_average=False)(x))


@pytest.mark.parametrize(
    "options", [{}, {"per": "example"}, {"scale_by_keep": False}, {"gaussian": True}], ids=str
)
def test_drop_connect(options: dict[str, Any]) -> None:
    layer = DropConnect(6, RATE, **options)
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    kernel, bias = variables["params"]["kernel"], jnp.full(6, 0.5)
    variables = {"params": {"kernel": kernel, "bias": bias}}
    names = dict(options)
    fn = weights.drop_connect_gaussian if names.pop("gaussian", False) else weights.drop_connect
    shift = jnp.broadcast_to(bias, (3, 5, 6))
    expected = fn(KEY, X, kernel, 0.1, **names) + shift
    np.testing.assert_array_equal(
        layer.apply(variables, X, deterministic=False, rng=KEY, rate=0.1), expected
    )
    expected = fn(None, X, kernel, RATE, deterministic=True, **names) + shift
    np.testing.assert_array_equal(layer.apply(variables, X, deterministic=True), expected)
    assert not np.array_equal(
        layer.apply(variables, X, deterministic=False, rngs={"dropout": KEY}), expected
    )


def test_drop_connect_has_the_parameters_of_dense() -> None:
    layer, dense = (
        module.init(jax.random.key(0), X)
        for module in (DropConnect(6, deterministic=True), nn.Dense(6))
    )
    chex.assert_trees_all_equal(layer, dense)
    assert set(
        DropConnect(6, use_bias=False, deterministic=True).init(jax.random.key(0), X)["params"]
    ) == {"kernel"}


@pytest.mark.usefixtures("relaxed")
def test_weight_drop_keeps_the_other_collections() -> None:
    net = WeightDrop(Net(), RATE, match=RECURRENT, deterministic=False)
    rngs = {"dropout": KEY}
    variables = net.init({"params": jax.random.key(0), **rngs}, X)

    @jax.jit
    def step(params: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            y, updates = net.apply(
                {**variables, "params": params}, X, rngs=rngs, mutable=["batch_stats"]
            )
            return (y**2).sum(), updates

        return jax.grad(loss, has_aux=True)(params)

    grads, updates = step(variables["params"])
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    zeros = {
        jax.tree_util.keystr(path[-2:], simple=True, separator="/")
        for path, leaf in flat
        if (leaf == 0).any()
    }
    assert zeros == {"hi/kernel", "hf/kernel", "hg/kernel", "ho/kernel"}
    assert jax.tree.leaves(updates)[0].any()


@pytest.mark.usefixtures("relaxed")
def test_weight_drop_is_the_module_with_dropped_weights() -> None:
    rnn = nn.RNN(nn.OptimizedLSTMCell(4))
    net = WeightDrop(rnn, RATE, match=RECURRENT)
    variables = net.init(jax.random.key(0), X)
    inner = variables["params"]["module"]
    dropped = weights.weight_drop(KEY, inner, RATE, match=RECURRENT)
    result = net.apply(variables, X, deterministic=False, rng=KEY)
    np.testing.assert_array_equal(result, rnn.apply({"params": dropped}, X))
    np.testing.assert_array_equal(
        net.apply(variables, X, deterministic=True), rnn.apply({"params": inner}, X)
    )
    with pytest.raises(ValueError, match="chooses no leaf"):
        WeightDrop(rnn, RATE, match="dense_h").apply(variables, X, deterministic=True)


def test_quant_noise() -> None:
    noisy = QuantNoise(nn.Dense(6), RATE, block_size=2)
    variables = noisy.init(jax.random.key(0), X)
    kernel = np.asarray(noisy.apply(variables, jnp.eye(4), deterministic=False, rng=KEY))
    blocks = (kernel.reshape(2, 2, 6) == 0).all(1)
    np.testing.assert_array_equal(
        (kernel == 0).reshape(2, 2, 6), np.broadcast_to(blocks[:, None], (2, 2, 6))
    )
    assert 0 < blocks.sum() < blocks.size
