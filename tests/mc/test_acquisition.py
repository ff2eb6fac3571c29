"""Acquisition scores and batches, against brute force and scikit-learn."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.metrics import mutual_info_score

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import acquisition
from tests import statistics

KEY = jaxdrop.key(0)
# Of 6 samples, for 5 inputs and 3 classes; the last input is nearly the first one again.
PROBS = np.random.default_rng(0).dirichlet(0.5 * np.ones(3), (6, 5))
PROBS[:, 4] = 0.99 * PROBS[:, 0] + 0.01 / 3
SUMMARY = mc.classification(probs=PROBS)


def _information(indices: tuple[int, ...]) -> float:
    """`I(y_1, ..., y_n; w)` over all configurations of labels."""
    joint = functools.reduce(
        lambda left, i: (left[:, :, None] * PROBS[:, i][:, None]).reshape(6, -1),
        indices,
        np.ones((6, 1)),
    )
    return special.entr(joint.mean(0)).sum() - special.entr(joint).sum(-1).mean()


def _greedy(num: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(num):
        chosen.append(max(set(range(5)) - set(chosen), key=lambda i: _information((*chosen, i))))
    return chosen


def test_scores() -> None:
    expected = [_information((i,)) for i in range(5)]
    np.testing.assert_allclose(acquisition.bald(SUMMARY), expected, rtol=1e-5)
    np.testing.assert_allclose(
        acquisition.entropy(SUMMARY), special.entr(PROBS.mean(0)).sum(-1), rtol=1e-5
    )
    second, first = np.sort(PROBS.mean(0), axis=-1)[:, -2:].T
    np.testing.assert_allclose(acquisition.margin(SUMMARY), second - first, atol=1e-6)
    two = PROBS[..., :2] / PROBS[..., :2].sum(-1, keepdims=True)
    apart = abs(two[..., 0].mean(0) - two[..., 1].mean(0))
    np.testing.assert_allclose(acquisition.margin(mc.classification(probs=two)), -apart, atol=1e-6)
    votes = np.eye(3)[PROBS.argmax(-1)].sum(0)
    np.testing.assert_allclose(
        acquisition.variation_ratio(SUMMARY), 1 - votes.max(-1) / 6, rtol=1e-6
    )
    np.testing.assert_array_equal(
        acquisition.top(acquisition.bald(SUMMARY), 3), np.argsort(expected)[::-1][:3]
    )


# -- EPIG


def test_epig_is_the_mutual_information_of_two_labels() -> None:
    targets = np.random.default_rng(1).dirichlet(np.ones(4), (6, 3))
    counts = np.rint(1e8 * np.einsum("snc,smd->nmcd", PROBS, targets)).astype(
        int
    )  # scikit-learn takes integers
    expected = [
        np.mean([mutual_info_score(None, None, contingency=pair) for pair in pairs])
        for pairs in counts
    ]
    np.testing.assert_allclose(
        acquisition.epig(probs=PROBS, target_probs=targets), expected, rtol=1e-4
    )
    with np.errstate(divide="ignore"):
        found = acquisition.epig(logits=np.log(PROBS) + 3, target_logits=np.log(targets) - 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_epig_of_certain_and_of_unrelated_labels() -> None:
    certain = np.eye(2, dtype=np.float32)[[[0], [1]]]  # two samples, which disagree for sure
    np.testing.assert_allclose(
        acquisition.epig(probs=certain, target_probs=certain), [np.log(2)], rtol=1e-6
    )
    same = np.full((2, 1, 2), 0.5, np.float32)
    np.testing.assert_allclose(acquisition.epig(probs=certain, target_probs=same), [0], atol=1e-7)


def test_epig_of_labels_less_likely_than_the_smallest_number() -> None:
    """Both together have a probability of 1.5e-38, which is a normal number. The product of the
    marginal probabilities, half of that, is not, and a CPU makes it 0.
    """
    rare = np.float32([[[1, 3e-38]], [[1, 0]]])
    targets = np.float32([[[0, 1]], [[1, 0]]])
    np.testing.assert_allclose(acquisition.epig(probs=rare, target_probs=targets), [0], atol=1e-7)


# -- BatchBALD


def test_exact_batches_are_those_of_brute_force() -> None:
    batch = acquisition.batch_bald(None, 4, probs=PROBS)
    chosen = _greedy(4)
    np.testing.assert_array_equal(batch.indices, chosen)
    expected = [_information(tuple(chosen[: number + 1])) for number in range(4)]
    np.testing.assert_allclose(np.cumsum(batch.scores), expected, rtol=1e-5)
    best = max(_information(indices) for indices in itertools.combinations(range(5), 4))
    assert batch.scores.sum() >= (1 - 1 / np.e) * best


def test_as_many_configurations_as_are_looked_at_need_no_key() -> None:
    """3^4 for the fifth input, and 3^5 for a sixth that there is not."""
    exact = acquisition.batch_bald(None, 5, probs=PROBS)
    same = acquisition.batch_bald(None, 5, probs=PROBS, max_configurations=81)
    keyed = acquisition.batch_bald(KEY, 5, probs=PROBS, max_configurations=81)
    for found in (same, keyed):
        np.testing.assert_array_equal(found.indices, exact.indices)
        np.testing.assert_array_equal(found.scores, exact.scores)


def test_a_batch_avoids_what_it_knows_already() -> None:
    """Four weights: the first two inputs tell which half they are of, the third one, less surely,
    whether they are odd.
    """
    half, odd = np.array([0.01, 0.01, 0.99, 0.99]), np.array([0.05, 0.95, 0.05, 0.95])
    ones = np.stack([half, half, odd], axis=-1)
    probs = np.stack([1 - ones, ones], axis=-1)
    np.testing.assert_array_equal(
        acquisition.top(acquisition.bald(mc.classification(probs=probs)), 2), [0, 1]
    )
    np.testing.assert_array_equal(acquisition.batch_bald(None, 2, probs=probs).indices, [0, 2])


@pytest.mark.sweep
def test_drawn_configurations_estimate_the_exact_scores() -> None:
    """Of three labels out of 40: for the third, 1000 of the 1600 configurations are drawn, with
    each of 20 keys.

    A score is a mean of entropies of a standard deviation of at most log(40)/2; 5 standard errors
    of the mean over the keys.
    """
    probs = jnp.asarray(np.random.default_rng(3).dirichlet(0.2 * np.ones(40), (4, 5)), jnp.float32)
    exact = acquisition.batch_bald(None, 3, probs=probs)
    draw = jax.vmap(
        lambda key, probs: acquisition.batch_bald(key, 5, probs=probs, max_configurations=1000),
        in_axes=(0, None),
    )
    drawn = draw(jax.random.split(KEY, 20), probs)
    np.testing.assert_array_equal(np.sort(drawn.indices), np.tile(range(5), (20, 1)))
    np.testing.assert_array_equal(drawn.indices[:, :2], np.tile(exact.indices[:2], (20, 1)))
    np.testing.assert_allclose(drawn.scores[:, :2], np.tile(exact.scores[:2], (20, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        drawn.scores[:, 2].mean(), exact.scores[2], atol=5 * np.log(40) / 2 / np.sqrt(20 * 1000)
    )
    assert drawn.scores.sum(-1).mean() < np.log(4) + 0.01  # four samples tell no more


def test_each_label_of_a_configuration_has_a_draw_of_its_own() -> None:
    """Third and fourth scores from 100 drawn configurations of at least 144, as means over 200
    keys: to 5 standard errors and 1 %. With one draw for all labels they are 5 to 20 % low.
    """
    probs = jnp.asarray(np.random.default_rng(5).dirichlet(0.3 * np.ones(12), (6, 4)), jnp.float32)
    exact = acquisition.batch_bald(None, 4, probs=probs)
    drawn = jax.jit(
        jax.vmap(lambda key: acquisition.batch_bald(key, 4, probs=probs, max_configurations=100))
    )(jax.random.split(KEY, 200))
    same = np.all(np.asarray(drawn.indices) == np.asarray(exact.indices), axis=1)
    assert same.mean() > 0.5  # a near tie for the third place may be decided otherwise
    scores = np.asarray(drawn.scores, np.float64)[same]
    error = scores.std(0) / np.sqrt(len(scores))
    np.testing.assert_array_less(
        np.abs(scores.mean(0) - exact.scores), 5 * error + 0.01 * exact.scores
    )


def test_batches_are_jittable() -> None:
    batch = jax.jit(lambda key, probs: acquisition.batch_bald(key, 4, probs=probs))(
        KEY, jnp.asarray(PROBS, jnp.float32)
    )
    np.testing.assert_array_equal(batch.indices, _greedy(4))


# -- drawing a batch by its scores


def _draws(scores: np.ndarray, num: int, **options: object) -> np.ndarray:
    keys = jax.random.split(KEY, 4000)
    draw = jax.jit(
        jax.vmap(
            lambda key: acquisition.power_sampling(
                key, jnp.asarray(scores, jnp.float32), num, **options
            )
        )
    )
    return np.asarray(draw(keys))


@pytest.mark.parametrize("kind", ["power", "softmax", "softrank"])
def test_draws_are_in_proportion_and_without_replacement(kind: str) -> None:
    """Two-sided chi-square tests at 1e-6."""
    scores = np.array([1.0, 2.0, 0.5, 3.0])
    weights = {
        "power": scores**1.5,
        "softmax": np.exp(1.5 * scores),
        "softrank": np.array([3.0, 2.0, 4.0, 1.0]) ** -1.5,
    }[kind]
    law = weights / weights.sum()
    pairs = _draws(scores, 2, coldness=1.5, kind=kind)
    assert statistics.chi_square(np.bincount(pairs[:, 0], minlength=4), 4000 * law) > 1e-6
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs.T), 1)
    expected = law[:, None] * law / (1 - law)[:, None] * (1 - np.eye(4))
    assert (
        statistics.chi_square(counts[counts + expected > 0], 4000 * expected[counts + expected > 0])
        > 1e-6
    )


def test_coldness() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.3])
    assert (_draws(scores, 4, coldness=1e4) == [1, 3, 2, 0]).all()
    assert (
        statistics.chi_square(np.bincount(_draws(scores, 1, coldness=0.0)[:, 0], minlength=4), 1000)
        > 1e-6
    )
    with_zeros = np.array([0.0, 1.0, 0.0, 2.0])
    assert (_draws(with_zeros, 3)[:, 2] == 0).all()  # those that score 0 come last
    assert (
        statistics.chi_square(
            np.bincount(_draws(with_zeros, 1, coldness=0.0)[:, 0], minlength=4), 1000
        )
        > 1e-6
    )
    assert (
        _draws(1e30 * scores, 4, coldness=1e30, kind="softmax")[:, 0] == 1
    ).all()  # no infinity is the first of equals


def test_the_first_of_equals() -> None:
    np.testing.assert_array_equal(
        acquisition.top(jnp.array([-0.0, 0.0, -1.0, -0.0]), 4), [0, 1, 3, 2]
    )


# -- bad input


@pytest.mark.parametrize(
    "score",
    [acquisition.bald, acquisition.entropy, acquisition.margin, acquisition.variation_ratio],
)
def test_scores_are_those_of_a_summary(score: Callable[..., jax.Array]) -> None:
    with pytest.raises(
        TypeError,
        match=rf"{score.__name__} takes a Classification summary, such as mc.classification\(",
    ):
        score(PROBS)


def test_scores_that_are_not_finite() -> None:
    scores = np.array([0.0, np.nan, np.inf])
    with pytest.raises(
        ValueError, match="scores must be finite, but 2 of 3 are not, the first at index 1"
    ):
        acquisition.top(scores, 1)
    with pytest.raises(ValueError, match="scores must be finite"):
        acquisition.power_sampling(KEY, scores, 1)
    np.testing.assert_array_equal(
        jax.jit(lambda scores: acquisition.top(scores, 3))(jnp.array([0.0, jnp.nan, 1.0])),
        [2, 0, 1],
    )


def test_inputs_with_nan_are_not_chosen_twice() -> None:
    logits = np.log(PROBS).astype(np.float32)
    logits[2, 1, 0], logits[:, 3] = np.nan, -np.inf
    known = [0, 2, 4]
    best = acquisition.batch_bald(None, 3, logits=logits[:, known])
    found = jax.jit(lambda logits: acquisition.batch_bald(None, 5, logits=logits))(logits)
    assert [known[i] for i in best.indices] == found.indices[:3].tolist()
    np.testing.assert_allclose(found.scores[:3], best.scores, rtol=1e-5)
    assert sorted(found.indices.tolist()) == [*range(5)]
    assert np.isnan(found.scores[3:]).all()
    message = "2 of 5 inputs are not, the first at index 1"
    with pytest.raises(ValueError, match=f"^logits must be finite, or -inf .* {message}"):
        acquisition.batch_bald(None, 2, logits=logits)
    with pytest.raises(ValueError, match=f"^target_logits must be finite, .* {message}"):
        acquisition.epig(logits=logits[:, known], target_logits=logits)
    ruled_out = np.where(np.arange(3) == 2, -np.inf, logits[:, known])
    assert np.isfinite(acquisition.batch_bald(None, 2, logits=ruled_out).scores).all()
    with pytest.raises(ValueError, match=r"both classes: probs=jnp.stack\(\[1 - p, p\], axis=-1"):
        acquisition.batch_bald(None, 2, logits=logits[..., 0])


def test_bad_batches() -> None:
    with pytest.raises(ValueError, match=r"num must lie in \[1, 5\], the number of inputs, got 6"):
        acquisition.batch_bald(KEY, 6, probs=PROBS)
    with pytest.raises(ValueError, match=r"num must lie in \[1, 3\], the number of inputs, got 0"):
        acquisition.top(np.ones(3), 0)
    with pytest.raises(
        ValueError,
        match=r"3\^4 configurations of labels, more than max_configurations=80. Pass a key",
    ):
        acquisition.batch_bald(None, 5, probs=PROBS, max_configurations=80)
    with pytest.raises(
        ValueError,
        match=r"batch_bald takes probs of shape \(S, N, C\), with at least one input, got \(6, 3\)",
    ):
        acquisition.batch_bald(KEY, 2, probs=PROBS[:, 0])
    with pytest.raises(TypeError, match="batch_bald takes either"):
        acquisition.batch_bald(KEY, 2)
    with pytest.raises(ValueError, match="max_configurations must be at least 1, got 0"):
        acquisition.batch_bald(KEY, 2, probs=PROBS, max_configurations=0)


def test_bad_targets() -> None:
    with pytest.raises(ValueError, match="from the same samples"):
        acquisition.epig(probs=PROBS, target_probs=PROBS[:3])
    with pytest.raises(ValueError, match="logits and target_logits, or probabilities of both"):
        acquisition.epig(probs=PROBS, target_logits=PROBS)
    with pytest.raises(ValueError, match="target_probs must not be negative and must sum to 1"):
        acquisition.epig(probs=PROBS, target_probs=2 * PROBS)


def test_bad_power() -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"scores must lie in \[0, infinity\), got -1 to 1. kind='softrank' takes scores of any"
            r" sign"
        ),
    ):
        acquisition.power_sampling(KEY, np.array([1.0, -1.0]), 1)
    with pytest.raises(
        ValueError, match="kind must be one of 'power', 'softmax', 'softrank', got 'gibbs'"
    ):
        acquisition.power_sampling(KEY, np.ones(2), 1, kind="gibbs")
    with pytest.raises(ValueError, match="power_sampling is stochastic here and needs a key"):
        acquisition.power_sampling(None, np.ones(2), 1)
    with pytest.raises(ValueError, match=r"have one class, .* binary=True"):
        acquisition.margin(mc.classification(probs=np.ones((2, 3, 1), np.float32)))
