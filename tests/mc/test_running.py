"""Statistics in one pass: equal to those of all samples at once, whatever the chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxdrop
from jaxdrop import mc

X = jax.random.normal(jax.random.key(1), (3, 4))
W = jax.random.normal(jax.random.key(2), (4, 5))
KEYS = mc.keys(jaxdrop.key(0), 10, "independent")


def _logits(key: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, jnp.sin(X), 0.5) @ W


def _outputs(key: jax.Array) -> dict[str, object]:
    logits = _logits(key)
    return {
        "logits": logits,
        "parts": (logits.astype(jnp.bfloat16), (logits > 0).sum(), logits[0] > 0),
        "nothing": None,
    }


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("batch_size", [1, 3, 5, 99])
def test_moments_are_those_of_all_samples(batch_size: int) -> None:
    """In float64, for every chunk size; short floats, integers and booleans too."""
    found = jax.jit(lambda keys: mc.moments(_outputs, keys, batch_size=batch_size))(KEYS)
    samples = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(jax.vmap(_outputs))(KEYS))
    assert found.num_samples == 10
    close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)
    jax.tree.map(lambda x, y: close(x, y.mean(0)), found.mean, samples)
    jax.tree.map(lambda x, y: close(x, y.var(0)), found.variance, samples)
    jax.tree.map(
        lambda x, y: close(x, special.logsumexp(y, axis=0) - np.log(10)),
        found.log_mean_exp,
        samples,
    )
    jax.tree.map(lambda x, y: close(x, stats.sem(y, axis=0)), found.standard_error, samples)
    assert {x.dtype for x in jax.tree.leaves(found.mean)} == {np.dtype(np.float32)}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("batch_size", [1, 7, 99])
def test_large_means_do_not_swallow_the_variance(batch_size: int) -> None:
    """The mean is 1e6 standard deviations: its rounding alone, in every chunk, would be several
    percent of one.
    """
    keys = mc.keys(jaxdrop.key(0), 60, "independent")

    def fn(key: jax.Array) -> jax.Array:
        return 1e6 + jax.random.normal(key, (20,))

    exact = np.float64(jax.jit(jax.vmap(fn))(keys))
    found = mc.moments(fn, keys, batch_size=batch_size)
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=2e-6)
    np.testing.assert_allclose(found.standard_error, stats.sem(exact), rtol=2e-6)


def test_infinite_samples() -> None:
    """Log-likelihoods of -inf: the mean is -inf, in one chunk or in several."""
    keys = mc.keys(jaxdrop.key(0), 4)
    found = [
        mc.moments(
            lambda key: jnp.log(jnp.floor(2 * jax.random.uniform(key))), keys, batch_size=size
        )
        for size in (1, 4)
    ]
    for moments in found:
        assert np.isneginf(moments.mean)
        np.testing.assert_allclose(moments.log_mean_exp, np.log(0.5), rtol=1e-6)


def test_large_logarithms() -> None:
    """Log-likelihoods far below what exp can hold, and -inf."""
    scores = np.array(
        [
            [-2000.0, -np.inf, 0.0],
            [-2001.0, -np.inf, -np.inf],
            [-1999.0, -np.inf, 3.0],
            [-2000.5, -np.inf, 1.0],
        ]
    )
    keys = mc.keys(jaxdrop.key(0), 4)

    def row(key: jax.Array) -> jax.Array:
        return jnp.asarray(scores, jnp.float32)[
            jnp.argmax(jax.vmap(lambda other: other == key)(keys))
        ]

    found = mc.moments(row, keys, batch_size=3)
    np.testing.assert_allclose(
        found.log_mean_exp, special.logsumexp(scores, axis=0) - np.log(4), rtol=1e-6
    )


def test_one_sample() -> None:
    found = mc.moments(_logits, KEYS[:1])
    np.testing.assert_array_equal(found.variance, np.zeros((3, 5)))
    assert np.isnan(found.standard_error).all()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    "summary", [lambda x: mc.classification(logits=x), lambda x: mc.regression(x, tau=2.0)]
)
def test_other_summaries(summary: Callable[[jax.Array], object]) -> None:
    found = jax.jit(lambda keys: mc.moments(_logits, keys, summary=summary, batch_size=4))(KEYS)
    expected = summary(jax.jit(jax.vmap(_logits))(KEYS))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )


def test_gradients_are_those_of_all_samples() -> None:
    def loss(scale: jax.Array, batch_size: int) -> jax.Array:
        found = mc.moments(lambda key: scale * _logits(key), KEYS, batch_size=batch_size)
        return found.mean.sum() + found.variance.sum() + found.log_mean_exp.sum()

    gradients = [
        jax.jit(jax.grad(lambda scale, size=size: loss(scale, size)))(2.0) for size in (10, 4)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


def test_memory_does_not_grow_with_the_samples() -> None:
    x = jnp.ones((40, 500))

    def needed(num: int) -> int:
        run = jax.jit(
            lambda keys, x: mc.moments(lambda key: jaxdrop.dropout(key, x, 0.5).sum(1), keys)
        )
        return (
            run.lower(mc.keys(jaxdrop.key(0), num), x)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert needed(3200) < 1.1 * needed(64)


# -- until


@functools.partial(jax.jit, static_argnames=("most", "strategy", "size"))
def _until(
    key: jax.Array,
    tolerance: float,
    most: int,
    strategy: mc.Strategy = "stratified",
    size: int = 8,
) -> mc.Reached:
    return mc.until(
        _noise, key, tolerance=tolerance, max_samples=most, batch_size=size, strategy=strategy
    )


def _noise(key: jax.Array) -> jax.Array:
    """Of mean 1 and variance 1, and neither symmetric nor linear in what is drawn."""
    return -jnp.log1p(-jax.random.uniform(key, (3, 4)))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("most", "strategy"), [(43, "independent"), (43, "stratified"), (32, "antithetic")]
)
def test_the_maximum_is_kept_exactly(most: int, strategy: mc.Strategy) -> None:
    """What cannot converge takes all samples that are allowed, and says so; the summary is that of
    those samples.
    """
    key = jaxdrop.key(0)
    found = _until(key, 1e-6, most, strategy)
    assert found.num_samples == found.summary.num_samples == most
    assert not found.converged
    if strategy == "independent":
        keys = mc.keys(key, most, strategy)
    else:
        sizes = [8] * (most // 8) + [most % 8] * (most % 8 > 0)
        keys = jnp.concatenate(
            [mc.keys(jax.random.fold_in(key, c), size, strategy) for c, size in enumerate(sizes)]
        )
    samples = np.asarray(jax.vmap(_noise)(keys), np.float64)
    np.testing.assert_allclose(found.summary.mean, samples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.summary.variance, samples.var(0), rtol=1e-5)
    if strategy == "independent":
        expected = stats.sem(samples, axis=0).max()
    else:
        means = samples[: most // 8 * 8].reshape(-1, 8, 3, 4).mean(1)
        expected = stats.sem(means, axis=0).max() * np.sqrt((most // 8 * 8) / most)
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-4)


def test_it_stops_when_the_error_is_small_enough() -> None:
    """Independent keys need about `(sd / tolerance)**2` samples: here 400, and some more for the
    largest of twelve errors.
    """
    found = _until(jaxdrop.key(1), 0.05, 4000, "independent")
    assert found.converged
    assert found.standard_error <= 0.05
    assert 300 < int(found.num_samples) < 900
    assert int(found.num_samples) % 8 == 0
    fewer = _until(jaxdrop.key(1), 0.05, 4000)
    assert fewer.converged
    assert int(fewer.num_samples) < int(found.num_samples) / 2


def test_four_chunks_at_least() -> None:
    found = _until(jaxdrop.key(1), 100.0, 4000)
    assert found.num_samples == 32
    assert found.converged


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("strategy", ["stratified", "independent"])
def test_the_error_is_that_of_the_mean(strategy: mc.Strategy) -> None:
    """Over 200 runs of 20 chunks, the mean squared deviation of 12 means from 1 is the estimated
    one.

    Its standard error is 0.03 of it, from 2,400 squares; that of the estimate, with 19 degrees of
    freedom, less than 0.01. The summary knows that chunks are groups, and says the same.
    """

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> tuple[jax.Array, ...]:
        mean_square = lambda errors: jnp.mean(errors**2)  # noqa: E731
        found = mc.until(
            _noise,
            key,
            tolerance=0.0,
            max_samples=160,
            batch_size=8,
            strategy=strategy,
            reduce=mean_square,
        )
        return (found.summary.mean - 1) ** 2, found.standard_error, found.summary.standard_error**2

    true, estimated, told = (float(x.mean()) for x in run(jax.random.split(jaxdrop.key(5), 200)))
    assert abs(true / estimated - 1) < 0.15
    assert abs(told / true - 1) < 0.15


def test_nan_does_not_converge() -> None:
    found = mc.until(
        lambda key: jax.random.uniform(key) * jnp.nan,
        jaxdrop.key(0),
        tolerance=1.0,
        max_samples=9,
        batch_size=2,
    )
    assert not found.converged
    assert found.num_samples == 9


def test_another_summary_decides() -> None:
    found = mc.until(
        _logits,
        jaxdrop.key(0),
        tolerance=0.02,
        max_samples=4000,
        batch_size=16,
        summary=lambda x: mc.classification(logits=x),
    )
    assert isinstance(found.summary, mc.Classification)
    assert found.converged
    exact = jax.nn.softmax(jax.vmap(_logits)(mc.keys(jaxdrop.key(1), 4000)), -1).mean(0)
    assert jnp.abs(found.summary.mean - exact).max() < 5 * 0.02


# -- merging what does not belong together


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (
            lambda x: {"a": x[:, :1]},
            ValueError,
            r"mean\['a'\] differ: float32\(3,\) and float32\(1,\)",
        ),
        (lambda x: {"b": x}, ValueError, r"one has .*mean\['a'\].* and the other .*mean\['b'\]"),
        (lambda x: {"a": x, "b": x}, ValueError, r"and the other .*mean\['b'\]"),
        (lambda x: x, ValueError, "summaries of the same inputs merge, but one has"),
        (
            lambda x: {"a": x.astype(jnp.float64)},
            ValueError,
            r"mean\['a'\] differ: float32\(3,\) and float64\(3,\)",
        ),
    ],
)
def test_moments_of_other_outputs(
    other: Callable[[jax.Array], object], error: type[Exception], message: str
) -> None:
    x = jax.random.normal(jax.random.key(0), (4, 3))
    one = jax.jit(lambda: mc.moments(lambda key: {"a": jax.random.uniform(key, (3,))}, KEYS))()
    with jax.enable_x64(True):
        second = mc.moments(
            lambda key: jax.tree.map(
                lambda x: x[0] * jax.random.uniform(key, dtype=x.dtype), other(x)
            ),
            KEYS,
        )
        with pytest.raises(error, match=message):
            one.merge(second)


def test_moments_of_the_same_samples() -> None:
    found = mc.moments(_logits, KEYS)
    with pytest.raises(ValueError, match="other must be a Moments of other samples, got itself"):
        found.merge(found)
    with pytest.raises(
        TypeError, match="other must be a Moments, which merges with one of its kind, got an array"
    ):
        found.merge(found.mean)


# -- bad input


def test_a_summary_that_cannot_be_merged() -> None:
    with pytest.raises(
        TypeError, match=r"summary must return something with a method merge\(other\)"
    ):
        mc.moments(_logits, KEYS, summary=lambda x: x.mean(0))


def test_complex_outputs() -> None:
    with pytest.raises(TypeError, match="real outputs, got complex"):
        mc.moments(lambda key: jax.lax.complex(jax.random.uniform(key), 0.0), KEYS)


def test_no_outputs() -> None:
    with pytest.raises(ValueError, match="fn must return an array or a pytree of arrays, got"):
        mc.moments(lambda key: {"a": None}, KEYS)


def test_too_few_samples_allowed() -> None:
    with pytest.raises(
        ValueError, match=r"max_samples=100 leaves fewer than 4 chunks of batch_size=32.*allow 128"
    ):
        mc.until(_logits, jaxdrop.key(0), tolerance=0.1, max_samples=100)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tolerance": -1.0}, ValueError, "tolerance must lie in"),
        ({"tolerance": "small"}, TypeError, "tolerance must be a real number"),
        ({"max_samples": 1e6}, TypeError, "max_samples must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"strategy": "sobol"}, ValueError, "strategy must be one of"),
        (
            {"key": mc.keys(jaxdrop.key(0), 2)[0]},
            ValueError,
            "already is the key of one Monte Carlo sample",
        ),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"key": jaxdrop.key(0), "tolerance": 0.1, "max_samples": 400} | change
    with pytest.raises(error, match=message):
        mc.until(_logits, **arguments)
