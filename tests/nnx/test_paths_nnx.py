"""What the NNX modules of paths add to the functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop.nnx import LayerDrop, ShakeDrop
from tests.catalogue import KEY

X = jnp.linspace(0.5, 2, 32).reshape(8, 4)


class Block(nnx.Module):
    """A residual block with every kind of state."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, gain: jax.Array) -> jax.Array:
        return x + gain * self.dropout(self.norm(self.linear(x)))


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0, dropout=KEY)
        self.block = Block(rngs)
        self.layer_drop = LayerDrop(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer_drop(x, self.block, jnp.float32(2))


def state(net: Net) -> tuple[Any, ...]:
    """What a skipped layer leaves alone."""
    return jax.tree.map(
        np.asarray,
        (nnx.state(net.block, nnx.BatchStat), nnx.state(net.block.dropout, nnx.RngCount)),
    )


@pytest.mark.usefixtures("relaxed")
def test_layer_drop_carries_the_state_of_the_layer() -> None:
    """Through the compiled `cond` as by the Python `if`; a skipped layer changes nothing."""
    compiled, eager = Net(), Net()
    step = nnx.jit(lambda net: net(X))
    skipped = []
    for _ in range(8):
        before = state(compiled)
        y = step(compiled)
        np.testing.assert_allclose(y, eager(X), rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state(compiled), state(eager)
        )
        skipped.append(bool(jnp.all(y == X)))
        same = jax.tree.all(jax.tree.map(np.array_equal, before, state(compiled)))
        assert same == skipped[-1]
    assert 0 < sum(skipped) < 8


@pytest.mark.usefixtures("relaxed")
def test_gradients_of_a_skipped_layer_are_zero() -> None:
    net = Net()
    gradient = nnx.jit(nnx.grad(lambda net: (net(X) ** 2).sum()))
    probe = Net()
    for _ in range(6):
        skipped = bool(jnp.all(probe(X) == X))
        norms = [
            float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient(net)["block"]["linear"])
        ]
        assert all(norm == 0 for norm in norms) == skipped


@pytest.mark.usefixtures("relaxed")
def test_evaluation_runs_the_layer() -> None:
    net = Net()
    net.eval()
    np.testing.assert_array_equal(net(X), net.block(X, jnp.float32(2)))
    net.train()
    assert net.layer_drop(X, net.block, rate=1.0) is X


def test_layer_drop_takes_modules() -> None:
    with pytest.raises(
        TypeError,
        match=(
            r"layer must be an nnx.Module, got function .*. For functions there is"
            r" jaxdrop.layer_drop"
        ),
    ):
        LayerDrop(0.5, rngs=nnx.Rngs(0))(X, lambda x: x)


def test_ranges_are_checked_when_the_module_is_made() -> None:
    with pytest.raises(TypeError, match="alpha must be two finite numbers"):
        ShakeDrop(0.5, alpha=0.5)  # type: ignore[arg-type]
    assert ShakeDrop(0.5, beta=[0, 1]).beta == (0.0, 1.0)  # type: ignore[arg-type]
