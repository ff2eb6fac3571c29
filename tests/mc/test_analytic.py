"""Mean and variance without samples."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy import integrate, stats

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import mc
from tests import statistics
from tests.catalogue import RATE, VARIANTS, Variant

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
W = RNG.normal(size=(4, 5)).astype(np.float32)
U = RNG.normal(size=(5, 2)).astype(np.float32)
# What they return is a sum, or is divided by the number of what is kept.
SUMS = {"drop_connect", "drop_connect_per_example", "drop_head", "rnn_input", "rnn_recurrent"}
PRECISIONS = ("diagonal", "linearized", "enumerated")
UNKNOWN = {
    # The sequence becomes shorter, at least one is kept, or entries are moved.
    *("drop_key", "modality_dropout", "random_ltd", "token_dropout"),
}


def two_masks(key: jax.Array, x: jax.Array) -> jax.Array:
    """Linear in each of its masks."""
    first, second = jax.random.split(key)
    return jaxdrop.dropout(second, jaxdrop.dropout(first, x, 0.25) @ W, 0.5) @ U


def every_mask(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of `two_masks`, by enumeration."""
    mean, second = 0.0, 0.0
    for bits in itertools.product((0, 1), repeat=9):
        kept = np.array(bits)
        chance = np.prod(np.where(kept[:4], 0.75, 0.25)) / 2**5
        y = ((x * kept[:4] / 0.75) @ W * kept[4:] * 2) @ U
        mean, second = mean + chance * y, second + chance * y**2
    return mean, second - mean**2


def test_linear_in_each_mask_is_exact() -> None:
    result = mc.analytic(two_masks, precision="linearized")(X)
    mean, variance = np.stack([every_mask(x) for x in X], axis=1)
    np.testing.assert_allclose(result.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(result.std, np.sqrt(variance), rtol=1e-5)
    assert result.linearized == ()
    diagonal = mc.analytic(two_masks)(X)
    np.testing.assert_allclose(diagonal.mean, mean, rtol=1e-5, atol=1e-5)
    assert np.abs(diagonal.variance / variance - 1).max() > 0.1, "there is nothing to covary"


def test_one_mask_behind_which_nothing_covaries_is_exact_by_all() -> None:
    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        return nnx.Dropout(0.25)(x, rngs=nnx.Rngs(key)) @ W

    for precision in PRECISIONS:
        result = mc.analytic(fn, precision=precision)(X)
        np.testing.assert_allclose(result.mean, X @ W, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(result.variance, X**2 / 3 @ W**2, rtol=1e-4)


def test_random_entries_beside_constants() -> None:
    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        beside = jnp.concatenate([jnp.zeros((3, 1)), jaxdrop.dropout(key, x, 0.25) @ W], axis=1)
        return jax.lax.dynamic_update_slice(jnp.ones((3, 7)), beside, (0, 1))

    result = mc.analytic(fn)(X)
    mean, variance = np.ones((3, 7)), np.zeros((3, 7))
    mean[:, 1], mean[:, 2:], variance[:, 2:] = 0, X @ W, X**2 / 3 @ W**2
    np.testing.assert_allclose(result.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-4)


def test_an_enumerated_input_is_a_jump() -> None:
    """A function of one coin, however nonlinear, has two values."""

    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sin(3 * jaxdrop.dropout(key, x, 0.25)) ** 2

    low, high = 0.0, np.sin(3 * X / 0.75) ** 2
    result = mc.analytic(fn, precision="enumerated", in_axes=(0,))(X)
    np.testing.assert_allclose(result.mean, 0.75 * high + 0.25 * low, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.variance, 0.75 * 0.25 * high**2, rtol=1e-5, atol=1e-6)


def test_a_coin_of_many_entries() -> None:
    """All entries of an example fall together: its sum is kept, or is 0."""

    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        return jaxdrop.drop_path(key, x, 0.25).sum(-1)

    exact = X.sum(-1) ** 2 / 3
    np.testing.assert_allclose(
        mc.analytic(fn, precision="linearized")(X).variance, exact, rtol=1e-5
    )
    np.testing.assert_allclose(mc.analytic(fn)(X).variance, (X**2 / 3).sum(-1), rtol=1e-5)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "leaky relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "elu": jax.nn.elu,
    "relu6": jax.nn.relu6,
    "square": jnp.square,
    "exp": lambda x: jnp.exp(x / 4),
    "log": lambda x: jnp.log(x + 8),
    "square root": lambda x: 9 * jnp.sqrt(x + 30),
    "inverse square root": lambda x: 500 * jax.lax.rsqrt(x + 30),
    "inverse": lambda x: 900 / (x + 30),
    "inverse square": lambda x: 9000 * (x + 30) ** -2,
    "power": lambda x: (x + 30) ** 1.5,
    "log1p": lambda x: jnp.log1p(x + 7),
    "clipped": lambda x: jnp.minimum(jnp.maximum(x, -0.5), 0.5),
}


CLOSED = ("relu", "gelu", "exact gelu", "square")


def test_activations_of_a_normal_variable() -> None:
    """Gaussian noise makes a value exactly normal: the moments are integrals."""
    means = np.float32([-2, -0.4, 0, 0.7, 3])

    def fn(key: jax.Array) -> dict[str, jax.Array]:
        x = means + 0.6 * jax.random.normal(key, (5,))
        wide = means + 4 * jax.random.normal(jax.random.fold_in(key, 1), (5,))
        found = {name: activation(x) for name, activation in ACTIVATIONS.items()}
        return found | {f"wide {name}": ACTIVATIONS[name](wide) for name in CLOSED}

    result = mc.analytic(fn)()
    assert result.linearized == ()
    z = np.linspace(-8, 8, 4001)
    for title, activation in [
        *ACTIVATIONS.items(),
        *((f"wide {name}", ACTIVATIONS[name]) for name in CLOSED),
    ]:
        spread = 4 if title.startswith("wide") else 0.6
        values = np.asarray(activation(means[:, None] + np.float32(spread * z)), np.float64)
        mean = integrate.trapezoid(values * stats.norm.pdf(z), z)
        variance = integrate.trapezoid((values - mean[:, None]) ** 2 * stats.norm.pdf(z), z)
        smooth = title not in ("leaky relu", "elu", "relu6", "clipped")
        near = 2e-3 if smooth else 2e-2
        compare = functools.partial(np.testing.assert_allclose, err_msg=title, atol=near)
        compare(result.mean[title], mean, rtol=2e-3)
        compare(result.variance[title], variance, rtol=2e-3)


def test_functions_of_a_wide_positive_variable() -> None:
    """A sum of squares is positive, and a normal variable of its mean and variance is often not:
    logarithm and powers are those of the log-normal variable with this mean and variance.
    """
    powers = {0.5: jnp.sqrt, -0.5: jax.lax.rsqrt, -1.0: jnp.reciprocal, 0.7: lambda x: x**0.7}

    def fn(key: jax.Array) -> list[jax.Array]:
        total = jnp.square(jax.random.normal(key, (3, 4))) @ jnp.ones(4)
        return [jnp.log(total), *(power(total) for power in powers.values())]

    result = mc.analytic(fn)()
    lognormal = math.log(1 + 8 / 4**2)  # chi-square with 4 degrees of freedom: mean 4, variance 8
    center = math.log(4) - lognormal / 2
    np.testing.assert_allclose(result.mean[0], center, rtol=1e-5)
    np.testing.assert_allclose(result.variance[0], lognormal, rtol=1e-5)
    for at, power in enumerate(powers, 1):
        exact = stats.lognorm(s=abs(power) * math.sqrt(lognormal), scale=math.exp(power * center))
        np.testing.assert_allclose(result.mean[at], exact.mean(), rtol=1e-5)
        np.testing.assert_allclose(result.variance[at], exact.var(), rtol=1e-4)


def test_comparisons_of_random_numbers() -> None:
    """Of two normal variables, which are never equal; and of random bits."""

    def fn(key: jax.Array) -> list[jax.Array]:
        first, second, third = jax.random.split(key, 3)
        x, y = X + jax.random.normal(first, X.shape), 2 * jax.random.normal(second, X.shape)
        bit = (jax.random.bits(third, X.shape) & 1).astype(bool)
        compared = [x > y, x >= y, x < y, x <= y, x == y, x != y, bit]
        return [each.astype(jnp.float32) for each in compared]

    result = mc.analytic(fn)()
    larger = stats.norm.cdf(X / math.sqrt(5))
    shares = [larger, larger, 1 - larger, 1 - larger, 0 * X, 1 + 0 * X, 0.5 + 0 * X]
    for mean, variance, share in zip(result.mean, result.variance, shares, strict=True):
        np.testing.assert_allclose(mean, share, atol=1e-5)
        np.testing.assert_allclose(variance, share * (1 - share), atol=1e-5)


def test_a_count_that_is_shifted() -> None:
    """As `drop_block` does, for counts that would not fit."""

    def fn(key: jax.Array) -> jax.Array:
        kept = jaxdrop.dropout(key, np.ones((3, 64), np.float32), 0.25) > 0
        return kept.sum(-1, dtype=jnp.uint32) >> np.uint32(2)

    result = mc.analytic(fn)()
    np.testing.assert_allclose(result.mean, [12] * 3, rtol=1e-5)
    np.testing.assert_allclose(result.variance, [0.75] * 3, rtol=1e-5)
    assert result.linearized == ()


def test_shares_along_any_axis() -> None:
    """A softmax, and positive numbers over their sum, of variables that vary in their variance."""

    def fn(key: jax.Array) -> list[jax.Array]:
        x = X + (1 + np.abs(X)) * jax.random.normal(key, X.shape)
        square = x * x
        turned = square.T
        return [
            jax.nn.softmax(x, 0),
            jax.nn.softmax(x.T).T,
            square / square.sum(0, keepdims=True),
            (turned / turned.sum(1, keepdims=True)).T,
        ]

    result = mc.analytic(fn)()
    for moments in (result.mean, result.variance):
        np.testing.assert_allclose(moments[0], moments[1], rtol=1e-5)
        np.testing.assert_allclose(moments[2], moments[3], rtol=1e-5)
    for along in result.mean:
        np.testing.assert_allclose(along.sum(0), 1, rtol=1e-5)


def test_large_constants_are_left_to_the_program() -> None:
    """What is computed of a few numbers is known to the rules; of many, it is part of the compiled
    program, not an array beside it.
    """

    def fn(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        few, many = jnp.tan(jnp.full((3, 4), 0.1)), jnp.sin(jnp.full(1000, 0.1))
        return jaxdrop.dropout(key, x, 0.5) * few, many

    operations = str(jax.make_jaxpr(lambda: jax.jit(mc.analytic(fn))(X))())
    assert " sin " in operations
    assert " tan " not in operations


def test_gelu_of_a_small_and_of_a_wide_variable() -> None:
    """Relative to the spread, also where the derivative is nearly 0."""
    means = np.linspace(-6, 6, 25).astype(np.float32)
    z = np.linspace(-8, 8, 4001)
    weights = stats.norm.pdf(z) / stats.norm.pdf(z).sum()

    def fn(key: jax.Array) -> list[jax.Array]:
        noise = jax.random.normal(key, (25,))
        return [
            2 * jax.nn.gelu(means + spread * noise, approximate=False)
            for spread in (1e-2, 1.0, 3.0)
        ]

    for precision in ("diagonal", "linearized"):
        result = mc.analytic(fn, precision=precision)()
        for spread, mean, std in zip((1e-2, 1.0, 3.0), result.mean, result.std, strict=True):
            x = means[:, None] + spread * z
            y = 2 * x * stats.norm.cdf(x)
            exact = y @ weights
            np.testing.assert_allclose(mean, exact, atol=1e-5)
            spreads = np.sqrt((y - exact[:, None]) ** 2 @ weights)
            np.testing.assert_allclose(std, spreads, atol=6e-4 * spread)


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.name not in SUMS and "test_law" not in v.exempt],
    ids=lambda v: v.name,
)
def test_every_variant_drops_as_often_as_it_should(variant: Variant) -> None:
    ones = np.ones(variant.shape, np.float32)

    def dropped(key: jax.Array) -> jax.Array:
        return variant.call(key, ones, RATE) == 0

    if variant.name in UNKNOWN:
        with pytest.raises(NotImplementedError, match=r"at .*(jaxdrop\.|test_analytic)"):
            mc.analytic(dropped)()
        return
    result = mc.analytic(dropped)()
    rates = np.broadcast_to(variant.law.rates(RATE, variant.shape), variant.shape)
    np.testing.assert_allclose(result.mean, rates, atol=2e-6)
    np.testing.assert_allclose(result.variance, rates * (1 - rates), atol=2e-6)


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if "test_law" in v.exempt],
    ids=lambda v: v.name,
)
def test_other_variants_have_moments_or_a_reason(variant: Variant) -> None:
    """Only traced."""
    found = mc.analytic(lambda key: variant.call(key, np.ones(variant.shape, np.float32), RATE))
    if variant.name in UNKNOWN:
        with pytest.raises(NotImplementedError, match=r"at jaxdrop\."):
            jax.eval_shape(found)
        return
    moments = jax.eval_shape(found)
    assert moments.mean.shape == moments.variance.shape == variant.shape


def test_it_is_an_oracle_of_the_samplers() -> None:
    """Of 2^14 samples of each kind of key, mean and variance are those that are known. Ideal
    samples fail with a probability of 1e-6.
    """
    known = mc.analytic(two_masks, precision="linearized")(X)
    sample = jax.jit(lambda keys: mc.predict(lambda key: two_masks(key, X), keys))
    for strategy in ("independent", "stratified", "antithetic"):
        keys = mc.keys(jaxdrop.key(3), 2**14, strategy)
        y = np.asarray(sample(keys), np.float64)
        apart = y - np.asarray(known.mean)
        squares = apart**2 - np.asarray(known.variance)
        for each in (apart, squares):  # strata only make the error of a mean smaller
            z = each.mean(0) / (each.std(0) / np.sqrt(len(y)))
            assert statistics.normal(z) > 1e-6 / 6


class Mixed(nn.Module):
    """What the rules have to meet in real models."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        rate = functools.partial(nn.Dropout, deterministic=not training)
        x = nn.Conv(8, (3,))(rate(0.1)(x.reshape(-1, 4, 4)))
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.max_pool(nn.relu(x), (2,), (2,))
        x = x + nn.MultiHeadDotProductAttention(
            2, dropout_rate=0.1, deterministic=not training, broadcast_dropout=False
        )(nn.LayerNorm()(x))
        return nn.softmax(nn.Dense(3)(x.mean(1)))


def test_a_model_of_many_parts() -> None:
    model, x = Mixed(), RNG.normal(size=(6, 16)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, training=False)
    fn = jaxdrop.linen.stochastic(model, variables)
    samples = np.asarray(
        jax.jit(lambda keys: mc.predict(lambda key: fn(key, x), keys))(
            mc.keys(jaxdrop.key(0), 2000)
        )
    )
    for precision, low, high in (("diagonal", 0.5, 3.5), ("linearized", 0.6, 1.8)):
        result = jax.jit(mc.analytic(fn, precision=precision))(x)
        error = np.abs(result.mean - samples.mean(0)) / samples.std(0)
        assert error.max() < 0.5
        ratio = result.std / samples.std(0)
        assert low < ratio.min()
        assert ratio.max() < high
        assert any("softmax" in each for each in result.linearized)


def test_nnx_transformations_and_loops() -> None:
    """An NNX model under `stochastic`, under `vmap`; the loop of a scan; a branch by a coin."""

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.dropout = jaxdrop.nnx.Dropout(0.5, rngs=nnx.Rngs(1))

        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.tanh(self.linear(self.dropout(x)))

    net = Net()
    fn = jaxdrop.nnx.stochastic(net)
    whole = mc.analytic(fn)(X)
    rows = jax.vmap(lambda x: mc.analytic(fn)(x[None]))(X)
    np.testing.assert_allclose(rows.variance[:, 0], whole.variance, rtol=1e-5)

    kernel = net.linear.kernel[...]

    def step(h: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(jaxdrop.dropout(key, h, 0.5) @ kernel)
        return h, h

    def scanned(key: jax.Array) -> Any:
        return jax.lax.scan(step, jnp.asarray(X), jax.random.split(key, 3))

    def unrolled(key: jax.Array) -> Any:
        h, rows = jnp.asarray(X), []
        for own in jax.random.split(key, 3):
            h, row = step(h, own)
            rows.append(row)
        return h, jnp.stack(rows)

    for precision in ("diagonal", "linearized"):
        found, expected = (mc.analytic(each, precision=precision)() for each in (scanned, unrolled))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            (found.mean, found.variance),
            (expected.mean, expected.variance),
        )

    def branch(key: jax.Array) -> jax.Array:
        return jax.lax.cond(jax.random.bernoulli(key, 0.2), lambda: 5.0, lambda: 1.0)

    found = mc.analytic(branch)()
    np.testing.assert_allclose((found.mean, found.variance), (1.8, 16 * 0.16), rtol=1e-5)


def test_words_that_are_dropped() -> None:
    """Looked up in a table: the row of the word, or that of the unknown word."""
    table = jax.device_put(W)
    ids = np.array([[1, 2, 3]])

    def fn(key: jax.Array) -> jax.Array:
        return table[jaxdrop.word_dropout(key, ids, 0.3, replacement=0)]

    result = mc.analytic(fn)()
    np.testing.assert_allclose(result.mean, 0.7 * W[ids] + 0.3 * W[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.variance, 0.21 * (W[ids] - W[0]) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "fn"),
    [
        ("softmax: variance linearized", jax.nn.softmax),
        ("logsumexp linearized", lambda x: jnp.log(jnp.exp(x).sum())),
        ("atan2 linearized", lambda x: jnp.arctan2(x[:2], x[2:])),
        ("reduce_max linearized", lambda x: jnp.append(jnp.tile(x, 4), x[0]).max()),
        ("reduce_max of 16", lambda x: jnp.tile(x, 4).max()),
        ("argmin of the means", lambda x: x.argmin()),
        (
            "a choice between more than two values: that at the mean",
            lambda x: (
                jax.lax.select_n(
                    (x > 0).astype(jnp.int32) + (x[::-1] > 1).astype(jnp.int32), X[0], X[1], X[2]
                )
                + x * 0
            ),
        ),
        ("sort linearized", jnp.sort),
        ("none", lambda x: jnp.tanh(x @ W) * x.sum()),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_linearized_is_listed_with_its_place(text: str, fn: Any) -> None:
    def scoped(key: jax.Array) -> jax.Array:
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return fn(X[0] + jax.random.normal(key, (4,)))

    listed = jax.eval_shape(mc.analytic(scoped, allow_deterministic=True)).linearized
    assert isinstance(listed, tuple)
    if text in ("none", "reduce_max of 16"):
        assert listed == ()
        return
    (line,) = listed
    assert re.fullmatch(rf"{text} at outer/inner\S* \S*tests/mc/test_analytic\.py:\d+", line), line


def test_inputs_that_are_no_arrays() -> None:
    """Of an input with several leaves, those that are arrays have an axis of examples."""

    def fn(key: jax.Array, x: dict[str, Any], name: str, rate: float) -> jax.Array:
        assert isinstance(rate, float)
        return jaxdrop.dropout(key, x[name], rate) @ x["w"][0] + x["shift"]

    x = {"a": X, "w": np.broadcast_to(W, (3, *W.shape)), "shift": X[:, :1], "name": "unused"}
    for precision in PRECISIONS:
        result = mc.analytic(fn, precision=precision)(x, "a", 0.25)
        np.testing.assert_allclose(result.mean, X @ W + X[:, :1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(result.variance, X**2 / 3 @ W**2, rtol=1e-4)


def test_what_has_no_rule_is_linearized_and_named() -> None:
    def fn(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        noisy = x + 1e-3 * jax.random.normal(key, x.shape)
        return {"solved": jnp.linalg.solve(W[:, :4] + 3 * jnp.eye(4), noisy[0]), "plain": x}

    result = mc.analytic(fn)(X)
    inverse = np.linalg.inv(W[:, :4] + 3 * np.eye(4))
    np.testing.assert_allclose(result.variance["solved"], (inverse**2).sum(1) * 1e-6, rtol=1e-2)
    assert not result.variance["plain"].any()
    assert any("linearized at" in each and "test_analytic.py" in each for each in result.linearized)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"mc\.analytic calls fn\(key, input\)"):
        mc.analytic(jaxdrop.nnx.Dropout(0.5))(X)
    with pytest.raises(ValueError, match="precision must be one of"):
        mc.analytic(two_masks, precision="full")
    with pytest.raises(ValueError, match=r"mc\.analytic would see[^$]*allow_deterministic"):
        mc.analytic(lambda key, x: x)(X)
    for precision in PRECISIONS:
        x = np.append(X, np.full((3, 1), np.inf, np.float32), axis=1)
        fixed = mc.analytic(lambda key, x: 2 * x, precision=precision, allow_deterministic=True)(x)
        np.testing.assert_array_equal(fixed.mean, 2 * x)
        assert not fixed.variance.any()
    with pytest.raises(ValueError, match="no batch axis of length 1"):
        mc.analytic(lambda key, x: jaxdrop.dropout(key, x, 0.5).sum(), precision="linearized")(X)
    with pytest.raises(ValueError, match="in_axes"):
        mc.analytic(two_masks, precision="linearized", in_axes=(0, 0))(X)
    with pytest.raises(ValueError, match=r"enumerated.*draws no mask"):
        mc.analytic(lambda key, x: x + jax.random.normal(key, x.shape), precision="enumerated")(X)
    for draws in (
        lambda key: jax.random.gamma(key, 2.0),
        lambda key: jax.random.permutation(key, X[0])[0],
        lambda key: jax.random.categorical(key, jnp.zeros(3)),
    ):
        with pytest.raises(NotImplementedError, match=r"test_analytic\.py.*\n1\. sample"):
            mc.analytic(draws)()
    with pytest.raises(NotImplementedError, match=r"complex numbers \(fft\), at .*test_analytic"):
        mc.analytic(lambda key, x: jnp.fft.fft(jaxdrop.dropout(key, x, 0.5)).real)(X)
    with pytest.raises(
        ValueError, match=r"argmax of the means at .*test_analytic.* such as logits"
    ):
        mc.analytic(lambda key, x: jaxdrop.dropout(key, x, 0.5).argmax(-1))(X)


def test_the_linear_part_is_a_control_variate() -> None:
    """Of a function that is linear in its masks it is all that varies; of another one it has the
    mean 0. It draws the masks that the function draws, whatever library does.
    """

    def linear(key: jax.Array, x: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        own = nnx.Dropout(0.25)(x, rngs=nnx.Rngs(first)) @ W
        return own + jaxdrop.dropout(second, jax.device_put(x), 0.5) @ W

    keys = mc.keys(jaxdrop.key(5), 64, "independent")
    y, c = jax.jit(
        lambda keys: mc.predict(lambda key: (linear(key, X), mc.linear_part(linear)(key, X)), keys)
    )(keys)
    np.testing.assert_allclose(y - c, np.broadcast_to(2 * X @ W, y.shape), rtol=1e-4, atol=1e-4)

    def chosen(key: jax.Array, x: jax.Array) -> jax.Array:
        """A mask of random words that a coin chooses, from two streams."""
        first, second, coin = jax.random.split(key, 3)
        words = (jax.random.bits(own, (2, 3, 4)) for own in (first, second))
        words = jnp.where(jax.random.bernoulli(coin, 0.5, (2, 3, 4)), *words)
        return jnp.where(words < np.uint32(2**30), x[None], 0)

    key = jaxdrop.key(8)
    y, c = jax.jit(lambda: (chosen(key, X), mc.linear_part(chosen)(key, X)))()
    np.testing.assert_allclose(y - c, np.broadcast_to(X / 4, y.shape), rtol=1e-4, atol=1e-6)

    def bent(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(two_masks(key, x) / 2)

    keys = mc.keys(jaxdrop.key(6), 2**12, "independent")
    y, c = jax.jit(
        lambda keys: mc.predict(lambda key: (bent(key, X), mc.linear_part(bent)(key, X)), keys)
    )(keys)
    c, y = np.asarray(c, np.float64), np.asarray(y, np.float64)
    assert statistics.normal(c.mean(0) / (c.std(0) / np.sqrt(len(c)))) > 1e-6
    beta = ((y - y.mean(0)) * c).mean(0) / (c**2).mean(0)
    assert (y - beta * c).var(0).sum() < 0.6 * y.var(0).sum()
    with pytest.raises(ValueError, match="depends on its key"):
        mc.linear_part(lambda key, x: x)(jaxdrop.key(0), X)


def test_attention_of_this_library() -> None:
    """Its moments are those of the formula with an array of weights: queries, keys and values may
    be random, and a query that sees nothing gets 0. Its linear part draws its masks.
    """
    q, k, v = RNG.normal(size=(3, 1, 5, 2, 4)).astype(np.float32)
    seen = np.tril(np.ones((5, 5), bool)) & (np.arange(5)[:, None] > 0)

    def operands(key: jax.Array, q: jax.Array) -> Any:
        first, second = jax.random.split(key)
        q = jaxdrop.dropout(first, q, 0.25)
        return second, q, q + k, q * v

    def attend(key: jax.Array, q: jax.Array) -> jax.Array:
        own, *arrays = operands(key, q)
        return jaxdrop.dot_product_attention(own, *arrays, 0.2, mask=seen)

    def written_out(key: jax.Array, q: jax.Array) -> jax.Array:
        own, q, k, v = operands(key, q)
        logits = jnp.where(seen, jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2, -jnp.inf)
        weights = jnp.where(seen.any(-1)[:, None], jax.nn.softmax(logits), 0)
        return jnp.einsum("bhqk,bkhd->bqhd", jaxdrop.dropout(own, weights, 0.2), v)

    def both(key: jax.Array, q: jax.Array) -> list[jax.Array]:
        return [attend(key, q), written_out(key, q)]

    for precision in ("diagonal", "linearized"):
        result = mc.analytic(both, precision=precision)(jax.device_put(q))
        np.testing.assert_allclose(*result.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(*result.variance, rtol=1e-3, atol=1e-6)
        assert any("softmax" in each for each in result.linearized)
        assert not result.variance[0][:, 0].any()
        assert np.all(result.variance[0][:, 1:] > 0)

    def known(key: jax.Array) -> jax.Array:
        return jaxdrop.dot_product_attention(key, q, k, v, 0.2)

    weights = jax.nn.softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / 2, axis=-1)
    exact = np.einsum("bhqk,bkhd->bqhd", weights**2 * 0.25, v**2)
    found = mc.analytic(known)()
    np.testing.assert_allclose(found.variance, exact, rtol=1e-4)
    y, part = jax.jit(lambda key: (known(key), mc.linear_part(known)(key)))(jaxdrop.key(4))
    np.testing.assert_allclose(y - part, found.mean, atol=1e-5)


def test_masks_that_keep_an_exact_number() -> None:
    """All sets of two of four units, examples and heads, one by one. `dropout_mlp` and
    `drop_path_add` gather what they keep.
    """
    keep = np.array([x for x in itertools.product((0, 1), repeat=4) if sum(x) == 2]) * 2.0
    hidden, units, rows = np.maximum(X @ W[:, :4], 0), W[:, :4], RNG.normal(size=(4, 4))
    heads = RNG.normal(size=(1, 1, 4, 3)).astype(np.float32)

    def fn(key: jax.Array) -> list[jax.Array]:
        keys = jax.random.split(key, 4)
        shuffled = jax.random.permutation(keys[3], 4)
        return [
            jaxdrop.dropout_mlp(keys[0], X, units, U[:4], 0.5),
            jaxdrop.drop_path_add(keys[1], rows.astype(np.float32), 0.5, jnp.tanh).sum(0),
            jaxdrop.drop_head(keys[2], heads, 0.5, normalize="fixed").sum((-2, -1)),
            jnp.where(shuffled < 2, 2 * X, 0).sum(-1),
        ]

    every = [
        np.einsum("mn,bn,no->mbo", keep, hidden, U[:4]),
        rows.sum(0) + keep @ np.tanh(rows),
        np.einsum("mh,blhd->mbl", keep, heads),
        keep @ X.T,
    ]
    result = mc.analytic(fn, precision="linearized")()
    for mean, variance, values in zip(result.mean, result.variance, every, strict=True):
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(variance, values.var(0), rtol=1e-4, atol=1e-4)
    y, part = jax.jit(lambda key: (fn(key), mc.linear_part(fn)(key)))(jaxdrop.key(7))
    for each, own, values in zip(y, part, every, strict=True):
        np.testing.assert_allclose(each - own, values.mean(0), rtol=1e-4, atol=1e-4)
    first = mc.analytic(lambda key: fn(key)[0], precision="enumerated")()
    np.testing.assert_allclose(first.variance, every[0].var(0), rtol=1e-4, atol=1e-4)


def test_pairs_of_enumerated_entries() -> None:
    """A square of a sum is a sum over pairs, and so is the variance that noise adds to it: exact
    with all of them, and not with few.
    """

    def fn(key: jax.Array, x: jax.Array) -> list[jax.Array]:
        first, second = jax.random.split(key)
        x = jaxdrop.dropout(first, x, 0.25)
        total = x.sum(-1)
        return [total**2 + total * jax.random.normal(second, total.shape), x.argmax(-1)]

    kept = np.array(list(itertools.product((0, 1), repeat=4)))
    chance = 0.75 ** kept.sum(1) * 0.25 ** (4 - kept.sum(1))
    values = (kept @ X.T / 0.75) ** 2
    mean = chance @ values
    variance = chance @ (values - mean) ** 2 + mean
    apart = []
    for pairs in (0, 3, 4):
        found = mc.analytic(fn, precision="enumerated", pairs=pairs)(X)
        apart.append(np.abs(found.variance[0] / variance - 1).max())
    np.testing.assert_allclose(found.mean[0], mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance[0], variance, rtol=1e-4)
    assert apart[0] > apart[1] > 1e-3
    # What is no number is that of the most likely mask: no entry is dropped.
    np.testing.assert_array_equal(found.mean[1], X.argmax(-1))
    with pytest.raises(ValueError, match="pairs=2 belongs to precision="):
        mc.analytic(fn, pairs=2)


def test_pairs_are_those_of_the_entries_that_change_most() -> None:
    """By the sum of squares over all outputs: the first entry and the third, which multiply."""

    def fn(key: jax.Array) -> list[jax.Array]:
        kept = jaxdrop.dropout(key, np.ones(4, np.float32), 0.25) > 0
        a, b, c, d = (each.astype(jnp.float32) for each in kept)
        return [9 * a * c + 4 * b, jnp.stack([-9 * a * c, -4 * b, d])]

    found = mc.analytic(fn, precision="enumerated", pairs=2)()
    both = 81 * 0.75**2 * (1 - 0.75**2)
    np.testing.assert_allclose(found.variance[0], both + 3, rtol=1e-5)
    np.testing.assert_allclose(found.variance[1], [both, 3, 0.1875], rtol=1e-5)


def test_words_of_few_values_are_neither_shuffled_nor_uniform() -> None:
    """A sort leaves equal words as they stood, and a bit is no number between 0 and 2."""
    for fn in (
        lambda key: jnp.argsort(jax.random.bits(key, (8,), np.uint8)) < 4,
        lambda key: (jax.random.bits(key, (8,)) & 127).astype(jnp.float32),
        lambda key: jax.random.permutation(key, 8).astype(jnp.float32),
    ):
        with pytest.raises(NotImplementedError, match="knows no mean and variance"):
            mc.analytic(fn)()


def test_pairs_of_a_mask_that_keeps_an_exact_number() -> None:
    """Of entries in random order that are below one limit; not below a limit for each entry."""

    def fn(key: jax.Array, limits: int | list[int]) -> jax.Array:
        places = jax.lax.broadcasted_iota(np.int32, (2, 4), 1)
        order = jax.lax.sort((jax.random.bits(key, (2, 4)), places), num_keys=1)[1]
        kept = order < jnp.broadcast_to(jnp.array(limits, np.int32), (2, 4))
        return jnp.where(kept, X[:2], 0).sum(-1)

    found = functools.partial(mc.analytic, precision="enumerated", pairs=3)
    with pytest.raises(ValueError, match="pairs=3 needs a first mask whose entries are indep"):
        found(lambda key: fn(key, 2))()
    mean = jax.eval_shape(found(lambda key: fn(key, [1, 2, 3, 4]))).mean
    assert mean.shape == (2,)


def test_numbers_of_64_bits() -> None:
    """Also of a function that was traced before, where JAX had 32 bits."""
    means = np.linspace(-1, 1, 5)

    def fn(key: jax.Array) -> list[jax.Array]:
        x = means + 9 * jax.random.normal(key, (5,))
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3,), (1,), "SAME")
        return [jax.nn.gelu(x, approximate=False), pooled]

    narrow = mc.analytic(fn)()
    with jax.enable_x64(True):
        wide = mc.analytic(fn)()
    assert all(x.dtype == np.float64 for x in (*wide.mean, *wide.variance))
    for own, other in zip(wide.mean + wide.variance, narrow.mean + narrow.variance, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5)


def test_numbers_of_32_bits_where_there_are_64() -> None:
    """Moments have the dtype of what they are moments of. Only traced."""

    def fn(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        first, second = jax.random.split(key)
        x = jaxdrop.dropout(first, x, 0.25)
        noise = jax.random.normal(second, x.shape, np.float32)
        equal = jax.random.bits(second, x.shape, np.uint8) == 3
        return {
            "noise": noise,
            "product": x * noise,
            "matrix": x.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16),
            "sorted": jnp.sort(x),
            "equal": equal,
        }

    with jax.enable_x64(True):
        found = [
            jax.eval_shape(mc.analytic(fn, precision="linearized"), X),
            jax.eval_shape(mc.analytic(fn, precision="enumerated", pairs=2), X),
            jax.eval_shape(lambda x: mc.linear_part(fn)(jax.random.key(0), x), X),
        ]
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == np.float32
