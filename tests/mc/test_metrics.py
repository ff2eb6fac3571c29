"""Metrics, against values computed in float64 elsewhere, and against NumPy, SciPy and
scikit-learn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, special, stats
from sklearn import metrics as sklearn_metrics

from jaxdrop import mc
from jaxdrop.mc import metrics
from scripts import check_metrics

# Values in float64 by numpy and scipy, for these predictions and labels.
MEAN = np.array(
    [[0.475, 0.45, 0.075], [0.975, 0.01375, 0.01125], [0.5, 0.25, 0.25], [0.2725, 0.245, 0.4825]]
)
LABELS = np.array([0, 0, 2, 1])

RNG = np.random.default_rng(0)
EXACT = RNG.dirichlet(np.ones(4), 500)
PROBS = np.float32(EXACT)
CLASSES = (PROBS.cumsum(-1) < RNG.random((500, 1))).sum(-1)
CLASSES = np.where(
    RNG.random(500) < 0.3, RNG.integers(0, 4, 500), np.minimum(CLASSES, 3)
)  # not calibrated

MANY = check_metrics.cases(2**18)


# -- classification


def test_known_values() -> None:
    np.testing.assert_allclose(metrics.nll(LABELS, MEAN), 0.8906374281222715, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.nll(LABELS, log_probs=np.log(MEAN)), 0.8906374281222715, rtol=1e-6
    )
    np.testing.assert_allclose(metrics.brier(LABELS, MEAN), 0.55919453125, rtol=1e-6)
    np.testing.assert_allclose(metrics.ece(LABELS, MEAN, num_bins=10), 0.141875, rtol=1e-6)
    np.testing.assert_allclose(metrics.ece(LABELS, MEAN, num_bins=15), 0.120625, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.mce(LABELS, MEAN, num_bins=15), (0.475 + 0.5 + 0.4825) / 3 - 1 / 3, rtol=1e-6
    )


@pytest.mark.sweep
def test_likelihood_and_brier_score_of_sklearn() -> None:
    np.testing.assert_allclose(
        metrics.nll(CLASSES, PROBS), sklearn_metrics.log_loss(CLASSES, EXACT), rtol=1e-5
    )
    expected = 4 * sklearn_metrics.mean_squared_error(np.eye(4)[CLASSES], EXACT)
    np.testing.assert_allclose(metrics.brier(CLASSES, PROBS), expected, rtol=1e-5)


def test_a_probability_too_small_for_a_float() -> None:
    summary = mc.classification(logits=np.float32([[[0.0, -200.0]], [[0.0, -300.0]]]))
    np.testing.assert_allclose(
        metrics.nll([1], log_probs=summary.log_mean), 200 + np.log(2), rtol=1e-6
    )
    assert metrics.nll([1], summary.mean) == np.inf


def _reference_bins(
    confidence: np.ndarray, correct: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, ...]:
    """By np.histogram, whose bins are [lower, upper), the last one closed."""
    count, _ = np.histogram(confidence, edges)
    sums, _ = np.histogram(confidence, edges, weights=np.float64(confidence))
    hits, _ = np.histogram(confidence, edges, weights=np.float64(correct))
    with np.errstate(invalid="ignore"):
        return count, sums / count, hits / count


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_bins_are_those_of_a_histogram(num_bins: int) -> None:
    found = metrics.reliability(CLASSES, PROBS, num_bins=num_bins)
    edges = np.linspace(0, 1, num_bins + 1)
    expected = _reference_bins(PROBS.max(-1), PROBS.argmax(-1) == CLASSES, edges)
    for ours, theirs in zip((found.count, found.confidence, found.accuracy), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    count, confidence, accuracy = expected
    gap = np.nan_to_num(np.abs(confidence - accuracy))
    np.testing.assert_allclose(
        metrics.ece(CLASSES, PROBS, num_bins=num_bins), gap @ count / 500, rtol=1e-4
    )
    np.testing.assert_allclose(metrics.mce(CLASSES, PROBS, num_bins=num_bins), gap.max(), rtol=1e-5)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above_and_one_to_the_last() -> None:
    confidence = np.float32([0.5, 0.6, 0.7, 0.9, 1.0])
    found = metrics.reliability(
        [0] * 5, np.stack([confidence, 1 - confidence], axis=-1), num_bins=10
    )
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 1, 1, 1, 0, 2])
    np.testing.assert_array_equal(np.isnan(found.confidence), found.count == 0)
    np.testing.assert_allclose(found.gap, [0] * 5 + [0.5, 0.4, 0.3, 0, 0.05], atol=1e-6)
    assert metrics.ece([0], [[1.0, 0.0]]) == metrics.mce([0], [[1.0, 0.0]]) == 0


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("num_bins", [1, 7, 600])
def test_bins_of_equal_mass(num_bins: int) -> None:
    order = PROBS.max(-1).argsort(kind="stable")
    parts = np.array_split(order, num_bins)
    correct = PROBS.argmax(-1) == CLASSES
    gaps = [
        abs(PROBS.max(-1)[part].mean(dtype=float) - correct[part].mean()) * len(part)
        for part in parts
        if len(part)
    ]
    np.testing.assert_allclose(
        metrics.adaptive_ece(CLASSES, PROBS, num_bins=num_bins), sum(gaps) / 500, rtol=1e-4
    )


def test_classwise() -> None:
    gaps = []
    for label in range(4):
        count, confidence, frequency = _reference_bins(
            PROBS[:, label], label == CLASSES, np.linspace(0, 1, 11)
        )
        gaps.append(np.nansum(np.abs(confidence - frequency) * count) / 500)
    np.testing.assert_allclose(
        metrics.classwise_ece(CLASSES, PROBS, num_bins=10), np.mean(gaps), rtol=1e-4
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["ece", "mce", "classwise_ece", "adaptive_ece", "aurc, all equal"])
def test_sums_over_many_predictions(name: str) -> None:
    """The error does not grow with their number: `scripts/check_metrics.py` has all metrics, and
    2^24.
    """
    ours, exact = MANY[name]
    np.testing.assert_allclose(ours(), exact(), rtol=0, atol=check_metrics.TOLERANCE)


def test_any_shape_and_under_jit() -> None:
    functions = (
        metrics.nll,
        metrics.brier,
        metrics.ece,
        metrics.adaptive_ece,
        metrics.mce,
        metrics.classwise_ece,
    )
    found = jax.jit(lambda *data: [function(*data) for function in functions])(
        CLASSES.reshape(25, 20), PROBS.reshape(25, 20, 4)
    )
    np.testing.assert_allclose(
        found, [function(CLASSES, PROBS) for function in functions], rtol=1e-5
    )


def test_a_label_out_of_range_under_jit() -> None:
    for label in (-1, 3):
        assert np.isnan(jax.jit(metrics.nll)(jnp.array([0, 0, 2, label]), jnp.asarray(MEAN)))


@pytest.mark.parametrize("metric", [metrics.nll, metrics.brier, metrics.ece, metrics.classwise_ece])
def test_bad_predictions(metric: Callable[..., jax.Array]) -> None:
    with pytest.raises(TypeError, match="takes integer labels, and takes them first, got float"):
        metric(MEAN, LABELS.astype(float))
    with pytest.raises(
        ValueError, match=r"a label for each prediction: shape \(4,\), got labels of shape \(3,\)"
    ):
        metric(LABELS[:3], MEAN)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 0 to 3"):
        metric([0, 1, 2, 3], MEAN)
    with pytest.raises(ValueError, match="must not be negative and must sum to 1"):
        metric(LABELS, np.log(MEAN))
    with pytest.raises(ValueError, match="at least one prediction"):
        metric(LABELS[:0], MEAN[:0])


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        metrics.ece(LABELS, MEAN, num_bins=0)
    with pytest.raises(TypeError, match=r"either probs or log_probs=.*, got neither"):
        metrics.nll(LABELS)
    with pytest.raises(ValueError, match="must sum to 1"):
        metrics.nll(LABELS, log_probs=MEAN)


# -- selective prediction


def test_known_risks() -> None:
    errors = MEAN.argmax(-1) != LABELS
    curve = metrics.risk_coverage(errors, 1 - MEAN.max(-1))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0.0, 0.5, 2 / 3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
        metrics.aurc(errors, 1 - MEAN.max(-1)), 0.41666666666666663, rtol=1e-6
    )


@pytest.mark.sweep
@given(
    errors=arrays(np.float32, 6, elements=st.sampled_from(np.float32([0, 0.5, 1]))),
    uncertainty=arrays(np.float32, 6, elements=st.sampled_from(np.float32([0, 1, 2]))),
    seed=st.integers(0, 1000),
)
def test_ties_count_as_their_mean(errors: np.ndarray, uncertainty: np.ndarray, seed: int) -> None:
    """The mean over many orders of the data of the curve that breaks ties by order."""
    orders = [
        np.lexsort((np.random.default_rng(each).random(6), uncertainty)) for each in range(400)
    ]
    expected = np.mean([errors[order].cumsum() / np.arange(1, 7) for order in orders], axis=0)
    shuffled = np.random.default_rng(seed).permutation(6)
    curve = metrics.risk_coverage(errors[shuffled], uncertainty[shuffled])
    np.testing.assert_allclose(
        curve.risk, metrics.risk_coverage(errors, uncertainty).risk, atol=1e-6
    )
    np.testing.assert_allclose(
        curve.risk, expected, atol=5 * 0.5 / np.sqrt(400)
    )  # 5 standard errors at most


def test_sparsification() -> None:
    errors, uncertainty = RNG.random((2, 50))
    curves = metrics.sparsification(errors, uncertainty)
    for number in (0, 1, 30, 49):
        kept = uncertainty.argsort()[: 50 - number]
        np.testing.assert_allclose(curves.removed[number], number / 50, atol=1e-6)
        np.testing.assert_allclose(curves.error[number], errors[kept].mean(), rtol=1e-5)
        np.testing.assert_allclose(
            curves.oracle[number], np.sort(errors)[: 50 - number].mean(), rtol=1e-5
        )
    area = np.mean(curves.error - curves.oracle)
    np.testing.assert_allclose(metrics.ause(errors, uncertainty), area, rtol=1e-5)
    np.testing.assert_allclose(
        metrics.ause(errors, uncertainty, normalize=True), area / errors.mean(), rtol=1e-5
    )
    assert metrics.ause(errors, errors**2) == 0
    assert metrics.ause(errors, -errors) > area


def test_bad_errors() -> None:
    with pytest.raises(
        ValueError,
        match=r"takes arrays of one shape, .* errors of shape \(3,\), uncertainty of shape \(2,\)",
    ):
        metrics.aurc(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="takes uncertainty without NaN, got 1 in 2 entries"):
        metrics.aurc(np.ones(2), np.array([0.0, np.nan]))


@pytest.mark.sweep
def test_selection_of_sklearn() -> None:
    """Traub et al. give the area in terms of the AUROC of failure detection."""
    errors = RNG.random(300) < 0.2
    uncertainty = np.round(RNG.random(300) + 0.3 * errors, 1)  # with ties
    accuracy, auroc = 1 - errors.mean(), sklearn_metrics.roc_auc_score(errors, uncertainty)
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    np.testing.assert_allclose(metrics.augrc(errors, uncertainty), expected, rtol=1e-5)
    curve = metrics.risk_coverage(errors, uncertainty)
    for level in (0.1, 0.15, 1.0):
        found = metrics.coverage_at_risk(errors, uncertainty, level)
        assert found == np.where(np.asarray(curve.risk) <= level, curve.coverage, 0).max()
    for level in (0.001, 0.56, 0.8, 0.999):
        found = metrics.risk_at_coverage(errors, uncertainty, level)
        assert found == curve.risk[math.ceil(Fraction(f"{level}") * 300) - 1]
    np.testing.assert_allclose(metrics.risk_at_coverage(errors, uncertainty, 1.0), errors.mean())
    traced = jax.jit(metrics.risk_at_coverage)
    np.testing.assert_allclose(traced(errors, uncertainty, 1.0), errors.mean(), rtol=1e-6)
    assert np.isnan(traced(errors, uncertainty, 1.1))
    assert metrics.coverage_at_risk(np.ones(3), np.ones(3), 0.5) == 0
    assert metrics.coverage_at_risk(np.float32([0.1] * 7), np.zeros(7), 0.1) == 1
    assert metrics.augrc(np.zeros(3), np.ones(3)) == 0
    assert metrics.augrc([True], [0.3]) == 0.5


# -- novelty


def test_out_of_distribution() -> None:
    inside, outside = (
        np.round(RNG.normal(0, 1, 300), 1),
        np.round(RNG.normal(1, 1, 200), 1),
    )  # with ties
    wins = (outside[:, None] > inside).mean() + 0.5 * (outside[:, None] == inside).mean()
    np.testing.assert_allclose(metrics.auroc(inside, outside), wins)
    thresholds = np.unique(np.r_[inside, outside])[::-1]
    recall = np.array([(outside >= value).mean() for value in thresholds])
    precision = np.array(
        [
            (outside >= value).sum() / ((outside >= value).sum() + (inside >= value).sum())
            for value in thresholds
        ]
    )
    np.testing.assert_allclose(
        metrics.aupr(inside, outside), np.diff(recall, prepend=0) @ precision
    )
    np.testing.assert_allclose(
        metrics.fpr95(inside, outside), (inside >= thresholds[np.argmax(recall >= 0.95)]).mean()
    )
    for seed in range(8):  # 19 of 20 are 95 %: at the second smallest
        known, unknown = np.random.default_rng(seed).normal([[0.0], [1.0]], 1, (2, 20))
        expected = (known >= np.sort(unknown)[1]).mean()
        np.testing.assert_allclose(metrics.fpr95(known, unknown), expected)


def test_arguments_that_are_told_apart_by_their_order_alone() -> None:
    """What scikit-learn takes in these places gives no number that looks right."""
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.9])
    for metric in (metrics.auroc, metrics.aupr, metrics.fpr95):
        for arguments in ((labels, scores), (labels == 1, scores), (scores, labels == 1)):
            with pytest.raises(
                TypeError, match=r"Pass scores\[labels == 0\] and scores\[labels == 1"
            ):
                metric(*arguments)
    assert metrics.auroc(labels, 2 * labels) == 13 / 18  # sizes of sets, say
    assert metrics.auroc(jnp.asarray(scores, jnp.bfloat16), scores + 1) == 1
    for curve in (
        metrics.risk_coverage,
        metrics.aurc,
        metrics.augrc,
        metrics.sparsification,
        metrics.ause,
        lambda errors, uncertainty: metrics.risk_at_coverage(errors, uncertainty, 0.5),
        lambda errors, uncertainty: metrics.coverage_at_risk(errors, uncertainty, 0.5),
        lambda errors, uncertainty: mc.conformal.selective(errors, uncertainty, 0.5),
    ):
        with pytest.raises(TypeError, match=r"order of the arguments is \w+\(errors, uncertainty"):
            curve(scores, labels == 1)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.aupr, metrics.fpr95])
def test_bad_scores(metric: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert metric(np.zeros(3), np.array([1.0, np.inf])) == (0 if metric is metrics.fpr95 else 1)
    with pytest.raises(ValueError, match="outside must hold at least one number and no NaN"):
        metric(np.zeros(3), np.array([np.nan]))
    with pytest.raises(ValueError, match="inside must hold at least one number"):
        metric(np.zeros(0), np.zeros(3))
    with pytest.raises(TypeError, match="needs values, but inside is traced"):
        jax.jit(metric)(jnp.zeros(3), jnp.zeros(3))
    for name in ("sklearn", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'jaxdrop\[metrics\]'"):
        metric(np.zeros(3), np.zeros(3))


# -- regression

Y, CENTER, STD = (
    RNG.normal(size=200),
    RNG.normal(scale=0.5, size=200),
    RNG.uniform(0.3, 1.5, size=200),
)


def test_known_values_of_regression() -> None:
    samples = np.random.RandomState(0).randn(50, 5) * [0.1, 0.5, 1, 2, 0.01] + [0, 1, -1, 3, 10]
    y = np.array([0.05, 2.0, -1.2, -1.0, 10.5])
    summary = mc.regression(samples, tau=4.0)
    np.testing.assert_allclose(metrics.rmse(y, summary.mean), 1.8446897559469435, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.gaussian_nll(y, summary.mean, summary.std), 1.3182259035062507, rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.crps_gaussian(y, summary.mean, summary.std), 0.8025661556006682, rtol=1e-6
    )
    interval = summary.interval(0.95)
    assert metrics.picp(y, *interval) == 1
    np.testing.assert_allclose(metrics.mpiw(*interval), 3.9661649676529445, rtol=1e-6)


@pytest.mark.sweep
def test_scores_of_scipy() -> None:
    np.testing.assert_allclose(
        metrics.gaussian_nll(Y, CENTER, STD), -stats.norm.logpdf(Y, CENTER, STD).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics.sharpness(STD), np.sqrt((STD**2).mean()), rtol=1e-6)
    lower, upper = stats.norm.interval(0.5, CENTER, STD)
    np.testing.assert_allclose(
        metrics.picp(Y, lower, upper), ((lower <= Y) & (upper >= Y)).mean(), rtol=1e-6
    )

    def integral(y: float, law: stats.rv_continuous) -> float:
        """Of the squared distance between the distribution functions of forecast and
        observation.
        """
        return (
            integrate.quad(lambda x: law.cdf(x) ** 2, -20, y)[0]
            + integrate.quad(lambda x: law.sf(x) ** 2, y, 20)[0]
        )

    expected = np.mean(
        [
            integral(y, stats.norm(mean, sd))
            for y, mean, sd in zip(Y[:10], CENTER, STD, strict=False)
        ]
    )
    np.testing.assert_allclose(
        metrics.crps_gaussian(Y[:10], CENTER[:10], STD[:10]), expected, rtol=1e-5
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("fair", [False, True])
def test_crps_of_samples(fair: bool) -> None:
    samples = RNG.normal(size=(7, 30)) + 100
    y = RNG.normal(size=30) + 100
    pairs = np.abs(samples[:, None] - samples).sum((0, 1)) / (7 * (6 if fair else 7))
    expected = (np.abs(samples - y).mean(0) - pairs / 2).mean()
    np.testing.assert_allclose(metrics.crps_samples(y, samples, fair=fair), expected, rtol=1e-4)


def test_fair_scores_do_not_depend_on_the_number_of_samples() -> None:
    """In expectation they are those of the law itself; 4 standard errors."""
    draws = CENTER + STD * RNG.normal(size=(400, 2, 200))
    scores = np.array([metrics.crps_samples(Y, pair, fair=True) for pair in np.float32(draws)])
    exact = metrics.crps_gaussian(Y, CENTER, STD)
    assert abs(scores.mean() - exact) < 4 * stats.sem(scores)


def test_crps_of_the_mixture() -> None:
    """Its definition, integrated, and what it is without noise and with one sample."""
    rng = np.random.default_rng(3)
    samples, variance = rng.normal(size=(3, 6)), rng.uniform(0.1, 2, (3, 6))
    grid = np.linspace(-15, 15, 60001)
    mixture = stats.norm.cdf(grid[:, None, None], samples, np.sqrt(variance)).mean(1)
    y = (
        grid[24000:36000:2000] + grid[24001:36001:2000]
    ) / 2  # where a trapezoid has the step's area
    expected = integrate.trapezoid((mixture - (grid[:, None] >= y)) ** 2, grid, axis=0).mean()
    found = metrics.crps_mixture(y, samples, variance=variance)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.crps_mixture(y, samples, tau=np.inf), metrics.crps_samples(y, samples), rtol=1e-5
    )
    one = metrics.crps_mixture(y, samples[:1], variance=variance[:1])
    gaussian = metrics.crps_gaussian(y, samples[0], np.sqrt(variance[0]))
    np.testing.assert_allclose(one, gaussian, rtol=1e-5)


@pytest.mark.sweep
def test_quantiles_and_intervals_of_sklearn() -> None:
    q = np.array([0.1, 0.5, 0.9])
    quantiles = CENTER + STD * stats.norm.ppf(q)[:, None]
    losses = [
        sklearn_metrics.mean_pinball_loss(Y, row, alpha=level)
        for row, level in zip(quantiles, q, strict=True)
    ]
    np.testing.assert_allclose(metrics.pinball(Y, quantiles, q), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics.pinball(Y, quantiles[0], 0.1), losses[0], rtol=1e-5)
    # Gneiting & Raftery, equations 40 and 43: the score is that of the two quantiles.
    found = metrics.interval_score(Y, quantiles[0], quantiles[2], 0.8)
    np.testing.assert_allclose(found, 2 / 0.2 * (losses[0] + losses[2]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"the shape of q, .* got \(3, 200\), \(2,\) and \(200,\)"):
        metrics.pinball(Y, quantiles, q[:2])
    with pytest.raises(ValueError, match=r"the shape of q, .* got \(2, 1, 200\), \(2, 1\)"):
        metrics.pinball(Y, quantiles[:2, None], q[:2, None])
    with pytest.raises(ValueError, match=r"q must lie in \(0, 1\), got 0.1 to 1"):
        metrics.pinball(Y, quantiles[:2], [0.1, 1])
    with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\), got 80"):
        metrics.interval_score(Y, Y, Y, 80)


def test_sets_and_groups() -> None:
    sets = RNG.random((500, 4)) < 0.6
    covered = sets[np.arange(500), CLASSES]
    np.testing.assert_allclose(metrics.set_coverage(CLASSES, sets), covered.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics.set_size(sets), sets.sum() / 500, rtol=1e-6)
    sizes = sets.sum(-1)
    found = metrics.coverage_by_group(covered, sizes, num_groups=6)
    np.testing.assert_array_equal(found.size, np.bincount(sizes, minlength=6))
    with np.errstate(invalid="ignore"):
        expected = np.bincount(sizes, covered, 6) / np.bincount(sizes, minlength=6)
    np.testing.assert_allclose(found.coverage, expected, rtol=1e-6)
    for where, groups in ((None, 5), (sizes < 3, 3)):  # the last group is the last that counts
        found = metrics.coverage_by_group(covered, sizes, where=where)
        assert found.size.shape == found.coverage.shape == (groups,)
    one_each = metrics.coverage_by_group([True, False], [1, 2])
    np.testing.assert_array_equal(one_each.coverage, [np.nan, 1, 0])
    with pytest.raises(TypeError, match="set_size takes boolean sets, got float"):
        metrics.set_size(PROBS)
    for none in (np.bool_(True), np.zeros((0, 3), bool)):
        with pytest.raises(ValueError, match=r"set_size takes sets of shape \(..., C\)"):
            metrics.set_size(none)
    with pytest.raises(ValueError, match="coverage_by_group takes one example at least"):
        metrics.coverage_by_group(np.zeros(0, bool), np.zeros(0, int))
    with pytest.raises(TypeError, match="takes boolean covered, got int"):
        metrics.coverage_by_group(sizes, sizes)


def test_scores_of_logits() -> None:
    logits = RNG.normal(scale=5, size=(3, 20, 4))
    for temperature in (1.0, 2.5):
        expected = -temperature * special.logsumexp(logits / temperature, axis=-1).mean(0)
        np.testing.assert_allclose(
            mc.energy(logits, temperature=temperature), expected, rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(mc.max_logit(logits), -logits.max(-1).mean(0), rtol=1e-6)
    np.testing.assert_allclose(mc.energy(logits, temperature=1e-3), mc.max_logit(logits), atol=2e-3)
    ruled_out = np.float32([[[0, -np.inf]], [[-np.inf, 2]]])
    np.testing.assert_array_equal(mc.energy(ruled_out), [-1])
    with pytest.raises(ValueError, match=r"temperature must lie in \(0, infinity\), got 0"):
        mc.energy(logits, temperature=0)
    with pytest.raises(ValueError, match=r"logits must have shape \(S, ..., C\)"):
        mc.energy(logits[0, 0])
    # Of a deterministic model: the inputs are no samples.
    for score in (mc.energy, mc.max_logit):
        with pytest.raises(ValueError, match=r"logits\[None\] for 20 inputs .* logits\[:, None\]"):
            score(logits[0])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("proportion", ["interval", "quantile"])
def test_calibration_of_regression(proportion: str) -> None:
    expected = np.linspace(0, 1, 100)
    low, high = (
        ((1 - expected) / 2, (1 + expected) / 2)
        if proportion == "interval"
        else (0 * expected, expected)
    )
    z = ((Y - CENTER) / STD)[:, None]
    observed = ((z >= stats.norm.ppf(low)) & (z <= stats.norm.ppf(high))).mean(0)
    cdf = stats.norm.cdf(Y, CENTER, STD)
    curve = metrics.calibration_curve(cdf, proportion=proportion)
    np.testing.assert_allclose(curve.expected, expected, rtol=1e-6)
    np.testing.assert_allclose(curve.observed, observed, atol=1e-6)
    gap = observed - expected
    np.testing.assert_allclose(
        metrics.rmsce(cdf, proportion=proportion), np.sqrt((gap**2).mean()), rtol=1e-5
    )
    np.testing.assert_allclose(
        metrics.mace(cdf, proportion=proportion), np.abs(gap).mean(), rtol=1e-5
    )
    fine = np.linspace(0, 1, 99 * 1000 + 1)
    area = integrate.trapezoid(np.abs(np.interp(fine, expected, observed) - fine), fine)
    np.testing.assert_allclose(
        metrics.miscalibration_area(cdf, proportion=proportion), area, rtol=1e-5
    )


@pytest.mark.sweep
def test_a_calibrated_model() -> None:
    cdf = (np.arange(1000) + 0.5) / 1000
    for metric in (metrics.rmsce, metrics.mace, metrics.miscalibration_area):
        for proportion in ("interval", "quantile"):
            assert metric(cdf, proportion=proportion) < 1e-3
            assert metric(np.full(1000, 0.5), proportion=proportion) > 0.2


def test_bad_regressions() -> None:
    with pytest.raises(
        ValueError,
        match=r"rmse takes arrays of one shape, .* y of shape \(200,\), mean of shape \(200, 1\)",
    ):
        metrics.rmse(Y, CENTER[:, None])
    with pytest.raises(ValueError, match=r"std must lie in \(0, infinity\), got 0 to 0"):
        metrics.crps_gaussian(Y, CENTER, 0 * STD)
    with pytest.raises(ValueError, match=r"cdf must lie in \[0, 1\], got -"):
        metrics.rmsce(Y)
    with pytest.raises(
        ValueError, match="proportion must be one of 'interval', 'quantile', got 'half'"
    ):
        metrics.rmsce(np.array([0.5]), proportion="half")
    with pytest.raises(ValueError, match="num_points must be at least 2, got 1"):
        metrics.rmsce(np.array([0.5]), num_points=1)
    with pytest.raises(ValueError, match="two samples if fair"):
        metrics.crps_samples(Y, CENTER[None], fair=True)
