"""Noise against Keras, `jax.random`, the published code and closed forms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

import jaxdrop
from jaxdrop import _compiler
from jaxdrop.functional.noise import gaussian_dropout, gaussian_noise, neftune, uniform_dropout
from tests import statistics
from tests.catalogue import KEY, KEYS
from tests.oracles import assert_close, require, value_and_pull

P = PartitionSpec
X = jnp.linspace(0.5, 2, 8 * 6 * 4).reshape(8, 6, 4)
THREEFRY = jax.random.key(7)
ADDITIVE = [gaussian_noise, neftune]
AMOUNTS = {gaussian_noise: "stddev", uniform_dropout: "beta", neftune: "alpha"}

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
each_of = functools.partial(pytest.mark.parametrize, ids=lambda function: function.__name__)


# -- what is drawn


@pytest.mark.parametrize("amount", [0.3, 0.9])
def test_noise_of_threefry_keys_is_that_of_jax_random(amount: float) -> None:
    normal = jax.random.normal(THREEFRY, X.shape)
    uniform = jax.random.uniform(THREEFRY, X.shape, minval=-1, maxval=1)
    expected = {
        gaussian_dropout: X * (1 + normal * np.float32(np.sqrt(amount / (1 - amount)))),
        gaussian_noise: X + amount * normal,
        uniform_dropout: X * (1 + amount * uniform),
        neftune: X + amount * uniform * np.float32(1 / np.sqrt(6 * 4)),
    }
    for function, value in expected.items():
        np.testing.assert_allclose(
            function(THREEFRY, X, amount), value, rtol=1e-6, atol=1e-6, err_msg=function.__name__
        )


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize(
    ("name", "ours"), [("GaussianDropout", gaussian_dropout), ("GaussianNoise", gaussian_noise)]
)
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_noise_equals_that_of_keras(
    name: str, ours: Callable[..., jax.Array], amount: float
) -> None:
    """A Keras seed is the words of a legacy key."""
    layer = getattr(require("keras").layers, name)(amount, seed=7)
    theirs = layer(X, training=True), None
    key = jnp.array([7, 0], jnp.uint32)
    assert_close((ours(key, X, amount),), theirs[:1])


@each_key
def test_laws(key: jax.Array) -> None:
    """Kolmogorov and Smirnov at 1e-6 each."""
    ones = jnp.ones((512, 512))
    for noise, law in (
        (gaussian_noise(key, 0 * ones, 3), stats.norm(scale=3)),
        (gaussian_dropout(key, ones, 0.5), stats.norm(loc=1)),
        (gaussian_dropout(key, ones, 0.1), stats.norm(loc=1, scale=1 / 3)),
        (uniform_dropout(key, ones, 0.1), stats.uniform(0.9, 0.2)),
        (neftune(key, 0 * ones, 5), stats.uniform(-5 / 512, 10 / 512)),
    ):
        assert stats.kstest(np.asarray(noise, np.float64).ravel(), law.cdf).pvalue > 1e-6


@pytest.mark.parametrize("dims", [(0,), (1, 2)])
def test_shared_axes_share_the_noise(dims: tuple[int, ...]) -> None:
    for function in (gaussian_dropout, gaussian_noise, uniform_dropout):
        noise = function(KEY, jnp.ones_like(X), 0.5, broadcast_dims=dims)
        first = noise[tuple(slice(0, 1) if axis in dims else slice(None) for axis in range(3))]
        np.testing.assert_array_equal(noise, jnp.broadcast_to(first, X.shape))
        assert np.unique(first).size == first.size


def test_amounts_for_each_feature() -> None:
    amounts = jnp.array([0.0, 0.25, 0.5, 0.75])
    for function in (gaussian_dropout, gaussian_noise, uniform_dropout, neftune):
        y = function(KEY, X, amounts)
        for feature, amount in enumerate(amounts):
            np.testing.assert_allclose(
                y[..., feature], function(KEY, X, amount)[..., feature], rtol=1e-6, atol=1e-6
            )


# -- closed forms


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_gaussian_dropout_has_the_moments_of_dropout(rate: float) -> None:
    """Mean 1, variance p / q. Ideal noise fails with a probability of 2e-6."""
    noise = np.asarray(gaussian_dropout(KEY, jnp.ones(2**18), rate), np.float64)
    z = (noise - 1) / np.sqrt(rate / (1 - rate))
    assert statistics.normal(z.mean() * np.sqrt(z.size)) > 1e-6
    assert statistics.normal((z**2 - 1).mean() * np.sqrt(z.size / 2)) > 1e-6


@pytest.mark.parametrize(
    ("drop", "variance", "shift"),
    [
        (functools.partial(jaxdrop.dropout, rate=0.5), 3.09, 0.42071),
        (functools.partial(uniform_dropout, beta=0.1), 1.305967, 0.99543),
    ],
)
def test_variance_shift(drop: Callable[..., jax.Array], variance: float, shift: float) -> None:
    """Of inputs with mean 0.7 and variance 1.3. Ideal noise fails with a probability of 1e-6."""
    x = 0.7 + np.float32(np.sqrt(1.3)) * jax.random.normal(jax.random.key(3), (2**20,))
    y = np.asarray(drop(KEY, x), np.float64)
    spread = (y - 0.7) ** 2
    assert statistics.normal((spread.mean() - variance) / spread.std() * np.sqrt(y.size)) > 1e-6
    np.testing.assert_allclose(1.3 / variance, shift, rtol=1e-5)


# -- amounts


@pytest.mark.sweep(keep=3)
@each_of("function", list(AMOUNTS))
@pytest.mark.parametrize("amount", [0.5, 1.0, 5.0])
def test_the_amount_gets_its_gradient(function: Callable[..., jax.Array], amount: float) -> None:
    """The result is linear in it, and any amount from 0 on is fine."""
    y, slope = jax.jvp(lambda amount: function(KEY, X, amount), (amount,), (1.0,))
    np.testing.assert_allclose(slope, (y - X) / amount, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda amount: function(KEY, X, amount))(0.0), X)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("rate", [1, 1.0, np.float32(1), jnp.float32(1)])
def test_gaussian_dropout_of_rate_one_is_an_error(rate: Any, deterministic: bool) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"rate must be below 1 in gaussian_dropout, got 1: the variance of its noise is rate"
            r" / \(1"
        ),
    ):
        gaussian_dropout(KEY, X, rate, deterministic=deterministic)


def test_gaussian_dropout_of_a_traced_rate() -> None:
    """One trace; at rate 1 all is finite."""
    chex.clear_trace_counter()
    traced = jax.jit(
        chex.assert_max_traces(
            lambda rate: value_and_pull(lambda x: gaussian_dropout(KEY, x, rate), X), n=1
        )
    )
    for rate in (0.0, 0.1, 0.5, 0.95):
        assert_close(
            traced(rate), value_and_pull(lambda x, rate=rate: gaussian_dropout(KEY, x, rate), X)
        )
    chex.assert_tree_all_finite(traced(1.0))
    np.testing.assert_allclose(traced(1.0)[0], traced(1 - 2.0**-23)[0], rtol=1e-5)
    chex.assert_tree_all_finite(gaussian_dropout(KEY, X, jnp.array([0, 0.5, 1, 1])))


# -- sums


@each_of("function", ADDITIVE)
def test_sums_store_nothing(function: Callable[..., jax.Array]) -> None:
    pull = jax.eval_shape(lambda x: jax.vjp(lambda x: function(KEY, x, 0.3), x)[1], X)
    assert jax.tree.leaves(pull) == []


@each_of("function", ADDITIVE)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_sums_keep_the_dtype(function: Callable[..., jax.Array], dtype: str) -> None:
    x = X.astype(dtype)
    y = function(KEY, x, 0.3)
    np.testing.assert_array_equal(y, function(KEY, x.astype(jnp.float32), 0.3).astype(dtype))
    assert y.dtype == dtype


@each_of("function", ADDITIVE)
def test_sums_take_no_complex_numbers(function: Callable[..., jax.Array]) -> None:
    with pytest.raises(
        TypeError,
        match=r"takes real x, got dtype complex64, for it adds real noise\. Add noise to its real",
    ):
        function(KEY, X.astype(jnp.complex64), 0.3)


def test_nothing_is_hidden() -> None:
    """NaN stays NaN."""
    for function in (gaussian_dropout, gaussian_noise, uniform_dropout, neftune):
        np.testing.assert_array_equal(
            jnp.isnan(function(KEY, X.at[0].set(jnp.nan), 0.3)), jnp.isnan(X.at[0].set(jnp.nan))
        )


# -- NEFTune

LENGTHS = np.array([6, 1, 3, 0, 6, 2, 5, 4])
MASK = jnp.arange(6)[None] < LENGTHS[:, None]


def test_neftune_equals_the_published_code() -> None:
    """`mag_norm = alpha / sqrt(L * d)`, `embed + zeros_like(embed).uniform_(-mag_norm, mag_norm)`,
    given our noise.
    """
    torch = require("torch")
    embed = torch.tensor(np.asarray(X))
    uniform = torch.tensor(
        np.asarray(neftune(KEY, jnp.zeros_like(X), 1.0) * np.float32(np.sqrt(24)))
    )
    mag_norm = 5 / torch.sqrt(torch.tensor(embed.size(1) * embed.size(2)))
    np.testing.assert_allclose(
        neftune(KEY, X, 5.0), embed + uniform * mag_norm, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [bool, jnp.int32, jnp.uint8])
def test_neftune_leaves_padding_alone(dtype: Any) -> None:
    noise = np.asarray(neftune(KEY, jnp.zeros_like(X), 5.0))
    masked = np.asarray(neftune(KEY, jnp.zeros_like(X), 5.0, mask=MASK.astype(dtype)))
    scale = np.sqrt(6 / np.maximum(LENGTHS, 1))[:, None, None]
    np.testing.assert_allclose(
        masked, np.where(np.asarray(MASK)[..., None], noise * scale, 0), rtol=1e-5
    )


def test_padding_does_not_change_the_amount_of_noise() -> None:
    """A sequence of 6 tokens, in the first rows of a longer array. Ideal noise fails with a
    probability of 1e-6.
    """
    zeros = jnp.zeros((4096, 12, 8))
    noise = np.asarray(
        neftune(KEY, zeros, 5.0, mask=jnp.broadcast_to(jnp.arange(12) < 6, (4096, 12)))
    )[:, :6]
    assert (
        stats.kstest(noise.ravel(), stats.uniform(-5 / np.sqrt(48), 10 / np.sqrt(48)).cdf).pvalue
        > 1e-6
    )


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "spec", [P(None, "a"), P("a", None, "b"), P("b", ("a",)), P("b", None, "a")]
)
@pytest.mark.parametrize("masked", [False, True])
def test_neftune_counts_the_whole_length_and_width(spec: PartitionSpec, masked: bool) -> None:
    mesh = jax.make_mesh(
        (2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )
    local = jax.shard_map(
        lambda x, mask: neftune(KEY, x, 5.0, mask=mask if masked else None, spec=spec),
        mesh=mesh,
        in_specs=(spec, P(*spec[:2])),
        out_specs=spec,
    )
    np.testing.assert_array_equal(
        jax.jit(local)(X, MASK), neftune(KEY, X, 5.0, mask=MASK if masked else None)
    )


# -- bad input


@pytest.mark.sweep(keep=6)
@each_of("function", list(AMOUNTS))
@pytest.mark.parametrize(
    ("amount", "error", "match"),
    [
        (-0.1, ValueError, r" must lie in \[0, infinity\), got -0.1"),
        (np.inf, ValueError, " must lie in .*, got inf"),
        (np.nan, ValueError, " must lie in .*, got nan"),
        ("1", TypeError, r" must be a real number in \[0, infinity\), got '1'"),
        (True, TypeError, " must be a real number in"),
        (
            jnp.ones(3),
            ValueError,
            r" has shape \(3,\), which does not broadcast to the mask's shape",
        ),
    ],
)
def test_bad_amounts(
    function: Callable[..., jax.Array], amount: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=AMOUNTS[function] + match):
        function(KEY, X, amount)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"x": jnp.ones(3)},
            ValueError,
            r"x must be embeddings of shape \(..., length, width\), got shape \(3,\)",
        ),
        (
            {"mask": MASK[:, :5]},
            ValueError,
            r"mask must have the shape of x without its last axis, \(8, 6\), got \(8, 5\)",
        ),
        (
            {"mask": MASK.astype(jnp.float32)},
            TypeError,
            "mask must hold booleans, or integers 0 and 1, got dtype float32",
        ),
        ({"x": jnp.ones((8, 6), int)}, TypeError, "neftune scales what it keeps"),
        ({"mask": np.full((8, 6), 2)}, ValueError, "integers 0 and 1, but it holds others"),
        ({"mask": "all"}, TypeError, "mask must be an array of booleans, or integers 0 and 1, got"),
        ({"key": None}, ValueError, "neftune is stochastic here and needs a key"),
    ],
)
def test_bad_embeddings(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        neftune(**{"key": KEY, "x": X, "alpha": 5.0} | options)


def test_a_rounding_barrier_changes_no_value() -> None:
    """Nor derivative, nor infinities and NaN, but where all is said to be finite."""
    most = np.finfo(np.float32).max
    finite = np.float32([0, -1.5, most, -most, 1e-30])
    special = np.float32([np.inf, -np.inf, np.nan, 2])
    for x, options in (
        (finite, {"finite": True}),
        (finite, {}),
        (special, {}),
        (np.stack([special, special[::-1]], -1).view(np.complex64)[:, 0], {}),
    ):
        run = functools.partial(_compiler.rounding_barrier, **options)
        y, tangent = jax.jvp(run, (jnp.asarray(x),), (jnp.ones_like(x),))
        np.testing.assert_array_equal(y, x, strict=True)
        np.testing.assert_array_equal(tangent, np.ones_like(x))


def test_neftune_of_one_sequence() -> None:
    """Without a batch, with and without a mask."""
    one = jnp.zeros((6, 4))
    noise = np.asarray(neftune(KEY, one, 5.0))
    assert 0.9 * 5 / np.sqrt(24) < np.abs(noise).max() <= 5 / np.sqrt(24)
    masked = neftune(KEY, one, 5.0, mask=np.array([1, 1, 1, 0, 0, 0]))
    np.testing.assert_allclose(masked[:3], noise[:3] * np.sqrt(2), rtol=1e-6)
    assert not masked[3:].any()
