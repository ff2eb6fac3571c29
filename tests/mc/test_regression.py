"""Moments, likelihoods and quantiles of regressions, against values computed in float64 elsewhere,
and against SciPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from scipy import optimize, special, stats

from jaxdrop import mc

# Values in float64 by numpy and scipy, for these samples of shape (50, 5), these targets, and tau =
# 4.
SAMPLES = np.random.RandomState(0).randn(50, 5) * [0.1, 0.5, 1, 2, 0.01] + [0, 1, -1, 3, 10]
TARGETS = np.array([0.05, 2.0, -1.2, -1.0, 10.5])
TAU = 4.0
MEAN = [
    -0.011672445689234041,
    1.076151558698262,
    -0.9837590890213045,
    2.9826496412312595,
    10.001157590972207,
]
EPISTEMIC = [
    0.011023952224224556,
    0.20902426052736778,
    0.7709477960521108,
    5.3198421371793385,
    8.761707026583273e-05,
]
TOTAL = [
    0.26102395222422453,
    0.4590242605273678,
    1.020947796052111,
    5.5698421371793385,
    0.25008761707026583,
]
LOG_LIKELIHOOD = [
    -0.25484807499177553,
    -1.405165275206722,
    -0.9998966114314923,
    -3.1280317409128986,
    -0.7234806909430677,
]

VARIANCE = np.random.default_rng(0).uniform(0.05, 2.0, SAMPLES.shape)
NOISE = jnp.float32(VARIANCE)


def _mixture_cdf(y: float, column: int, sd: np.ndarray | float) -> float:
    return float(special.ndtr((y - SAMPLES[:, column]) / sd).mean())


def test_known_moments() -> None:
    summary = mc.regression(SAMPLES, tau=TAU)
    assert int(summary.num_samples) == 50
    np.testing.assert_allclose(summary.mean, MEAN, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(summary.epistemic_variance, EPISTEMIC, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(summary.aleatoric_variance, 1 / TAU)
    np.testing.assert_allclose(summary.total_variance, TOTAL, rtol=1e-6)
    np.testing.assert_allclose(summary.standard_error, stats.sem(SAMPLES), rtol=1e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("size", [8, 100, 1000])
def test_small_variance_around_a_large_mean(size: int) -> None:
    """The mean is 1e6 standard deviations, and rounding moves it by several percent of one.

    As `E[x^2] - E[x]^2` in float32 the variance would be off by a factor of 1e5, and about a
    rounded mean by 2 to 5 percent.
    """
    samples = np.float32(1e6 + np.random.default_rng(0).normal(size=(size, 20)))
    exact = np.float64(samples)
    parts = [mc.regression(part, tau=1.0) for part in np.array_split(samples, 7)]
    for summary in (mc.regression(samples, tau=1.0), functools.reduce(mc.Regression.merge, parts)):
        np.testing.assert_allclose(summary.epistemic_variance, exact.var(0), rtol=2e-6)
        np.testing.assert_allclose(
            np.float64(summary.mean) + np.float64(summary.mean_residual), exact.mean(0), rtol=1e-12
        )
    groups = mc.regression(samples, tau=1.0, groups=4)
    expected = stats.sem(exact.reshape(4, size // 4, 20).mean(1), axis=0)
    np.testing.assert_allclose(groups.standard_error, expected, rtol=1e-5)


def test_predicted_noise() -> None:
    summary = mc.regression(SAMPLES, variance=VARIANCE)
    np.testing.assert_allclose(summary.aleatoric_variance, VARIANCE.mean(0), rtol=1e-6)
    np.testing.assert_allclose(summary.total_variance, SAMPLES.var(0) + VARIANCE.mean(0), rtol=1e-6)
    np.testing.assert_allclose(summary.std, np.sqrt(SAMPLES.var(0) + VARIANCE.mean(0)), rtol=1e-6)


def test_one_sample() -> None:
    summary = mc.regression(SAMPLES[:1], tau=jnp.inf)
    np.testing.assert_array_equal(summary.total_variance, 0)
    assert np.isnan(summary.standard_error).all()


def test_the_gaussian_with_these_moments() -> None:
    summary = mc.regression(SAMPLES, tau=TAU)
    law = stats.norm(MEAN, np.sqrt(TOTAL))
    np.testing.assert_allclose(
        np.stack(summary.interval(0.9)), np.stack(law.interval(0.9)), rtol=1e-5
    )
    np.testing.assert_allclose(summary.cdf(TARGETS), law.cdf(TARGETS), rtol=1e-5)


def test_without_noise_the_gaussian_is_a_step() -> None:
    summary = mc.regression(np.float32([[1, 1, 1, np.nan]] * 2), tau=np.inf)
    np.testing.assert_array_equal(summary.cdf(np.float32([0.9, 1, 1.1, 1])), [0, 1, 1, np.nan])
    np.testing.assert_array_equal(
        summary.cdf(np.float32([0.9, np.nan, 1.1, np.nan])), [0, np.nan, 1, np.nan]
    )


@given(
    samples=arrays(np.float32, (4, 2, 3), elements=st.floats(-100, 100, width=32)),
    cuts=st.sets(st.integers(1, 3)).map(sorted),
    backwards=st.booleans(),
)
def test_groups_merge_to_the_whole(samples: np.ndarray, cuts: list[int], backwards: bool) -> None:
    def summarize(part: np.ndarray) -> mc.Regression:
        return mc.regression(part, variance=part**2 + 1)

    parts = [summarize(part) for part in np.split(samples, cuts)]
    merged = functools.reduce(mc.Regression.merge, reversed(parts) if backwards else parts)
    size = np.abs(samples).max() + 1
    jax.tree.map(
        lambda part, all_: np.testing.assert_allclose(part, all_, rtol=1e-5, atol=2e-6 * size**2),
        merged,
        summarize(samples),
    )


def test_mapped_summaries_merge() -> None:
    mapped = jax.vmap(lambda samples: mc.regression(samples, tau=TAU), in_axes=1)
    samples = jnp.asarray(SAMPLES).reshape(50, 5, 1)
    merged = mapped(samples[:20]).merge(mapped(samples[20:]))
    np.testing.assert_allclose(merged.total_variance[:, 0], TOTAL, rtol=1e-5)
    np.testing.assert_allclose(merged.standard_error[:, 0], stats.sem(SAMPLES), rtol=1e-4)


# -- the mixture


def test_known_likelihoods() -> None:
    found = mc.log_likelihood(TARGETS, SAMPLES, tau=TAU)
    np.testing.assert_allclose(found, LOG_LIKELIHOOD, rtol=1e-6)
    np.testing.assert_allclose(found.mean(), -1.302284478697191, rtol=1e-6)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("output_axes", [0, 1, 2])
@pytest.mark.parametrize("predicted", [False, True])
def test_likelihood_of_several_outputs(output_axes: int, predicted: bool) -> None:
    shape = (10, 5, 5)
    samples, variance, y = SAMPLES.reshape(shape), VARIANCE.reshape(shape), np.tile(TARGETS, (5, 1))
    noise = {"variance": variance} if predicted else {"tau": TAU}
    sd = np.sqrt(variance) if predicted else TAU**-0.5
    joint = stats.norm.logpdf(y, samples, sd).sum(tuple(range(3 - output_axes, 3)))
    found = mc.log_likelihood(y, samples, **noise, output_axes=output_axes)
    np.testing.assert_allclose(found, special.logsumexp(joint, axis=0) - np.log(10), rtol=2e-5)


def test_a_precision_for_each_output() -> None:
    tau = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    expected = special.logsumexp(stats.norm.logpdf(TARGETS, SAMPLES, tau**-0.5), axis=0) - np.log(
        50
    )
    np.testing.assert_allclose(mc.log_likelihood(TARGETS, SAMPLES, tau=tau), expected, rtol=1e-5)
    np.testing.assert_allclose(
        mc.regression(SAMPLES, tau=tau).aleatoric_variance, 1 / tau, rtol=1e-6
    )


def test_targets_far_from_all_samples() -> None:
    """Their densities are 0 in float32."""
    y = TARGETS + 100
    expected = special.logsumexp(stats.norm.logpdf(y, SAMPLES, TAU**-0.5), axis=0) - np.log(50)
    np.testing.assert_allclose(mc.log_likelihood(y, SAMPLES, tau=TAU), expected, rtol=1e-6)


def test_likelihood_has_gradients() -> None:
    def loss(y: jax.Array, samples: jax.Array, tau: jax.Array) -> jax.Array:
        return mc.log_likelihood(y, samples, tau=tau)

    arguments = [jnp.asarray(x, jnp.float32) for x in (TARGETS, SAMPLES[:4], TAU)]
    check_grads(loss, arguments, order=1, modes=("rev",), rtol=2e-2, atol=2e-2)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("predicted", [False, True])
def test_cdf_and_quantiles_of_the_mixture(predicted: bool) -> None:
    noise = {"variance": VARIANCE} if predicted else {"tau": TAU}
    sd = np.sqrt(VARIANCE) if predicted else np.full_like(SAMPLES, TAU**-0.5)
    expected = [_mixture_cdf(y, column, sd[:, column]) for column, y in enumerate(TARGETS)]
    np.testing.assert_allclose(mc.cdf(TARGETS, SAMPLES, **noise), expected, rtol=1e-5, atol=1e-6)

    q = np.array([[0.025, 0.5, 0.975]])
    found = mc.quantiles(SAMPLES, q, **noise)
    assert found.shape == (1, 3, 5)
    for column in range(5):
        for number, value in zip(q[0], found[0, :, column], strict=True):
            exact = optimize.brentq(
                lambda y, q=number, i=column: _mixture_cdf(y, i, sd[:, i]) - q, -50, 50
            )
            np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.stack(mc.interval(SAMPLES, 0.95, **noise)), found[0, [0, 2]])


def test_quantiles_without_noise_are_those_of_the_samples() -> None:
    q = np.array(
        [0.02, 0.11, 0.5, 0.5, 0.73, 0.999]
    )  # of 50 samples, 0.02 and 0.5 are whole numbers of them
    expected = np.quantile(np.float32(SAMPLES), q, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(mc.quantiles(SAMPLES, q, tau=jnp.inf), expected, rtol=1e-6)
    # To the last bit where the samples are of one sign and size: the search reaches its ends.
    samples = 1 + np.float32(np.random.default_rng(0).random((50, 200)))
    for q, expected in ((0.02, samples.min(0)), (0.99, samples.max(0))):
        np.testing.assert_array_equal(mc.quantiles(samples, q, tau=jnp.inf), expected)
    np.testing.assert_allclose(
        mc.cdf(SAMPLES[7], SAMPLES, tau=jnp.inf), stats.rankdata(SAMPLES, axis=0)[7] / 50, rtol=1e-6
    )


def test_an_interval_of_two_modes_has_their_shape() -> None:
    """The Gaussian with the same moments reaches far beyond both."""
    samples = np.repeat(np.float32([[-10.0], [10.0]]), 10, axis=0)
    lower, upper = mc.interval(samples, 0.9, tau=100.0)
    np.testing.assert_allclose(
        [lower[0], upper[0]], np.array([-10, 10]) + stats.norm.ppf([0.1, 0.9]) / 10, rtol=1e-5
    )
    assert mc.regression(samples, tau=100.0).interval(0.9)[1][0] > 16


def test_nan_stays_nan() -> None:
    """One that is missing is not one above, or one without noise."""
    samples, y = np.float32(SAMPLES).copy(), np.float32(TARGETS).copy()
    samples[3, 1], y[2] = np.nan, np.nan
    bad = [False, True, True, False, False]
    for tau in (TAU, np.inf):
        np.testing.assert_array_equal(np.isnan(mc.cdf(y, samples, tau=tau)), bad)
        np.testing.assert_array_equal(
            np.isnan(mc.quantiles(samples, 0.5, tau=tau)), [False, True, False, False, False]
        )


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (
            lambda tau: mc.regression(SAMPLES, tau=tau).total_variance,
            np.float32([4, 0, -1, np.nan, 2]),
        ),
        (lambda tau: mc.cdf(TARGETS, SAMPLES, tau=tau), np.float32([4, 0, -1, np.nan, 2])),
        (lambda tau: mc.quantiles(SAMPLES, 0.5, tau=tau), np.float32([4, 0, -1, np.nan, 2])),
        (
            lambda tau: mc.log_likelihood(TARGETS, SAMPLES, tau=tau),
            np.float32([4, 0, -1, np.inf, 2]),
        ),
        (
            lambda v: mc.regression(SAMPLES, variance=v[None] * NOISE).std,
            np.float32([1, np.nan, -1, np.inf, 0]),
        ),
        (
            lambda v: mc.log_likelihood(TARGETS, SAMPLES, variance=v[None] * NOISE),
            np.float32([1, 0, -1, np.inf, 2]),
        ),
        (lambda q: mc.quantiles(SAMPLES[:, 0], q, tau=TAU), np.float32([0.5, 0, 1, -1, 0.1])),
    ],
)
def test_what_is_impossible_is_nan_where_it_is_not_known(
    call: Callable[[jax.Array], jax.Array], argument: np.ndarray
) -> None:
    """The second to fourth entry; where values are known it is a ValueError."""
    np.testing.assert_array_equal(
        np.isnan(jax.jit(call)(argument)), [False, True, True, True, False]
    )
    with pytest.raises(ValueError, match="must lie in"):
        call(argument)


def test_coverage_that_is_not_known() -> None:
    summary = mc.regression(SAMPLES[:, 0], tau=TAU)
    lower, upper = jax.vmap(summary.interval)(np.float32([0.9, 0, -0.5, 1, 2, np.nan]))
    np.testing.assert_allclose([lower[0], upper[0]], summary.interval(0.9), rtol=1e-6)
    assert np.isnan([lower[1:], upper[1:]]).all()


# -- bad input


@pytest.mark.parametrize(
    "function",
    [mc.regression, lambda samples, **noise: mc.log_likelihood(TARGETS, samples, **noise)],
)
def test_the_noise_is_said_by_the_caller(function: object) -> None:
    with pytest.raises(TypeError, match=r"needs the noise of the observations, .* got neither"):
        function(SAMPLES)
    with pytest.raises(TypeError, match=r"needs the noise of the observations, .* got both"):
        function(SAMPLES, tau=1.0, variance=VARIANCE)


@pytest.mark.parametrize("tau", [0.0, -1.0, np.nan, np.array([1.0, 1.0, -2.0, 1.0, 1.0])])
def test_precision_out_of_range(tau: object) -> None:
    with pytest.raises(ValueError, match=r"tau must lie in \(0, infinity\], got"):
        mc.regression(SAMPLES, tau=tau)


def test_no_likelihood_without_noise() -> None:
    with pytest.raises(ValueError, match=r"tau must lie in \(0, infinity\), got inf"):
        mc.log_likelihood(TARGETS, SAMPLES, tau=jnp.inf)
    with pytest.raises(ValueError, match=r"variance must lie in \(0, infinity\), got 0"):
        mc.log_likelihood(TARGETS, SAMPLES, variance=0 * SAMPLES)


def test_a_log_variance_is_no_variance() -> None:
    with pytest.raises(ValueError, match=r"variance must lie in \[0, infinity\), got -"):
        mc.regression(SAMPLES, variance=np.log(VARIANCE))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"y, and takes it first, of the shape of one sample, \(5, 1\), got \(5,\)"
    ):
        mc.log_likelihood(TARGETS, SAMPLES[..., None], tau=TAU)
    with pytest.raises(
        ValueError, match=r"variance has one entry for each of samples, shape \(50, 5\), got \(5,\)"
    ):
        mc.regression(SAMPLES, variance=VARIANCE[0])
    with pytest.raises(
        ValueError, match=r"tau of shape \(3,\) does not broadcast to that of a sample, \(5,\)"
    ):
        mc.regression(SAMPLES, tau=np.ones(3))
    with pytest.raises(
        ValueError,
        match=r"samples must have shape \(S, \.\.\.\) with at least one sample, got \(0, 5\)",
    ):
        mc.regression(SAMPLES[:0], tau=TAU)
    with pytest.raises(
        ValueError, match=r"output_axes must lie in \[0, 1\], the number of axes of y, got 2"
    ):
        mc.log_likelihood(TARGETS, SAMPLES, tau=TAU, output_axes=2)
    with pytest.raises(TypeError, match="regression takes floating samples, got int"):
        mc.regression(np.ones((2, 3), int), tau=TAU)


@pytest.mark.parametrize("q", [0.0, 1.0, 95.0, np.array([0.5, np.nan])])
def test_probability_out_of_range(q: object) -> None:
    with pytest.raises(ValueError, match=r"q must lie in \(0, 1\), got"):
        mc.quantiles(SAMPLES, q, tau=TAU)
    if np.ndim(q) == 0:
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\), got"):
            mc.interval(SAMPLES, q, tau=TAU)
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\), got"):
            mc.regression(SAMPLES, tau=TAU).interval(q)
