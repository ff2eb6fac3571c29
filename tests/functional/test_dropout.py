"""`jaxdrop.dropout` against Flax, and at the edges of its arguments."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import random
from tests.catalogue import DROPOUT, KEY, KEYS, RATE

THREEFRY = KEYS["threefry"]


def linen(key: jax.Array, x: jax.Array, rate: float, **options: Any) -> jax.Array:
    return nn.Dropout(rate, deterministic=False, **options).apply({}, x, rng=key)


def nnx_(key: jax.Array, x: jax.Array, rate: float, **options: Any) -> jax.Array:
    return nnx.Dropout(rate, **options)(x, rngs=key)


each_flax = pytest.mark.parametrize("flax", [linen, nnx_], ids=["linen", "nnx"])


# -- the masks of Flax


@pytest.mark.sweep(keep=9)
@each_flax
@pytest.mark.parametrize("rate", np.arange(0.05, 0.91, 0.05).round(2).tolist())
def test_masks_and_values_are_those_of_flax(flax: Any, rate: float) -> None:
    x = jax.random.normal(jax.random.key(1), (37, 11))
    np.testing.assert_array_max_ulp(
        jaxdrop.dropout(THREEFRY, x, rate), flax(THREEFRY, x, rate), maxulp=1
    )


@pytest.mark.sweep(keep=3)
@each_flax
@pytest.mark.parametrize("dims", [(0,), (1,), (-1,), (0, 2), (0, 1, 2)])
def test_shared_masks_are_those_of_flax(flax: Any, dims: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(1), (3, 5, 7))
    ours = jaxdrop.dropout(THREEFRY, x, 0.4, broadcast_dims=dims)
    np.testing.assert_array_max_ulp(ours, flax(THREEFRY, x, 0.4, broadcast_dims=dims), maxulp=1)


@pytest.mark.sweep(keep=3)
@each_flax
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "float8_e4m3fn"])
def test_masks_are_those_of_flax_in_every_dtype(flax: Any, dtype: str) -> None:
    x = DROPOUT.example(dtype)
    np.testing.assert_array_equal(
        jaxdrop.dropout(THREEFRY, x, RATE) == 0, flax(THREEFRY, x, RATE) == 0
    )


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 2**17 + 1), (3, 1, 5, 1, 2)])
def test_masks_are_those_of_flax_in_every_shape(shape: tuple[int, ...]) -> None:
    x = jnp.ones(shape)
    np.testing.assert_array_max_ulp(
        jaxdrop.dropout(THREEFRY, x, RATE), linen(THREEFRY, x, RATE), maxulp=1
    )


def test_legacy_keys_are_threefry_keys() -> None:
    x = DROPOUT.example()
    np.testing.assert_array_equal(
        jaxdrop.dropout(jax.random.PRNGKey(7), x, RATE), jaxdrop.dropout(THREEFRY, x, RATE)
    )


@each_flax
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_draw_the_masks_of_flax(flax: Any, impl: str) -> None:
    key, x = jax.random.key(7, impl=impl), DROPOUT.example()
    np.testing.assert_array_equal(jaxdrop.dropout(key, x, RATE) == 0, flax(key, x, RATE) == 0)


@each_flax
@pytest.mark.parametrize("dims", [(), (1,)])
def test_flax_draws_our_mask_from_our_key(flax: Any, dims: tuple[int, ...]) -> None:
    x = DROPOUT.example()
    for key in (KEY, jaxdrop.mc.keys(KEY, 5)[3], jaxdrop.mc.keys(KEY, 2, "antithetic")[1]):
        ours = jaxdrop.dropout(key, x, RATE, broadcast_dims=dims)
        np.testing.assert_array_max_ulp(ours, flax(key, x, RATE, broadcast_dims=dims), maxulp=1)


# -- rates


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "rate",
    [
        0.25,
        np.float16(0.25),
        np.float32(0.25),
        np.float64(0.25),
        jnp.float32(0.25),
        jnp.bfloat16(0.25),
        np.asarray(0.25),
    ],
)
def test_rates_of_every_type(rate: Any) -> None:
    x = DROPOUT.example()
    np.testing.assert_array_equal(jaxdrop.dropout(KEY, x, rate), jaxdrop.dropout(KEY, x, 0.25))


@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0), jnp.float32(0), np.asarray(0)])
def test_known_rate_zero_returns_x_itself(rate: Any) -> None:
    x = DROPOUT.example()
    assert jaxdrop.dropout(None, x, rate) is x


@pytest.mark.parametrize("rate", [1, 1.0, np.float32(1), jnp.float32(1), np.asarray(1)])
def test_known_rate_one_needs_no_key(rate: Any) -> None:
    np.testing.assert_array_equal(
        jaxdrop.dropout(None, DROPOUT.example(), rate), jnp.zeros((8, 16))
    )


@pytest.mark.parametrize("rate", [1e-9, 2.0**-24])
def test_smallest_rates_keep_everything(rate: float) -> None:
    x = DROPOUT.example()
    np.testing.assert_allclose(jaxdrop.dropout(KEY, x, rate), x, rtol=2.0**-22)


@pytest.mark.parametrize("rate", [1 - 2.0**-24, 1 - 2.0**-23])
def test_largest_rates_keep_one_value_of_the_grid(rate: float) -> None:
    """Which is 1 in 2**23, and what is kept counts 2**23 times: the mean is exact."""
    y = jaxdrop.dropout(KEY, jnp.ones(2**24), rate)
    assert set(np.unique(y)) == {0, 2.0**23}
    assert 0 < (y > 0).sum() < 12


def test_one_rate_for_each_feature() -> None:
    rates = jnp.asarray([0, 0.1, 0.5, 1])
    y = jaxdrop.dropout(KEY, jnp.ones((512, 4)), rates)
    for feature, rate in enumerate(rates.tolist()):
        np.testing.assert_array_equal(
            y[:, feature], jaxdrop.dropout(KEY, jnp.ones((512, 4)), rate)[:, feature]
        )
    chex.assert_tree_all_finite(
        jax.grad(lambda x: jaxdrop.dropout(KEY, x, rates).sum())(jnp.full((512, 4), jnp.inf))
    )


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((), ()),
        ((1,), ()),
        ((5,), ()),
        ((3, 1), ()),
        ((2, 3, 5), ()),
        ((3, 1), (2,)),
        ((5,), (0, 1)),
    ],
)
def test_rate_arrays_broadcast_to_the_mask(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    x = jnp.ones((2, 3, 5))
    y = jaxdrop.dropout(KEY, x, jnp.full(shape, RATE), broadcast_dims=dims)
    expected = jaxdrop.dropout(KEY, x, jnp.float32(RATE), broadcast_dims=dims)
    np.testing.assert_array_equal(y == 0, expected == 0)
    np.testing.assert_allclose(y, expected, rtol=2e-7)


def test_vmap_over_rates_equals_a_loop() -> None:
    x, rates = DROPOUT.example(), jnp.asarray([0, 0.2, 0.7, 1])
    together = jax.vmap(lambda rate: jaxdrop.dropout(KEY, x, rate))(rates)
    np.testing.assert_array_equal(together[0], x)
    np.testing.assert_array_equal(
        together, jnp.stack([jax.jit(jaxdrop.dropout)(KEY, x, rate) for rate in rates])
    )


def test_vmap_over_rates_for_each_feature() -> None:
    x, rates = DROPOUT.example(), jnp.linspace(0, 1, 32).reshape(2, 16)
    together = jax.vmap(lambda rate: jaxdrop.dropout(KEY, x, rate))(rates)
    np.testing.assert_array_equal(
        together, jnp.stack([jaxdrop.dropout(KEY, x, rate) for rate in rates])
    )


def test_masks_of_one_key_are_nested() -> None:
    """A larger rate drops what a smaller one drops, and more."""
    x = DROPOUT.example()
    before = jnp.zeros(x.shape, bool)
    for rate in (0.1, 0.3, 0.6, 0.9):
        dropped = jaxdrop.dropout(KEY, x, rate) == 0
        assert jnp.all(dropped | ~before)
        before = dropped


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_short_floats_keep_the_mean(rate: float, dtype: str) -> None:
    """Over a million values; with a rounded scale the mean is off by up to 2e-3."""
    x = jax.random.uniform(jax.random.key(1), (2**20,), jnp.float32, 0.5, 2).astype(dtype)
    y = jaxdrop.dropout(KEY, x, rate)
    sums = [float(np.sum(np.where(np.asarray(y) == 0, 0, z), dtype=np.float64)) for z in (y, x)]
    assert abs(sums[0] / (sums[1] / (1 - rate)) - 1) <= 1e-4


# -- inputs


def test_arrays_that_are_not_of_jax() -> None:
    expected = jaxdrop.dropout(KEY, jnp.ones(3), RATE)
    np.testing.assert_array_equal(jaxdrop.dropout(KEY, np.ones(3, np.float32), RATE), expected)
    assert jaxdrop.dropout(KEY, 1.0, RATE).shape == ()


def test_complex_numbers_are_dropped_whole() -> None:
    x = jnp.full((64,), 1 + 2j, jnp.complex64)
    y = np.asarray(jaxdrop.dropout(KEY, x, 0.5))
    assert set(y) == {0, 2 + 4j}


def test_float16_overflows_only_where_the_result_is_too_large() -> None:
    x = jnp.full((64,), 3e4, jnp.float16)
    assert set(np.asarray(jaxdrop.dropout(KEY, x, 0.5), np.float32)) == {0, 6e4}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_more_entries_than_a_word_counts(key: jax.Array) -> None:
    """Rows on both sides of entry 2**32 differ, and are those that `bits_at` foretells. Nothing of
    that size is stored.
    """
    shape = 2**22 + 2, 2**10
    rows = [0, 1, 2**22, 2**22 + 1]

    def chosen(key: jax.Array) -> jax.Array:
        y = jaxdrop.dropout(key, jnp.ones(shape), 0.5)
        return jnp.stack([y[row] for row in rows])

    compiled = jax.jit(chosen).lower(key).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 2**20
    found = np.asarray(compiled(key) > 0)
    coordinates = (
        jnp.asarray(rows, jnp.uint32)[:, None],
        jnp.arange(shape[1], dtype=jnp.uint32)[None],
    )
    np.testing.assert_array_equal(found, random.bits_at(key, coordinates, shape) < np.uint32(2**31))
    assert len(np.unique(found, axis=0)) == len(rows)


# -- what is stored and traced


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)])
def test_the_key_is_all_that_is_stored(rate: Any) -> None:
    stored = jax.tree.leaves(jax.vjp(lambda x: jaxdrop.dropout(KEY, x, rate), DROPOUT.example())[1])
    assert [(leaf.shape, leaf.dtype) for leaf in stored] == [((), KEY.dtype)]


def test_scan_stores_one_key_a_step() -> None:
    keys = jax.random.split(KEY, 5)

    def model(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, key: (jaxdrop.dropout(key, carry, RATE), None), x, keys)[
            0
        ]

    stored = jax.tree.leaves(jax.vjp(model, DROPOUT.example())[1])
    assert [(leaf.shape, leaf.dtype) for leaf in stored] == [((5,), KEY.dtype)]


def test_new_keys_and_rates_do_not_compile_again(caplog: pytest.LogCaptureFixture) -> None:
    """Also of eager calls."""
    x = jnp.ones((5, 7))
    with jax.log_compiles():
        jaxdrop.dropout(KEY, x, 0.5)
        assert "dropout" in caplog.text
        caplog.clear()
        jaxdrop.dropout(jaxdrop.mc.keys(KEY, 1, "independent")[0], x, 0.1)
        assert "dropout" not in caplog.text
