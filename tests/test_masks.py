"""Rate -> threshold and scale, against exact arithmetic; shape and shared axes -> mask."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdrop import _checks, drop_path, dropout, gaussian_noise, masks, random
from tests.catalogue import KEY

GRID = 2**23
RATES = [
    *np.linspace(0, 1, 201).tolist(),
    *(1 - 2.0**-n for n in range(2, 25)),
    *(2.0**-n for n in range(2, 31)),
    *(
        1 / 3,
        0.1 + 0.2,
        0.001,
        1e-9,
        0.999,
        0.9999,
        0.99999,
        0.999999,
        1 - 1e-12,
        np.nextafter(1, 0),
        np.nextafter(0, 1),
    ),
]


def exact(rate: float, *, traced: bool) -> tuple[Fraction, Fraction]:
    """The mask's keep probability and scale."""
    found = (
        jax.jit(masks.distribution)(jnp.float32(rate))
        if traced
        else masks.distribution(float(rate))
    )
    return Fraction(int(found.threshold), GRID), Fraction(float(found.scale))


@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_distribution_is_right_for_every_rate(traced: bool) -> None:
    """The keep probability is the next larger one of the grid, and what is kept makes up for what
    is dropped.
    """
    for rate in RATES:
        given = float(np.float32(rate)) if traced else rate
        keep, scale = exact(given, traced=traced)
        wanted = Fraction(float(np.float32(1 - given)))  # as Flax has it: 1 - rate, in float32
        assert keep == Fraction(-(-wanted * GRID // 1), GRID), rate
        assert abs(keep - (1 - Fraction(given))) <= Fraction(1, GRID) + Fraction(1, 2**25), rate
        assert abs(keep * scale - (keep > 0)) <= 2e-6, rate


def test_distribution_keeps_nothing_at_rate_one_only() -> None:
    assert masks.distribution(1.0) == (0, 0)
    assert all(exact(rate, traced=False)[0] > 0 for rate in RATES if rate < 1)


def test_distribution_of_a_known_rate_cannot_be_changed_for_others() -> None:
    """It is formed once for all callers."""
    for number in masks.distribution(0.25):
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(number)[...] = 0


def test_distribution_takes_arrays_of_rates() -> None:
    rates = np.asarray([[0, 0.1, 0.5], [0.97, 0.999999, 1]], np.float32)
    found = masks.distribution(jnp.asarray(rates))
    for index, rate in np.ndenumerate(rates):
        single = masks.distribution(jnp.asarray(rate))
        assert (found.threshold[index], found.scale[index]) == single


def test_a_traced_rate_that_is_impossible_is_nan_and_the_others_stay() -> None:
    rates = jnp.asarray([-1e-7, 0, 0.5, 1, 1.0000001, np.inf, np.nan])
    found = jax.jit(_checks.check_rate)(rates)
    np.testing.assert_array_equal(found, [np.nan, 0, 0.5, 1, np.nan, np.nan, np.nan])
    mask = masks.distribution(found)
    np.testing.assert_array_equal(np.isnan(mask.scale), np.isnan(found))
    np.testing.assert_array_equal(mask.threshold, [GRID, GRID, GRID // 2, 0, GRID, GRID, GRID])
    np.testing.assert_array_equal(masks.threshold(found), [0, GRID, GRID // 2, 0, 0, 0, 0])
    assert np.isnan(jax.jit(_checks.check_rate)(3))


def test_ordinary_rates_make_no_nan() -> None:
    """Not even on the way: `jax_debug_nans` looks at every operation outside of `jit`."""
    x = jnp.ones(4)
    with jax.debug_nans(True):
        jax.vmap(lambda rate: dropout(KEY, x, rate))(jnp.asarray([0, 0.3, 1]))
        jax.grad(lambda rate: gaussian_noise(KEY, x, rate).sum())(0.3)
        drop_path(KEY, x, jnp.asarray([0.1, 0.5, 0.9, 1.0]), mode="row", scale_by_keep=False)


def test_infinities_pass_where_nothing_is_scaled() -> None:
    x = jnp.asarray([complex(np.inf, 1), complex(1, -np.inf)], jnp.complex64)
    np.testing.assert_array_equal(
        jax.jit(lambda rate: masks.nan_if_impossible(x, _checks.check_rate(rate)))(0.5), x
    )


def test_an_impossible_rate_leaves_integers_as_they_are() -> None:
    x, ids = jnp.ones(2, jnp.bfloat16), jnp.arange(2)
    for rate in (0.5, np.nan):
        found, same = jax.jit(lambda rate: masks.nan_if_impossible((x, ids), rate))(rate)
        np.testing.assert_array_equal(np.isnan(found.astype(jnp.float32)), np.isnan([rate] * 2))
        np.testing.assert_array_equal(same, ids)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "float8_e4m3fn"])
def test_scale_is_float32_for_all_that_is_no_wider(dtype: str) -> None:
    assert masks.distribution(0.1, jnp.dtype(dtype)).scale.dtype == np.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_scale_of_one_is_of_the_compute_dtype(dtype: str) -> None:
    """And NaN where a rate is impossible."""
    with jax.enable_x64(True):
        wide = np.promote_types(jnp.dtype(dtype), np.float32)
        known = masks.unit_scale(0.5, jnp.dtype(dtype))
        traced = masks.unit_scale(jnp.asarray([0.5, np.nan], np.float32), jnp.dtype(dtype))
        assert known.dtype == traced.dtype == wide
        np.testing.assert_array_equal([known, *traced], [1, 1, np.nan])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_scale_is_exact_in_double_precision(dtype: str) -> None:
    found = masks.distribution(0.1, np.dtype(dtype))
    assert found.scale.dtype == np.float64
    assert found.scale == 1 / 0.9
    assert found.threshold == masks.distribution(0.1).threshold


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (np.float16(0.25), 0.25),
        (np.float64(0.1), 0.1),
        (np.int32(1), 1.0),
    ],
)
def test_known_rates_become_floats(rate: Any, expected: float) -> None:
    found = _checks.check_rate(rate)
    assert type(found) is float
    assert found == expected


def test_known_arrays_count_as_known() -> None:
    """A scalar array is the number that it holds; so rate 0 is no operation for it too."""
    for rate in (jnp.float32(0.5), jnp.bfloat16(0.5), np.asarray(0.5)):
        found = _checks.check_rate(rate)
        assert type(found) is float
        assert found == 0.5


def test_is_number_looks_at_known_scalars_only() -> None:
    assert masks.is_number(_checks.check_rate(jnp.float32(0)), 0)
    assert masks.is_number(1, 1)
    assert not masks.is_number(jnp.zeros(3), 0)
    assert not masks.is_number(0.5, 0)
    assert not masks.is_number(jax.random.key(0), 0)
    assert not jax.jit(lambda rate: jnp.asarray(masks.is_number(rate, 0)))(0.0)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((), ()),
        ((0,), (0,)),
        ((-1,), (2,)),
        ([2, -3], (0, 2)),
        ((1, -2, 1), (1,)),
        (np.arange(3), (0, 1, 2)),
    ],
)
def test_broadcast_dims_become_sorted_axes(dims: Any, expected: tuple[int, ...]) -> None:
    assert _checks.check_broadcast_dims(dims, 3) == expected


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (2, 3, 4), (2, 0, 4)])
def test_mask_has_length_one_along_shared_axes(shape: tuple[int, ...]) -> None:
    like = jnp.ones(shape)
    for dims in ((), tuple(range(len(shape))), (len(shape) - 1,) if shape else ()):
        mask = masks.keep_mask(KEY, like, masks.distribution(0.5).threshold, broadcast_dims=dims)
        assert mask.dtype == bool
        assert mask.shape == tuple(
            1 if axis in dims else length for axis, length in enumerate(shape)
        )


def test_positions_of_more_than_2_32_entries_have_two_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, parts = 2**32 - 2, 2**33
    monkeypatch.setattr(
        masks._placement._mapped_axes, "index_and_size", lambda *_: (jnp.uint32(here), parts)
    )
    (high, low), count = masks.positions(jnp.ones((3, 2)), spec=PartitionSpec("parts"))
    first = np.uint64(here) * np.uint64(6)
    found = np.asarray(high, np.uint64) * np.uint64(2**32) + np.asarray(low)
    np.testing.assert_array_equal(found, first + np.arange(6, dtype=np.uint64).reshape(3, 2))
    assert count == 6 * parts
    within, count = masks.positions(jnp.ones((3, 2)), broadcast_dims=(0,))
    np.testing.assert_array_equal(within, [[0, 1]])
    assert count == 2


@pytest.mark.parametrize(("shared", "stored"), [(4, 0), (64, 4 * 512)])
def test_a_mask_that_serves_many_entries_is_formed_once(shared: int, stored: int) -> None:
    """And stored, in four bytes an entry. One that serves few is formed again for each."""
    x = jax.ShapeDtypeStruct((shared, 512), jnp.float32)
    compiled = jax.jit(lambda x: dropout(KEY, x, 0.5, broadcast_dims=(0,))).lower(x).compile()
    assert stored <= compiled.memory_analysis().temp_size_in_bytes <= 2 * stored


def test_an_entry_is_kept_where_its_bits_are_below_the_threshold() -> None:
    like = jnp.ones((64,))
    value = random.bits(KEY, like.shape) >> np.uint32(9)
    assert not masks.keep_mask(KEY, like, value).any()
    assert masks.keep_mask(KEY, like, value + np.uint32(1)).all()


def test_the_last_word_that_is_kept() -> None:
    thresholds = masks.distribution(np.float32([0, 1e-7, 0.1, 0.5, 1 - 2**-23])).threshold[:, None]
    last = np.asarray(masks.last_kept(thresholds))
    bits = np.concatenate([last.ravel(), last.ravel() + 1, np.uint32([0, 2**32 - 1])])[None]
    assert ((bits <= last) == masks.below(bits, thresholds)).all()


def test_thresholds_with_axes_meet_the_last_axes_of_the_mask() -> None:
    like = jnp.ones((64, 3))
    mask = masks.keep_mask(KEY, like, masks.distribution(jnp.asarray([0, 0.5, 1])).threshold)
    fractions = mask.mean(0)
    assert fractions[0] == 1
    assert 0 < fractions[1] < 1
    assert fractions[2] == 0
