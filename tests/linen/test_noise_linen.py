"""What the catalogue does not say about the layers of `jaxdrop.layers.noise` in `jaxdrop.linen`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from jaxdrop.functional.noise import gaussian_noise, neftune, uniform_dropout
from jaxdrop.linen import GaussianDropout, GaussianNoise, NEFTune, UniformDropout
from tests.catalogue import KEY

LAYERS = [
    (GaussianNoise, gaussian_noise, "stddev"),
    (UniformDropout, uniform_dropout, "beta"),
    (NEFTune, neftune, "alpha"),
]
X = jnp.linspace(0.5, 2, 24).reshape(2, 3, 4)

each_layer = pytest.mark.parametrize(
    ("layer", "function", "name"), LAYERS, ids=[layer.__name__ for layer, *_ in LAYERS]
)


def call(layer: Any, x: jax.Array, **options: Any) -> jax.Array:
    return layer.apply({}, x, deterministic=False, rng=KEY, **options)


@each_layer
@pytest.mark.parametrize("amount", [0.5, 1, 5.0])
def test_amounts_are_no_rates(
    layer: Any, function: Callable[..., jax.Array], name: str, amount: float
) -> None:
    """At 1 there is something to draw, and beyond 1 too; a call's amount takes precedence."""
    expected = function(KEY, X, amount)
    np.testing.assert_array_equal(call(layer(**{name: amount}), X), expected)
    np.testing.assert_array_equal(call(layer(0.25), X, **{name: amount}), expected)
    traced = jax.jit(lambda amount: call(layer(0.25), X, **{name: amount}))
    np.testing.assert_allclose(traced(amount), expected, rtol=1e-6)
    with pytest.raises(InvalidRngError):
        layer(amount, deterministic=False).apply({}, X)


@each_layer
def test_no_amount_draws_nothing(layer: Any, function: Callable[..., jax.Array], name: str) -> None:
    assert layer(0, deterministic=False).apply({}, X) is X
    assert layer(0.5, deterministic=False).apply({}, X, **{name: 0.0}) is X
    assert layer(0.5, deterministic=True).apply({}, X) is X


@each_layer
@pytest.mark.parametrize("amount", [-1, np.nan, np.inf])
def test_bad_amounts(
    layer: Any, function: Callable[..., jax.Array], name: str, amount: float
) -> None:
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, infinity\), got {amount}"):
        call(layer(amount), X)


def test_gaussian_dropout_of_rate_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="rate must be below 1 in gaussian_dropout"):
        call(GaussianDropout(1.0), X)
