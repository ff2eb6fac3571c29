"""Evaluation against training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdrop
from jaxdrop import audit

pytestmark = pytest.mark.usefixtures("relaxed")

KEY = jaxdrop.key(3)
X = np.linspace(0.5, 1.5, 32, dtype=np.float32).reshape(4, 8)
W = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
RATE = 0.2


def evaluate(key: jax.Array, x: jax.Array) -> jax.Array:
    return x @ W


def train(key: jax.Array, x: jax.Array, scale: float = 1 / (1 - RATE)) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - RATE, x.shape), x * scale, 0) @ W


def compared(first: Any, second: Any, **options: Any) -> tuple[list[str], audit.Comparison]:
    found = audit.compare(first, second, X, key=KEY, **options)
    return [each.id for each in found.findings], found


def test_correct_functions_agree() -> None:
    ids, found = compared(evaluate, train)
    assert ids == []
    assert found.scale == pytest.approx(1, abs=0.02)
    assert found.worst < found.allowed == pytest.approx(stats.norm.isf(1e-3 / 2 / 12))
    assert "1000 keys, 12 entries" in str(found)


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1 - RATE), ((1 - RATE) ** -2, 1 / (1 - RATE))])
def test_a_scale_that_is_forgotten_or_applied_twice_shows(scale: float, factor: float) -> None:
    ids, found = compared(evaluate, lambda key, x: train(key, x, scale))
    assert ids == ["JD403"]
    assert found.scale == pytest.approx(factor, abs=0.02)


def test_evaluation_that_draws_and_training_that_does_not() -> None:
    assert compared(train, evaluate)[0] == ["JD401", "JD402", "JD403"]
    assert compared(evaluate, evaluate)[0] == ["JD402"]


def test_a_tolerance_is_for_nonlinear_models() -> None:
    def nonlinear(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(train(key, x))

    def expected(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(evaluate(key, x))

    assert compared(expected, nonlinear)[0] == ["JD403"]
    assert compared(expected, nonlinear, tolerance=0.5)[0] == []


def test_the_variance_ratio_is_that_of_batch_norm() -> None:
    """Inputs of mean 0: the variance in evaluation is 1 - rate of that in training."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (512, 4)))

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        return jaxdrop.dropout(key, x, 0.5)

    found = audit.compare(lambda key, x: x, drop, x, key=KEY, samples=30)
    assert found.variance_ratio == pytest.approx(0.5, abs=0.02)


def test_two_examples_have_a_variance() -> None:
    x = np.asarray([[1, 2], [3, 5]], np.float32)
    found = audit.compare(lambda key, x: x, lambda key, x: 2 * x, x, key=KEY, samples=30)
    assert found.variance_ratio == pytest.approx(0.25)


def test_without_examples_there_is_no_variance_ratio() -> None:
    for shape in ((), (8,), (1, 8)):
        x = np.ones(shape, np.float32)
        found = audit.compare(
            lambda key, x: x, lambda key, x: jaxdrop.dropout(key, x, 0.5), x, key=KEY, samples=30
        )
        assert found.variance_ratio is None
        assert "variance" not in str(found)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="samples must be at least 30"):
        compared(evaluate, train, samples=10)
    with pytest.raises(ValueError, match="arrays of the same shapes"):
        compared(evaluate, lambda key, x: x)
    with pytest.raises(TypeError, match="must return arrays"):
        compared(lambda key, x: None, train)
    with pytest.raises(ValueError, match="tolerance"):
        compared(evaluate, train, tolerance=-1.0)
    for level in (0.0, 0.51):
        with pytest.raises(ValueError, match="level"):
            compared(evaluate, train, level=level)
    assert compared(evaluate, train, level=0.5, samples=30)[1].level == 0.5
    with pytest.raises(ValueError, match=r"compare needs a key, but key is None\. Pass one"):
        audit.compare(evaluate, train, X, key=None)
    for fn, name in ((None, "eval_fn"), (evaluate, "train_fn")):
        with pytest.raises(TypeError, match=f"{name} must be a function of a key and the other"):
            compared(fn, None)


def test_the_figures_are_those_of_numpy() -> None:
    """Of two arrays, of which the first one's examples vary."""
    samples, tolerance, level = 40, 0.03, 0.01

    def first(key: jax.Array, x: jax.Array) -> Any:
        return x * 1.1, x.sum(1)

    def second(key: jax.Array, x: jax.Array) -> Any:
        kept = jaxdrop.dropout(key, x, 0.5)
        return kept, 0.9 * kept.sum(1)

    found = audit.compare(
        first, second, X, key=KEY, samples=samples, tolerance=tolerance, level=level
    )
    y, sums = (
        np.asarray(x, np.float64)
        for x in jax.vmap(second, (0, None))(jax.random.split(KEY, samples), jax.device_put(X))
    )
    both = np.concatenate([y.reshape(samples, -1), sums], 1)
    exact = np.concatenate([1.1 * X.astype(np.float64).ravel(), X.astype(np.float64).sum(1)])
    size = np.sqrt((exact**2).mean())
    off = both.mean(0) - exact
    error = np.sqrt(((both - exact) ** 2).mean(0) - off**2) / np.sqrt(samples)
    deviation = np.maximum(np.abs(off) - (tolerance + 1e-4) * size, 0) / error
    assert found.worst == pytest.approx(deviation.max(), rel=1e-3)
    assert found.entries == 36
    assert found.allowed == pytest.approx(stats.norm.isf(level / 2 / 36))
    assert found.scale == pytest.approx((exact * both.mean(0)).sum() / (exact**2).sum(), rel=1e-4)
    ratio = (1.1 * X).var(0).mean() / y.var(1).mean()
    assert found.variance_ratio == pytest.approx(ratio, rel=1e-3)
    assert (found.samples, found.level) == (samples, level)
    assert f"evaluation / training: {ratio:.3g}" in str(found)


def test_results_of_zeros_and_no_results() -> None:
    assert compared(evaluate, evaluate)[1].worst == 0
    _, zeros = compared(lambda key, x: 0 * x, lambda key, x: jax.random.normal(key, x.shape))
    assert np.isnan(zeros.scale)
    assert zeros.worst > 0
    same = compared(lambda key, x: x, lambda key, x: 0 * x + jax.random.uniform(key))[1]
    assert same.variance_ratio is None  # no example differs from others in training
    _, nothing = compared(lambda key, x: x[:0], lambda key, x: x[:0])
    assert (nothing.entries, nothing.worst) == (0, 0)
    assert nothing.allowed == pytest.approx(stats.norm.isf(1e-3 / 2))


def test_results_that_are_not_numbers_at_all_are_equal_to_themselves() -> None:
    """NaN in evaluation, whatever the key, depends on no key."""
    ids, _ = compared(lambda key, x: x * np.nan, lambda key, x: x * np.nan)
    assert "JD401" not in ids
