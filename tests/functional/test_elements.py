"""Classic and alpha dropout, against PyTorch, Keras and their formulas. Plain dropout is in
test_dropout.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import _numerics
from jaxdrop.functional.elements import alpha_dropout, classic_dropout, feature_alpha_dropout
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE, ramp
from tests.oracles import assert_close, require, torch_value_and_pull, value_and_pull

X = jnp.linspace(0.5, 2, 8 * 6 * 4).reshape(8, 6, 4)
LIMIT = -1.7580993408473766  # of the SELU

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
each_rate = pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])


# -- classic dropout


@pytest.mark.sweep(keep=1)
@each_key
@pytest.mark.parametrize("dims", [(), (1,)])
def test_classic_dropout_is_dropout_without_the_scale(
    key: jax.Array, dims: tuple[int, ...]
) -> None:
    for rate in (RATE, jnp.float32(0.9), RATE * ramp(4), 1):
        y, pull = value_and_pull(
            lambda x, rate=rate: classic_dropout(key, x, rate, broadcast_dims=dims), X
        )
        kept = jaxdrop.dropout(key, X, rate, broadcast_dims=dims) != 0
        chex.assert_trees_all_equal(
            (y, pull), (jnp.where(kept, X, 0), jnp.where(kept, jnp.cos(X), 0))
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_classic_dropout_weights_in_evaluation(dtype: str) -> None:
    """In float32 at least, value and gradient."""
    x = X.astype(dtype)
    for rate in (RATE, jnp.float32(RATE), RATE * ramp(4)):
        y, pull = value_and_pull(
            functools.partial(classic_dropout, None, rate=rate, deterministic=True), x
        )
        for result, value in ((y, x), (pull, jnp.cos(x))):
            wide = np.asarray(value, _numerics.compute_dtype(x.dtype))
            np.testing.assert_array_equal(
                result, (wide * np.asarray(1 - rate, np.float32)).astype(dtype), strict=True
            )


def test_classic_dropout_of_rates_at_the_ends_in_evaluation() -> None:
    assert classic_dropout(None, X, 0, deterministic=True) is X
    np.testing.assert_array_equal(
        classic_dropout(None, X, 1, deterministic=True), jnp.zeros_like(X)
    )
    weigh = jax.jit(lambda rate: classic_dropout(None, X, rate, deterministic=True))
    np.testing.assert_array_equal(weigh(0.0), X)
    np.testing.assert_array_equal(weigh(1.0), jnp.zeros_like(X))


def test_evaluation_gives_the_mean_of_classic_dropout() -> None:
    """Within 5 standard deviations: ideal masks fail once in 1e4, over all entries."""
    mean = jax.vmap(lambda key: classic_dropout(key, X, RATE))(jax.random.split(KEY, 4096)).mean(0)
    deviation = X * np.sqrt(RATE * (1 - RATE) / 4096)
    assert jnp.all(
        jnp.abs(mean - classic_dropout(None, X, RATE, deterministic=True)) <= 5 * deviation
    )


# -- alpha dropout


def dropped_value(rate: float) -> float:
    """`a f + b`."""
    return (((1 - rate) * (1 + rate * LIMIT**2)) ** -0.5) * LIMIT * (1 - rate)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("rate", "a", "b", "dropped"),
    [(0.5, 0.8864049, 0.7791939, -0.7791939), (0.1, 0.9212845, 0.1619710, -1.4577387)],
)
@pytest.mark.parametrize("traced", [False, True])
def test_alpha_dropout_has_the_published_numbers(
    rate: float, a: float, b: float, dropped: float, traced: bool
) -> None:
    kept = jaxdrop.dropout(KEY, X, rate) != 0
    y = alpha_dropout(KEY, X, jnp.float32(rate) if traced else rate)
    np.testing.assert_allclose(
        y, np.where(kept, a * np.asarray(X) + b, dropped), rtol=1e-6, atol=1e-6
    )


@each_rate
@pytest.mark.parametrize("feature", [False, True])
def test_alpha_dropout_equals_that_of_pytorch(rate: float, feature: bool) -> None:
    """Theirs has another mask: compared where both drop, or both keep. PyTorch's channels come
    first.
    """
    require("torch").manual_seed(7)
    functional = require("torch").nn.functional
    theirs = functional.feature_alpha_dropout if feature else functional.alpha_dropout
    ours = functools.partial(feature_alpha_dropout, channel_axis=1) if feature else alpha_dropout
    seen = np.zeros(X.shape, bool)
    for key in jax.random.split(KEY, 32):
        mine = value_and_pull(lambda x, key=key: ours(key, x, rate), X)
        other = torch_value_and_pull(lambda x: theirs(x, rate, training=True), X)
        agree = (mine[0] < 0) == (other[0] < 0)
        assert_close(mine, other, where=agree)
        seen |= agree
    assert seen.all()


@pytest.mark.usefixtures("relaxed")
@each_rate
def test_alpha_dropout_equals_that_of_keras(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Given our mask."""
    keras = require("keras")
    kept = alpha_dropout(KEY, X, rate) > 0
    monkeypatch.setattr(
        keras.src.ops.random, "uniform", lambda shape, seed: kept.astype(jnp.float32)
    )
    layer = keras.layers.AlphaDropout(rate, seed=7)
    theirs = value_and_pull(lambda x: layer(x, training=True), X)
    assert_close(value_and_pull(lambda x: alpha_dropout(KEY, x, rate), X), theirs)


@pytest.mark.sweep
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5])
def test_alpha_dropout_keeps_mean_and_variance(rate: float) -> None:
    """Of normal values. Ideal masks fail with a probability of 2e-6."""
    x = jax.random.normal(jax.random.key(3), (2**18,))
    y = np.asarray(alpha_dropout(KEY, x, rate), np.float64)
    assert statistics.normal(y.mean() * np.sqrt(y.size)) > 1e-6
    squares = y**2 - 1
    assert statistics.normal(squares.mean() / squares.std() * np.sqrt(y.size)) > 1e-6


@each_key
def test_alpha_dropout_draws_the_masks_of_dropout(key: jax.Array) -> None:
    """And so has their law."""
    for rate in (RATE, RATE * ramp(4)):
        np.testing.assert_array_equal(
            alpha_dropout(key, X, rate) > 0, jaxdrop.dropout(key, X, rate) > 0
        )
        shared = functools.partial(alpha_dropout, broadcast_dims=(0, 2))
        np.testing.assert_array_equal(
            shared(key, X, jnp.float32(RATE)) > 0,
            jaxdrop.dropout(key, X, RATE, broadcast_dims=(0, 2)) > 0,
        )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_dropped_by_alpha_dropout_do_not_leak(bad: float) -> None:
    dropped = alpha_dropout(KEY, X, RATE) < 0
    poison = jnp.where(dropped, bad, X)
    value, tangent = jax.jvp(lambda x: alpha_dropout(KEY, x, RATE), (poison,), (poison,))
    (cotangent,) = jax.vjp(lambda x: alpha_dropout(KEY, x, RATE), poison)[1](poison)
    np.testing.assert_allclose(value[dropped], dropped_value(RATE), rtol=1e-6)
    for derivative in (tangent, cotangent):
        np.testing.assert_array_equal(derivative == 0, dropped)
    chex.assert_tree_all_finite((value, tangent, cotangent))
    everywhere = alpha_dropout(KEY, jnp.full_like(X, bad), RATE)
    np.testing.assert_array_equal(
        jnp.isfinite(everywhere), dropped
    )  # what is kept stays what it is


@pytest.mark.parametrize("known", [True, False], ids=["array", "traced"])
def test_alpha_dropout_of_rates_up_to_one(known: bool) -> None:
    rates = jnp.array([0.0, 0.5, 1 - 2.0**-24, 1.0])
    drop = lambda rates: jax.value_and_grad(lambda x: alpha_dropout(KEY, x, rates).sum())(X)  # noqa: E731
    chex.assert_tree_all_finite(drop(rates) if known else jax.jit(drop)(rates))
    y = alpha_dropout(KEY, X, rates) if known else jax.jit(alpha_dropout)(KEY, X, rates)
    np.testing.assert_array_equal(y[..., 0], X[..., 0])
    np.testing.assert_array_equal(y[..., 3], jnp.zeros((8, 6)))


# -- feature alpha dropout


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("shape", "options", "shared"),
    [
        ((8, 6, 4), {}, (1,)),
        ((8, 4, 6), {"channel_axis": 1}, (2,)),
        ((8, 4, 6), {"channel_axis": -2, "spatial_rank": 1}, (2,)),
        ((6, 4), {"spatial_rank": 1}, (0,)),
        ((4, 6), {"channel_axis": 0, "spatial_rank": 1}, (1,)),
        ((2, 3, 4, 6, 5), {"spatial_rank": 2}, (2, 3)),
    ],
)
def test_feature_alpha_dropout_is_alpha_dropout_of_whole_channels(
    shape: tuple[int, ...], options: dict[str, Any], shared: tuple[int, ...]
) -> None:
    x = jnp.linspace(0.5, 2, int(np.prod(shape))).reshape(shape)
    np.testing.assert_array_equal(
        feature_alpha_dropout(KEY, x, RATE, **options),
        alpha_dropout(KEY, x, RATE, broadcast_dims=shared),
    )


@pytest.mark.parametrize("function", [classic_dropout, alpha_dropout, feature_alpha_dropout])
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": None}, ValueError, "is stochastic here and needs a key"),
        ({"x": jnp.ones((8, 2, 2), int)}, TypeError, "scales what it keeps"),
        ({"rate": -0.1}, ValueError, r"rate must lie in \[0, 1\], got -0.1"),
        ({"rate": jnp.ones(3)}, ValueError, "does not broadcast to the mask's shape"),
        ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
    ],
)
def test_bad_input(
    function: Callable[..., Any], options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        function(**{"key": KEY, "x": X, "rate": RATE} | options)
