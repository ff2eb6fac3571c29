"""The checks of arguments, at the values next to those that are allowed."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import checkify

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import _checks, schedules

KEY = jaxdrop.key(0)
X = np.ones((4, 6), np.float32)


def draw(key: Any, **options: Any) -> jax.Array:
    return jaxdrop.dropout(key, X, 0.5, **options)


# -- two numbers


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        *[(good, None) for good in ((0, 1), [-1, 1.5], np.float16([-1, 1]), (0.5, 0.5))],
        *[(wrong, TypeError) for wrong in (None, 1, "ab", b"ab", {1: 2, 3: 4}, {1, 2})],
        *[(wrong, TypeError) for wrong in ([1, "a"], [[1], [2, 3]], [1j, 2], [True, False])],
        *[(wrong, TypeError) for wrong in ([10**400, 1], jax.random.key(0), [KEY, KEY])],
        *[(wrong, ValueError) for wrong in ([], [1], [1, 2, 3], [[1, 2]], np.ones((2, 1)))],
        *[(wrong, ValueError) for wrong in ((2, 1), (np.nan, 1), (0, np.inf), (-np.inf, 0))],
    ],
    ids=str,
)
def test_two_numbers(bounds: Any, error: type[Exception] | None) -> None:
    def run(key: jax.Array) -> jax.Array:
        return jaxdrop.shake_drop(key, X[..., None], 0.5, alpha=bounds)

    if error is None:
        assert jax.eval_shape(run, KEY).shape == (4, 6, 1)
        return
    with pytest.raises(error, match="alpha must be two finite numbers, the least and the greatest"):
        run(KEY)


def test_a_traced_number_is_not_known() -> None:
    with pytest.raises(TypeError, match="alpha"):
        jax.eval_shape(lambda x: jaxdrop.shake_drop(KEY, X[..., None], 0.5, alpha=x), X[0, :2])


@pytest.mark.parametrize("rate", [Fraction(1, 4), np.float16(0.25), np.array(0.25)], ids=repr)
def test_a_rate_may_be_any_real_number(rate: Any) -> None:
    np.testing.assert_array_equal(jaxdrop.dropout(KEY, X, rate), jaxdrop.dropout(KEY, X, 0.25))


@pytest.mark.parametrize("rate", [10**400, -(10**400)])
def test_an_integer_too_large_for_a_float_is_out_of_range(rate: int) -> None:
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got -?1000"):
        jaxdrop.dropout(KEY, X, rate)


# -- integers


@pytest.mark.parametrize(
    ("seed", "good"),
    [
        *[(seed, True) for seed in (3, np.int8(3), np.uint64(3), np.array(3), jax.device_put(3))],
        *[(seed, False) for seed in (True, np.bool_(True), 3.0, "3", None, np.array([3]))],
        *[(seed, False) for seed in (np.float32(3), np.array(True), jax.random.key(0))],
    ],
    ids=repr,
)
def test_a_seed_is_one_integer(seed: Any, good: bool) -> None:
    if good:
        assert jax.random.key_data(jaxdrop.key(seed)).tolist() == [0, 3]
        return
    with pytest.raises(TypeError, match="seed must be an integer,"):
        jaxdrop.key(seed)


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        (0, None),
        (1, None),
        (-1, None),
        (-2, None),
        (2, "batch_axis=2 is out of range: with 2 axes, -2 to 1 are allowed."),
        (-3, "batch_axis=-3 is out of range: with 2 axes, -2 to 1 are allowed."),
    ],
)
def test_an_axis(axis: int, says: str | None) -> None:
    def run(key: jax.Array, axis: int) -> jax.Array:
        return jaxdrop.drop_path(key, X, 0.5, batch_axis=axis)

    if says is not None:
        with pytest.raises(ValueError, match=re.escape(says)):
            run(KEY, axis)
    else:
        made = [str(jax.make_jaxpr(run, static_argnums=1)(KEY, at)) for at in (axis, axis % 2)]
        assert made[0] == made[1]


def test_a_number_has_no_axis_to_name() -> None:
    with pytest.raises(ValueError, match="with 0 axes, there is none to name in x"):
        jaxdrop.drop_path(KEY, X[0, 0], 0.5)


# -- where a part begins: in a whole of 8 rows, 4 rows begin at 0, ..., 4


def part(offset: Any) -> jax.Array:
    return draw(KEY, part=jaxdrop.Part(offset, 8, axis=0))


@pytest.mark.parametrize("offset", [0, 4, np.uint8(4), np.array(4), np.int64(0)], ids=repr)
def test_an_offset(offset: Any) -> None:
    whole = np.asarray(jaxdrop.dropout(KEY, np.ones((8, 6), np.float32), 0.5))
    np.testing.assert_array_equal(part(offset), whole[int(offset) :][:4])


@pytest.mark.parametrize(
    ("offset", "error", "says"),
    [
        (-1, ValueError, "at least 0 and, with 4 entries of a whole of 8, at most 4, got -1"),
        (5, ValueError, "at most 4, got 5"),
        (1.0, TypeError, "must be an integer, or an array of integers, got 1.0"),
        (True, TypeError, "must be an integer, or an array of integers, got True"),
        (None, TypeError, "must be an integer, or an array of integers, got None"),
        (np.float32(1), TypeError, "must be an integer, or an array of integers, got float32"),
        (np.array([1, 2]), ValueError, "or one for each example, shape (), got shape (2,)"),
    ],
    ids=repr,
)
def test_an_impossible_offset(offset: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        part(offset)
    assert "the offset of part must be" in str(caught.value)
    assert says.removesuffix("shape (), got shape (2,)") in str(caught.value)


def test_a_traced_offset_is_checked_under_checkify() -> None:
    checked = jax.jit(checkify.checkify(part, errors=checkify.user_checks))
    for offset, good in ((-1, False), (0, True), (4, True), (5, False)):
        error, _ = checked(np.int32(offset))
        said = error.get()
        assert said is None if good else "at least 0 and, with 4 entries" in said


# -- keys


def test_a_key_that_is_used_twice_is_found_by_jax() -> None:
    """`jax_debug_key_reuse` sees our arithmetic as drawing. A key of its own for each call is no
    fault.
    """

    def twice(key: jax.Array, other: jax.Array) -> list[jax.Array]:
        return [draw(key), draw(other)]

    with jax.debug_key_reuse(True):
        for key in (KEY, jax.random.key(0)):
            with pytest.raises(jax.errors.KeyReuseError):
                jax.jit(lambda key: twice(key, key))(key)
            jax.jit(lambda key: twice(*jax.random.split(key)))(key)


def test_legacy_keys_are_of_the_generator_that_is_the_default() -> None:
    words = np.uint32([0, 7])
    expected = draw(jax.random.key(7))
    np.testing.assert_array_equal(draw(words), expected)
    with jax.default_prng_impl("rbg"):  # whose keys have four words
        np.testing.assert_array_equal(draw(words), expected)
        drawn = draw(np.uint32([0, 7, 0, 7]))
        np.testing.assert_array_equal(drawn, draw(jax.random.key(7, impl="rbg")))


# -- arrays


def test_real_numbers_and_features() -> None:
    with pytest.raises(TypeError, match="gaussian_noise takes real x, got dtype complex64, for it"):
        jaxdrop.gaussian_noise(KEY, X.astype(np.complex64), 0.5)
    layer = nnx.eval_shape(lambda: jaxdrop.nnx.DropConnect(6, 3, rate=0.5, rngs=nnx.Rngs(0)))
    assert _checks.check_features(X[None], "dense", 6) is not None
    for x, shape in ((X[:, :5], "(4, 5)"), (X[None, :, :5], "(1, 4, 5)"), (X[0, 0], "()")):
        with pytest.raises(ValueError, match="takes inputs of shape") as caught:
            layer(x)
        assert str(caught.value).endswith(f"(..., 6 features), got shape {shape}")
    with pytest.raises(TypeError, match="x of dtype int32"):
        jaxdrop.dropout(KEY, jnp.arange(3, dtype=jnp.int32), 0.5)


@pytest.mark.parametrize(
    ("dtype", "nearest"),
    [(np.dtype("f4"), "float32"), (np.dtype("c8"), "complex64"), (np.longdouble, "float32")],
    ids=str,
)
def test_an_array_of_a_dtype_that_jax_has_not_is_refused(dtype: Any, nearest: str) -> None:
    """Also if a function was compiled for its shape: JAX would then read the bytes as they are."""
    x = np.ones((4, 6), dtype)
    if dtype != np.longdouble:
        jaxdrop.dropout(KEY, x, 0.5)
        x = x.astype(np.dtype(dtype).newbyteorder())
    with pytest.raises(TypeError, match=rf"x has dtype .* as in x\.astype\(np\.{nearest}\)"):
        jaxdrop.dropout(KEY, x, 0.5)
    with pytest.raises(TypeError, match="logits has dtype"):
        jaxdrop.drop_key(KEY, x, 0.5)


def test_ids_and_queries_are_of_a_dtype_that_jax_has() -> None:
    ids = np.arange(6, dtype=np.dtype("i4").newbyteorder())
    with pytest.raises(TypeError, match=r"ids has dtype .* as in ids\.astype\(np\.int32\)"):
        jaxdrop.word_dropout(KEY, ids, 0.5, replacement=9)
    q = np.ones((1, 3, 2, 4), np.dtype("f4").newbyteorder())
    with pytest.raises(TypeError, match=r"q has dtype .* as in q\.astype\(np\.float32\)"):
        jaxdrop.dot_product_attention(KEY, q, q, q, 0.5)


def test_dates_are_no_numbers() -> None:
    """NumPy takes differences of dates for integers."""
    days = np.array(["2026-01-03", "2026-01-01"], "datetime64[D]")
    for dates in (days, days[:1] - days[1:]):
        with pytest.raises(TypeError, match="ids"):
            jaxdrop.embedding_dropout(KEY, X[:1], 0.5, ids=dates)
        with pytest.raises(TypeError, match="rate must be a real number"):
            jaxdrop.dropout(KEY, X, dates)
        with pytest.raises(TypeError, match="seed must be an integer"):
            jaxdrop.key(dates[0])


# -- amounts that are no rates


@pytest.mark.parametrize("value", [0.0, 1.0, 2.5, np.float32(3), 7, np.array(0.5)], ids=repr)
def test_an_amount(value: Any) -> None:
    assert jax.eval_shape(lambda x: jaxdrop.gaussian_noise(KEY, x, value), X).shape == X.shape


@pytest.mark.parametrize(
    ("call", "says"),
    [
        *[
            (
                lambda value=value: jaxdrop.gaussian_noise(KEY, X, value),
                f"stddev must lie in [0, infinity), got {value}",
            )
            for value in (-0.5, np.inf, np.nan)
        ],
        *[
            (
                lambda value=value: jaxdrop.concrete_dropout(KEY, X, 0.0, temperature=value),
                f"temperature must lie in (0, infinity), got {value}.",
            )
            for value in (0.0, -1, np.inf)
        ],
        *[
            (
                lambda value=value: jaxdrop.concrete_dropout(KEY, X, value),
                f"logit must be finite, got {value}",
            )
            for value in (np.inf, -np.inf)
        ],
        (
            lambda: jaxdrop.gaussian_noise(KEY, X, np.float32([0, 1, 2, -3, 4, -5])),
            "stddev must lie in [0, infinity), got -3.0",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, 0.5, part=jaxdrop.Part(0, 2**31, axis=0)),
            "the length of part must be at most 2147483647, got 2147483648",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, 0.5, part=jaxdrop.Part(0, 0, axis=0)),
            "the length of part must be at least 1, got 0",
        ),
    ],
)
def test_an_impossible_amount(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()


def test_amounts_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"temperature must be a real number in \(0, infinity\), g"):
        jaxdrop.concrete_dropout(KEY, X, 0.0, temperature="1")
    with pytest.raises(TypeError, match="logit must be a real number or an array of them, of a fl"):
        jaxdrop.concrete_dropout(KEY, X, np.arange(6))
    draw(KEY, part=jaxdrop.Part(0, 2**31 - 1, axis=0))


# -- how messages quote


class Broken:
    def __repr__(self) -> str:
        raise ValueError


class Lines(list[int]):
    def __repr__(self) -> str:
        return "[1,\n  2]"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.float64(1.5), "1.5"),
        (np.int8(3), "3"),
        (np.True_, "True"),
        (np.float32(2)[None], "an array of float32[1]"),
        (jax.device_put(np.int32(2)), "int32 2"),
        (KEY, "a key"),
        (jax.random.split(KEY, 2), "keys of shape (2,)"),
        ("a", "'a'"),
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, repr("x" * 59)[:60] + "..."),
        (None, "None"),
        ([1, None], "[1, None]"),
        (int, "<class 'int'>"),
        (np, "module numpy"),
        (draw, "function draw"),
        (object(), "object"),
        (Broken(), "Broken ..."),
        (Lines(), "Lines [1, 2]"),
        (Fraction(1, 2), "Fraction(1, 2)"),
        (nnx.Rngs(0), "Rngs"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_is_quoted(value: Any, said: str) -> None:
    assert _checks.quoted(value) == said


def test_a_traced_value_is_quoted() -> None:
    seen: list[str] = []
    jax.eval_shape(lambda x: seen.append(_checks.quoted(x)), np.float32([1, 2]))
    assert seen == ["a traced float32[2]"]


def test_names_of_names() -> None:
    """A function that hands on its argument to one that hands it on again."""
    with _checks.renamed(x="candidate"):
        assert _checks.shown("x") == "candidate"
        with _checks.renamed({"logits": "x", "b": "bias"}):
            assert [_checks.shown(name) for name in ("logits", "x", "b", "w")] == [
                *("candidate", "candidate", "bias", "w")
            ]
        assert _checks.shown("logits") == "logits"
    assert _checks.shown("x") == "x"


# -- values of other kinds


def test_what_holds_numbers_is_an_array() -> None:
    class Holding:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return X

    for x in (X.tolist(), Holding(), nnx.Param(jnp.asarray(X))):
        np.testing.assert_array_equal(jaxdrop.dropout(KEY, x, 0.5), draw(KEY))
    for x in (b"ab", {0: 1.0}, {1.0}, [[1.0], [2.0, 3.0]], np.array(["a"]), len):
        with pytest.raises(TypeError, match="dropout takes an array x of floating or complex num"):
            jaxdrop.dropout(KEY, x, 0.5)
    with pytest.raises(TypeError, match="rate must be a real number"):
        jaxdrop.dropout(KEY, X, np.array("a"))


def test_a_traced_integer_is_a_rate() -> None:
    run = jax.jit(lambda rate: jaxdrop.dropout(KEY, X, rate))
    np.testing.assert_array_equal(run(np.int32(1)), np.zeros_like(X))
    np.testing.assert_array_equal(run(np.int32(0)), X)


def test_a_rate_that_has_to_be_known() -> None:
    for rate in (np.float32(0.25), jax.device_put(np.float32(0.25)), 0.25):
        assert schedules.constant(rate)(0) == 0.25
    for rate in (np.ones(1), jnp.ones(3)):
        with pytest.raises(TypeError, match="rate must be one number that is known now"):
            schedules.constant(rate)


@pytest.mark.parametrize("dtype", [jnp.int32, "int8", X, np.float32(1), "nonsense", 3, bool])
def test_a_dtype_of_floating_numbers(dtype: Any) -> None:
    with pytest.raises(
        TypeError, match=r"param_dtype must be a dtype of floating numbers, such as"
    ):
        jaxdrop.nnx.DropConnect(6, 3, rate=0.5, param_dtype=dtype, rngs=nnx.Rngs(0))
    for good in (jnp.bfloat16, "float16", np.dtype("complex64")):
        layer = jaxdrop.linen.DropConnect(3, param_dtype=good)
        assert jnp.dtype(layer.param_dtype) == jnp.dtype(good)


def test_a_layout_may_be_a_tuple() -> None:
    for spec in ((None, None), (None,), (), jax.sharding.PartitionSpec(None)):
        np.testing.assert_array_equal(draw(KEY, spec=spec), draw(KEY))


def test_messages_say_more_of_integers_and_streams() -> None:
    with pytest.raises(TypeError, match="spatial_rank must be a number of axes, or None, got '1'"):
        jaxdrop.spatial_dropout(KEY, X, 0.5, spatial_rank="1")
    with pytest.raises(ValueError, match="spatial_rank must be at least 1, got 0"):
        jaxdrop.nnx.SpatialDropout(0.5, spatial_rank=0)
    for rngs, take in ((nnx.Rngs(0), "rngs.dropout()"), (nnx.Rngs(0).default, "stream()")):
        with pytest.raises(TypeError, match=re.escape(f"dropout({take}, ...)")):
            draw(rngs)
    with pytest.raises(
        TypeError, match=r"rngs must be a JAX PRNG key.*array of float32\[4, 6\]\.$"
    ):
        jaxdrop.nnx.Dropout(0.5)(X, rngs=X)
