"""The NNX layers and wrappers with dropped weights."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop.functional import weights
from jaxdrop.nnx import DropConnect, QuantNoise, WeightDrop
from tests.catalogue import KEY, RATE

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
RECURRENT = "dense_h/kernel$"


class Net(nnx.Module):
    """A recurrent network with state of every kind: parameters, statistics, a random stream."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=rngs))
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(self.rnn(x)))


@pytest.mark.parametrize(
    "options", [{}, {"per": "example"}, {"scale_by_keep": False}, {"gaussian": True}], ids=str
)
def test_drop_connect(options: dict[str, Any]) -> None:
    layer = DropConnect(4, 6, RATE, rngs=nnx.Rngs(0, dropout=KEY), **options)
    kernel, bias = layer.kernel[...], jnp.full(6, 0.5)
    layer.bias[...] = bias
    names = dict(options)
    fn = weights.drop_connect_gaussian if names.pop("gaussian", False) else weights.drop_connect
    stream = nnx.Rngs(dropout=KEY).dropout.fork()
    shift = jnp.broadcast_to(bias, (3, 5, 6))
    np.testing.assert_array_equal(layer(X), fn(stream(), X, kernel, RATE, **names) + shift)
    np.testing.assert_array_equal(
        layer(X, rngs=KEY, rate=0.1), fn(KEY, X, kernel, 0.1, **names) + shift
    )
    layer.eval()
    np.testing.assert_array_equal(
        layer(X), fn(None, X, kernel, RATE, deterministic=True, **names) + shift
    )


def test_drop_connect_has_the_parameters_of_linear() -> None:
    layer, linear = DropConnect(4, 6, rngs=nnx.Rngs(0)), nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(
        nnx.to_pure_dict(nnx.state(layer, nnx.Param)),
        nnx.to_pure_dict(nnx.state(linear, nnx.Param)),
    )
    assert DropConnect(4, 6, use_bias=False, rngs=nnx.Rngs(0)).bias is None
    assert layer(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.usefixtures("relaxed")
def test_weight_drop_drops_once_a_call_and_keeps_the_state() -> None:
    net = WeightDrop(Net(nnx.Rngs(0)), RATE, match=RECURRENT, rngs=nnx.Rngs(1))
    before = nnx.to_pure_dict(nnx.state(net, nnx.Param))

    @nnx.jit
    def step(net: WeightDrop, x: jax.Array) -> nnx.State:
        return nnx.grad(lambda net: (net(x) ** 2).sum())(net)

    grads = step(net, X)
    dropped = [(leaf == 0).any() for leaf in jax.tree.leaves(grads)]
    names = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(grads)[0]
    ]
    assert [name for name, zero in zip(names, dropped, strict=True) if zero] == [
        name for name in names if "dense_h']['k" in name
    ]
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(net, nnx.Param)), before)
    assert net.module.norm.mean[...].any()  # what the call changed is kept
    assert net.module.dropout.rngs.count[...] == net.rngs.count[...] == 1


@pytest.mark.usefixtures("relaxed")
def test_weight_drop_is_the_module_with_dropped_weights() -> None:
    inner = nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=nnx.Rngs(0)))
    net = WeightDrop(inner, RATE, match=RECURRENT)
    graph, state = nnx.split(inner)
    state = weights.weight_drop(KEY, state, RATE, match=RECURRENT)
    np.testing.assert_array_equal(net(X, rngs=KEY), nnx.merge(graph, state)(X))
    net.eval()
    np.testing.assert_array_equal(net(X), inner(X))
    with pytest.raises(ValueError, match="chooses no leaf"):
        WeightDrop(inner, RATE, match="hi/kernel")(X, deterministic=True)


def test_quant_noise() -> None:
    linear = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    noisy = QuantNoise(linear, RATE, block_size=2, rngs=nnx.Rngs(1))
    kernel = np.asarray(noisy(jnp.eye(4)))
    blocks = (kernel.reshape(2, 2, 6) == 0).all(1)
    np.testing.assert_array_equal(
        (kernel == 0).reshape(2, 2, 6), np.broadcast_to(blocks[:, None], (2, 2, 6))
    )
    assert 0 < blocks.sum() < blocks.size
    noisy.eval()
    np.testing.assert_array_equal(noisy(X), linear(X))
