"""Calibration for quantization, and training in short floats: recipes, and what dropout must not do
to them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.dynamic_scale import DynamicScale

import jaxdrop
import jaxdrop.nnx

RATE = 0.5
X = jax.random.normal(jax.random.key(1), (32, 8))
Y = jnp.sin(X.sum(1, keepdims=True))


class Model(nnx.Module):
    """Two layers, and a record of the largest activation, as a quantizer keeps it."""

    def __init__(self, dtype: Any = jnp.float32) -> None:
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(8, 64, dtype=dtype, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(RATE)
        self.out = nnx.Linear(64, 1, dtype=dtype, rngs=rngs)
        self.largest = nnx.Intermediate(jnp.zeros(()))

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.dropout(nnx.gelu(self.hidden(x)), rngs=rngs)
        self.largest.set_value(
            jnp.maximum(self.largest.get_value(), jnp.abs(x).max().astype(jnp.float32))
        )
        return self.out(x).astype(jnp.float32)


def calibrated(model: Model, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The range of the activations over the data."""
    model(X, rngs)
    return model.largest.get_value()


def test_calibration_with_dropout_off_takes_no_key_and_sees_what_is_served() -> None:
    """With dropout on, what is kept is larger by 1 / (1 - rate), and a quantizer's steps would be
    as much too wide.
    """
    model = Model()
    model.eval()
    served = jnp.abs(nnx.gelu(model.hidden(X))).max()
    assert calibrated(model) == served
    training = Model()
    training.train()
    assert calibrated(training, nnx.Rngs(dropout=jaxdrop.key(0))) > 1.5 * served


def test_a_model_that_was_left_in_training_mode_says_so_when_it_is_calibrated() -> None:
    model = Model()
    model.train()
    with pytest.raises(ValueError, match="rngs"):
        calibrated(model)


@functools.cache
def losses(dtype: Any, steps: int = 30) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The loss of each step of a run that is computed in `dtype`, and whether its gradients were
    finite.
    """
    graph, params, rest = nnx.split(Model(dtype), nnx.Param, ...)
    optimizer = optax.adam(1e-2)
    # Scaling the loss keeps small gradients from becoming zeros; masks and their scale are not
    # concerned.
    scale = DynamicScale(growth_interval=10, scale=2.0**14)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params, rest, copy=True)
        return jnp.mean((model(X, nnx.Rngs(dropout=key)) - Y) ** 2)

    def step(carry: Any, count: jax.Array) -> Any:
        params, state, scale = carry
        key = jaxdrop.step_key(jaxdrop.key(0), count)
        scale, finite, value, gradient = scale.value_and_grad(loss)(params, key)
        updates, new_state = optimizer.update(gradient, state, params)
        # A step whose gradients are not finite is skipped.
        proposed, current = (optax.apply_updates(params, updates), new_state), (params, state)
        params, state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), proposed, current
        )
        return (params, state, scale), (value, finite)

    start = params, optimizer.init(params), scale
    _, (values, finite) = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(steps)))(start)
    return np.asarray(values), np.asarray(finite)


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 0.03), (jnp.float16, 0.004)])
def test_short_floats_follow_the_run_in_float32(dtype: Any, tolerance: float) -> None:
    """The masks are the same, and so the losses are up to rounding: dropout adds no bias and no
    overflow of its own.
    """
    exact, _ = losses(jnp.float32)
    short, finite = losses(dtype)
    assert finite.all()
    assert exact[-1] < 0.8 * exact[0]
    np.testing.assert_allclose(short, exact, rtol=tolerance * 3, atol=tolerance)
