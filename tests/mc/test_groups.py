"""The error of a mean over samples of which only groups are independent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxdrop
from jaxdrop import mc
from tests.compilation import quick

X = jax.random.normal(jax.random.key(0), (4, 6))
WEIGHTS = [
    jax.random.normal(jax.random.key(seed), shape)
    for seed, shape in enumerate([(6, 16), (16, 16), (16, 3)])
]
SAMPLES = np.float32(np.random.default_rng(0).normal(2, 1, (12, 4, 3)))

SUMMARIES: dict[str, Callable[..., Any]] = {
    "classification": lambda samples, **groups: mc.classification(logits=samples, **groups),
    "probabilities": lambda samples, **groups: mc.classification(
        probs=jax.nn.softmax(samples), **groups
    ),
    "binary": lambda samples, **groups: mc.classification(logits=samples, binary=True, **groups),
    "regression": lambda samples, **groups: mc.regression(samples, tau=1.0, **groups),
}
VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "classification": functools.partial(special.softmax, axis=-1),
    "probabilities": functools.partial(special.softmax, axis=-1),
    "binary": lambda x: np.stack([special.expit(-x), special.expit(x)], axis=-1),
    "regression": lambda x: x,
}


def _network(key: jax.Array, rate: float = 0.5) -> jax.Array:
    first, second = jax.random.split(key)
    hidden = jaxdrop.dropout(first, jax.nn.relu(X @ WEIGHTS[0]), rate)
    return jaxdrop.dropout(second, jax.nn.relu(hidden @ WEIGHTS[1] / 4), rate) @ WEIGHTS[2] / 4


@pytest.mark.parametrize("strategy", ["stratified", "antithetic", "independent"])
def test_each_group_has_a_key_of_its_own(strategy: mc.Strategy) -> None:
    key = jaxdrop.key(3)
    words = jax.random.key_data(mc.keys(key, 12, strategy, groups=3)).reshape(3, 4, -1)
    for r in range(3):
        alone = mc.keys(jax.random.fold_in(key, r), 4, strategy)
        np.testing.assert_array_equal(words[r], jax.random.key_data(alone))
    one = jax.random.key_data(mc.keys(key, 12, strategy, groups=1))
    np.testing.assert_array_equal(one, jax.random.key_data(mc.keys(key, 12, strategy)))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", SUMMARIES)
@pytest.mark.parametrize("groups", [4, 12])
def test_the_error_of_a_mean_of_groups_is_that_of_their_means(name: str, groups: int) -> None:
    """In float64; also if the groups are summarized one by one, and merged."""
    means = VALUES[name](np.float64(SAMPLES)).reshape(groups, 12 // groups, 4, -1).mean(1)
    expected = stats.sem(means, axis=0)

    @quick
    def both(samples: jax.Array) -> list[Any]:
        parts = [SUMMARIES[name](part).as_one_group() for part in jnp.split(samples, groups)]
        return [
            SUMMARIES[name](samples, groups=groups),
            functools.reduce(lambda one, other: one.merge(other), parts),
        ]

    for summary in both(SAMPLES):
        np.testing.assert_allclose(
            summary.standard_error.reshape(expected.shape), expected, rtol=1e-4
        )
        assert summary.num_groups == groups


def test_groups_of_different_sizes() -> None:
    """`sum_r n_r (m_r - m)^2 / (S (R - 1))`; what has no groups merges as single samples."""
    summarize = SUMMARIES["regression"]
    parts = [SAMPLES[:6], SAMPLES[6:9], *SAMPLES[9:, None]]
    merged = functools.reduce(
        mc.Regression.merge, [summarize(part).as_one_group() for part in parts[:2]]
    )
    merged = merged.merge(summarize(SAMPLES[9:]))
    sizes, means = (
        np.array([f(part) for part in map(np.float64, parts)])
        for f in (len, functools.partial(np.mean, axis=0))
    )
    expected = np.sqrt(
        np.tensordot(sizes, (means - np.float64(SAMPLES).mean(0)) ** 2, 1) / (12 * 4)
    )
    np.testing.assert_allclose(merged.standard_error, expected, rtol=1e-5)
    assert merged.num_groups == 5


def test_one_group_says_nothing_of_its_error() -> None:
    summary = mc.regression(SAMPLES, tau=1.0, groups=1)
    assert np.isnan(summary.standard_error).all()
    np.testing.assert_allclose(summary.epistemic_variance, np.float64(SAMPLES).var(0), rtol=1e-5)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("batch_size", "summary"),
    [(3, None), (99, None), (3, functools.partial(mc.regression, tau=1.0))],
)
def test_moments_of_groups(batch_size: int, summary: Callable[[jax.Array], Any] | None) -> None:
    keys = mc.keys(jaxdrop.key(0), 12, groups=3)
    expected = stats.sem(
        np.float64(quick(jax.vmap(_network))(keys)).reshape(3, 4, 4, 3).mean(1), axis=0
    )
    found = mc.moments(_network, keys, groups=3, batch_size=batch_size, summary=summary)
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-3)


@jax.jit
def _errors(keys: jax.Array) -> dict[str, jax.Array]:
    """Mean of the samples, and the squared standard error with and without groups, for each row of
    keys.
    """

    def one(keys: jax.Array) -> dict[str, jax.Array]:
        probs = jax.nn.softmax(jax.vmap(_network)(keys))
        found = {groups: mc.classification(probs=probs, groups=groups) for groups in (5, None)}
        return {
            "mean": found[None].mean,
            "groups": found[5].standard_error ** 2,
            "none": found[None].standard_error ** 2,
        }

    return jax.lax.map(one, keys)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("strategy", "least"), [("stratified", 2.0), ("antithetic", 1.3), ("independent", 0.9)]
)
def test_the_reported_error_is_the_true_one(strategy: mc.Strategy, least: float) -> None:
    """Over 300 sets of 5 groups of 20 samples of a network with two dropout layers.

    Squares, averaged over 12 outputs and all sets: the ratio is known to some 5 %. Without groups
    it is `least` at least.
    """
    keys = jax.vmap(lambda key: mc.keys(key, 100, strategy, groups=5))(
        jax.random.split(jaxdrop.key(7), 300)
    )
    found = _errors(keys)
    true = found["mean"].var(0, ddof=1).mean()
    assert 0.85 < found["groups"].mean() / true < 1.2
    assert found["none"].mean() / true > least


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mc.keys(jaxdrop.key(0), 10, groups=3),
            ValueError,
            "groups=3 must divide the number of samples, 10",
        ),
        (
            lambda: mc.keys(jaxdrop.key(0), 10, groups=0),
            ValueError,
            "groups must be at least 1, got 0",
        ),
        (
            lambda: mc.keys(jaxdrop.key(0), 10, groups=2.0),
            TypeError,
            r"groups must be an integer, got 2\.0",
        ),
        (lambda: mc.regression(SAMPLES, tau=1.0, groups=5), ValueError, "groups=5 must divide"),
        (lambda: mc.classification(logits=SAMPLES, groups=5), ValueError, "groups=5 must divide"),
        (
            lambda: mc.moments(_network, mc.keys(jaxdrop.key(0), 4), groups=3),
            ValueError,
            "groups=3 must divide",
        ),
        (lambda: mc.plots.standard_error(SAMPLES, groups=5), ValueError, "groups=5 must divide"),
        (
            lambda: mc.plots.standard_error(SAMPLES, groups=1),
            ValueError,
            "groups must be at least 2, got 1",
        ),
    ],
)
def test_bad_groups(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
