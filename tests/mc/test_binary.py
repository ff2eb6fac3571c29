"""Binary and multi-label outputs: each is a classification of its own, of two classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdrop import mc
from tests.compilation import quick

LOGITS = np.float32(np.random.default_rng(0).normal(0, 2, (7, 5, 3)))


def _float64(logits: np.ndarray) -> dict[str, np.ndarray]:
    """The definitions for a Bernoulli law, in float64."""
    probs = special.expit(np.float64(logits))

    def entropy(p: np.ndarray) -> np.ndarray:
        return special.entr(p) + special.entr(1 - p)

    yes = (probs > 0.5).mean(0)
    return {
        "probability": probs.mean(0),
        "predictive_entropy": entropy(probs.mean(0)),
        "expected_entropy": entropy(probs).mean(0),
        "mutual_information": entropy(probs.mean(0)) - entropy(probs).mean(0),
        "variation_ratio": np.minimum(yes, 1 - yes),
        "least_confidence": np.minimum(probs.mean(0), 1 - probs.mean(0)),
    }


@quick
def _summaries(logits: jax.Array, probs: jax.Array) -> list[dict[str, jax.Array]]:
    half = mc.classification(logits=logits[:3], binary=True).merge(
        mc.classification(logits=logits[3:], binary=True)
    )
    summaries = [
        mc.classification(logits=logits, binary=True),
        mc.classification(probs=probs, binary=True),
        half,
    ]
    return [
        {name: getattr(summary, name) for name in (*_float64(LOGITS), "std")}
        for summary in summaries
    ]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("logits", [LOGITS[..., 0], LOGITS, LOGITS[..., None], LOGITS[:, 0, 0]])
def test_definitions(logits: np.ndarray) -> None:
    """(S, N), several labels, and a trailing axis of length 1: the arrays have the shape of one
    sample.
    """
    for summary in _summaries(logits, special.expit(np.float64(logits)).astype(np.float32)):
        for name, expected in _float64(logits).items():
            found = summary[name]
            assert found.shape == logits.shape[1:]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            summary["std"][..., 1], special.expit(np.float64(logits)).std(0), rtol=1e-5
        )


def test_it_is_a_classification_of_two_classes() -> None:
    """So scores and metrics take it as it is."""
    summary = mc.classification(logits=LOGITS[..., 0], binary=True)
    pair = mc.classification(logits=np.stack([0 * LOGITS[..., 0], LOGITS[..., 0]], -1))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), summary, pair)
    np.testing.assert_array_equal(summary.votes, pair.votes)
    labels = np.array([0, 1, 1, 0, 1])
    expected = np.log(np.where(labels, summary.probability, 1 - summary.probability)).mean()
    np.testing.assert_allclose(
        mc.metrics.nll(labels, log_probs=summary.log_mean), -expected, rtol=1e-5
    )
    np.testing.assert_array_equal(mc.acquisition.bald(summary), summary.mutual_information)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_temperature_is_that_of_two_classes(pooled: bool) -> None:
    logits = np.random.default_rng(2).normal(0, 3, (4, 64)).astype(np.float32)
    labels = np.random.default_rng(3).random(64) < special.expit(logits.mean(0) / 2)
    found = mc.fit_temperature(labels, logits, pooled=pooled, binary=True)
    pair = mc.fit_temperature(labels.astype(int), np.stack([0 * logits, logits], -1), pooled=pooled)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), found, pair)


def test_certain_outputs() -> None:
    summary = mc.classification(
        logits=jnp.array([[jnp.inf, -jnp.inf, jnp.nan, 200.0]] * 2), binary=True
    )
    np.testing.assert_array_equal(summary.probability, [1, 0, np.nan, 1])
    np.testing.assert_array_equal(summary.predictive_entropy, [0, 0, np.nan, 0])
    np.testing.assert_array_equal(summary.variation_ratio, [0, 0, np.nan, 0])


def test_gradients() -> None:
    """`d p / d z = p (1 - p)`, at 0 too."""
    z = jnp.array([[0.0, 1.0, -3.0]])
    found = jax.grad(lambda z: mc.classification(logits=z, binary=True).probability.sum())(z)
    p = special.expit(np.float64(z))
    np.testing.assert_allclose(found, p * (1 - p), rtol=1e-5)


def test_what_is_ambiguous_is_refused() -> None:
    x = jnp.zeros((5, 3))
    with pytest.raises(
        ValueError,
        match=r"logits of shape \(5, 3\) could be 3 classes of one input, or .*binary=True",
    ):
        mc.classification(logits=x)
    with pytest.raises(
        ValueError, match=r"logits of shape \(5, 3, 1\) have one class, .*binary=True"
    ):
        mc.classification(logits=x[..., None])
    with pytest.raises(
        ValueError, match=r"probs of shape \(5, 3, 1\) have one class, .*binary=True"
    ):
        mc.classification(probs=jnp.ones((5, 3, 1)), binary=False)
    np.testing.assert_allclose(
        mc.classification(logits=x, binary=False).mean, np.full(3, 1 / 3), rtol=1e-6
    )
    with pytest.raises(TypeError, match="binary must be True, False or None, got 'no'"):
        mc.classification(logits=x, binary="no")
    with pytest.raises(
        ValueError, match=r"probability is that of the second of two classes, but there are 3"
    ):
        _ = mc.classification(logits=x, binary=False).probability


def test_probabilities_out_of_range() -> None:
    """An error where they are known, and NaN for the one output where they are not."""
    probs = np.float32([[0.5, 1.5, -0.1, 1.0]])
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\], but they are -0.1 to 1.5"):
        mc.classification(probs=probs, binary=True)
    found = jax.jit(lambda probs: mc.classification(probs=probs, binary=True).probability)(probs)
    np.testing.assert_array_equal(found, np.float32([0.5, np.nan, np.nan, 1]))
