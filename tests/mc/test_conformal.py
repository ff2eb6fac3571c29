"""Conformal prediction: MAPIE and crepes, and the guarantee by enumeration."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import _binomial, conformal
from jaxdrop.mc._ranks import Share
from jaxdrop.mc.conformal._classification import adaptive
from tests.compilation import quick

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "conformal.json").read_text())
DATA = {name: np.asarray(x) for name, x in GOLDEN.items() if isinstance(x, list)}
OLD, NEW = slice(0, 60), slice(60, None)
RNG = np.random.default_rng(0)


# -- what others say


def _intervals(kind: str, coverage: float, data: dict[str, Any]) -> Any:
    y, mean, std = data["y"], data["mean"], data["std"] if kind == "normalized" else None
    if kind == "quantile":
        lower, upper = data["lower"], data["upper"]
        scores = conformal.quantile_scores(y, lower[OLD], upper[OLD])
        threshold = conformal.calibrate(scores, coverage)
        return conformal.quantile_interval(lower[NEW], upper[NEW], threshold)
    parts = [(None if std is None else std[part]) for part in (OLD, NEW)]
    scores = conformal.residual_scores(y, mean[OLD], parts[0])
    if kind == "groups":
        groups = DATA["groups"]
        threshold = conformal.by_group(
            conformal.calibrate(scores, coverage, groups=groups[OLD]), groups[NEW]
        )
    else:
        threshold = conformal.calibrate(scores, coverage)
    return conformal.residual_interval(mean[NEW], threshold, parts[1])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("coverage", [0.55, 0.75])
def test_intervals_of_crepes_and_mapie(coverage: float, dtype: Any) -> None:
    data = {name: x.astype(dtype) for name, x in DATA.items()}
    with jax.enable_x64(dtype == np.float64):
        for kind, others in {
            "absolute": ["crepes", "mapie"],
            "normalized": ["crepes"],
            "groups": ["crepes"],
            "quantile": ["mapie"],
        }.items():
            found = np.stack(_intervals(kind, coverage, data), -1)
            assert found.dtype == dtype
            for other in others:
                expected = DATA[f"{other} {kind} {coverage}"]
                tolerance = 1e-12 if dtype == np.float64 else 1e-6
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("coverage", [0.55, 0.75])
def test_sets_of_mapie(coverage: float, dtype: Any) -> None:
    probs, labels = DATA["probs"].astype(dtype), DATA["labels"]
    with jax.enable_x64(dtype == np.float64):
        for kind in ("lac", "aps", "raps"):
            expected = GOLDEN[f"mapie {kind} {coverage}"]
            examples = np.asarray(expected.get("examples", np.arange(60)))

            def scores(part: Any, uniform: str, kind: str = kind, its: Any = expected) -> Any:
                if kind == "lac":
                    return conformal.lac(probs[part])
                return adaptive(
                    jnp.asarray(probs[part]),
                    jnp.asarray(DATA[f"uniform {uniform}"], dtype),
                    jnp.asarray(its.get("penalty", 0), dtype),
                    jnp.int32(its.get("rank", 1)),
                )

            known = scores(examples, "raps" if kind == "raps" else "old")
            threshold = conformal.calibrate(conformal.of_labels(labels[examples], known), coverage)
            tolerance = 1e-12 if dtype == np.float64 else 1e-6
            np.testing.assert_allclose(threshold, expected["threshold"], rtol=tolerance)
            members = conformal.sets(scores(NEW, "new"), threshold)
            np.testing.assert_array_equal(members, expected["sets"])


# -- the guarantee


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("number", [1, 4, 9, 12])
def test_coverage_is_exact_whichever_of_exchangeable_examples_is_new(number: int) -> None:
    """Of n + 1 examples each is the new one equally often. Where the rank exceeds n, all are
    covered.
    """
    scores = RNG.permutation(number + 1).astype(np.float32)
    rest = np.array([np.delete(scores, at) for at in range(number + 1)])
    texts = ["0.1", "0.5", "0.75", "0.9", "0.95"]
    levels = np.float32([*map(float, texts)])
    calibrate = quick(jax.vmap(jax.vmap(conformal.calibrate, (0, None)), (None, 0)))
    covered = np.asarray(calibrate(rest, levels))
    found = (scores <= covered).sum(-1)
    expected = [math.ceil(Fraction(text) * (number + 1)) for text in texts]
    np.testing.assert_array_equal(found, expected)
    infinite = np.asarray(expected) > number
    np.testing.assert_array_equal(np.isinf(covered).all(-1), infinite)
    np.testing.assert_array_equal(np.isinf(covered).any(-1), infinite)


@pytest.mark.sweep
def test_ranks_are_exact() -> None:
    counts = np.r_[1:2000, RNG.integers(1, 2**24, 500), 10**6, 10**7].astype(np.int32)
    ranks = quick(lambda share, counts: jax.vmap(share.of_count)(counts))
    for text in ("0.9", "0.56", "0.07", "0.999"):
        expected = [math.ceil(Fraction(text) * int(count)) for count in counts]
        found = ranks(Share.of("caller", "coverage", float(text)), counts)
        np.testing.assert_array_equal(found, expected)
    complement = ranks(Share.of("caller", "coverage", 1 - 0.7), counts)
    np.testing.assert_array_equal(
        complement, [math.ceil(Fraction("0.3") * int(count)) for count in counts]
    )
    traced = quick(lambda level: Share.of("caller", "coverage", level).of_count(jnp.int32(200)))
    assert traced(jnp.float32(0.99)) == 198


@pytest.mark.sweep
def test_randomized_scores_of_labels_from_the_probabilities_are_uniform() -> None:
    """`sum_c p_c P(above_c + u p_c <= t) = t`: coverage given the input is exact then."""
    probs = np.float32(RNG.dirichlet(np.ones(5), 20))
    bounds = [
        np.asarray(
            adaptive(jnp.asarray(probs), jnp.full(20, u, jnp.float32), jnp.float32(0), jnp.int32(1))
        )
        for u in (0, 1)
    ]
    np.testing.assert_allclose(bounds[1] - bounds[0], probs, atol=1e-6)
    np.testing.assert_array_equal(bounds[1], conformal.aps(probs))
    for level in (0.1, 0.5, 0.9):
        share = np.clip((level - bounds[0]) / probs, 0, 1)
        np.testing.assert_allclose((probs * share).sum(-1), level, rtol=1e-5)


def test_groups_are_calibrated_by_themselves() -> None:
    scores, groups = np.float32(RNG.random((50, 2))), RNG.integers(0, 3, 50)
    groups[groups == 2] = 3
    where = RNG.random((50, 2)) < 0.8
    found = conformal.calibrate(scores, 0.8, groups=groups, num_groups=5, where=where)
    assert found.shape == (5, 2)
    assert np.isinf(found[np.array([2, 4])]).all()
    for group, column in itertools.product((0, 1, 3), (0, 1)):
        chosen = scores[(groups == group) & where[:, column], column]
        assert found[group, column] == conformal.calibrate(chosen, 0.8)
    one = conformal.by_group(found, np.array([[3, 0]]))
    np.testing.assert_array_equal(one, np.asarray(found)[[[3, 0]]])


# -- selective prediction


@pytest.mark.sweep
def test_the_tail_of_a_binomial() -> None:
    tail = quick(_binomial.lower_tail)
    for number, rate in itertools.product((1, 20, 1000, 10**6), (0.01, 0.3)):
        trials = RNG.integers(max(number // 2, 1), number + 1, 50)
        level = 10 ** RNG.uniform(-5, -0.5, 50)
        errors = np.clip(stats.binom.ppf(level, trials, rate), 0, trials - 1)
        expected = np.where(errors < trials * rate, stats.binom.cdf(errors, trials, rate), 1)
        found = tail(errors.astype(np.int32), trials.astype(np.int32), jnp.float32(rate))
        np.testing.assert_allclose(found, expected, rtol=5e-4)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("rates", [(0.1, 0.7), (0.45, 0.6), (0.6, 0.2), (0.55, 0.55)])
def test_the_risk_is_exceeded_as_seldom_as_stated(
    rates: tuple[float, float], sequence: bool
) -> None:
    """Over all data sets of seven examples of two uncertainties, also where the more certain ones
    are wrong more often.
    """
    each = np.array([*itertools.product(range(4), repeat=7)])
    errors, uncertainty = (each % 2).astype(np.float32), (each // 2).astype(np.float32)
    chance = np.where(uncertainty == 0, rates[0], rates[1])
    weight = np.where(errors == 1, chance, 1 - chance).prod(-1) / 2**7
    options = {"thresholds": np.float32([1, 2])} if sequence else {"num_candidates": 2}
    select = functools.partial(conformal.selective, risk=0.5, confidence=0.8, **options)
    found = jax.tree.map(np.asarray, quick(jax.vmap(select))(errors, uncertainty))
    threshold = found.threshold
    assert set(threshold) <= {-np.inf, 1, 2 if sequence else np.inf}
    actual = np.select([threshold == 1, threshold >= 2], [rates[0], np.mean(rates)], 0)
    assert weight[actual > 0.5].sum() <= 0.2
    accepted = uncertainty < threshold[:, None]
    np.testing.assert_allclose(found.coverage, accepted.mean(-1), rtol=1e-6)
    risk = (errors * accepted).sum(-1) / np.maximum(accepted.sum(-1), 1)
    np.testing.assert_allclose(found.risk, risk, rtol=1e-6)
    if rates == (0.1, 0.7):
        assert weight[threshold > -np.inf].sum() > 0.3  # not by accepting nothing


@pytest.mark.parametrize("number", [1, 4])
def test_everything_is_accepted_if_the_clopper_pearson_bound_is_low_enough(number: int) -> None:
    """Each of the tests takes its share of what may go wrong."""
    errors = np.tril(np.ones((41, 40), np.float32), -1)
    select = functools.partial(conformal.selective, risk=0.3, confidence=0.9, num_candidates=number)
    found = quick(jax.vmap(select, (0, None)))(errors, np.zeros(40, np.float32))
    bound = stats.beta.ppf(1 - 0.1 / number, np.arange(40) + 1, 40 - np.arange(40))
    np.testing.assert_array_equal(np.isposinf(found.threshold), np.append(bound <= 0.3, False))


def test_all_or_nothing() -> None:
    uncertainty = RNG.random(1000)
    everything = conformal.selective(np.zeros(1000), uncertainty, 0.02)
    assert (everything.threshold, everything.coverage, everything.risk) == (np.inf, 1, 0)
    errors = np.r_[np.zeros(500), np.ones(500)]
    steps = np.arange(100.0, 1000, 50)
    sequence = conformal.selective(errors, np.arange(1000.0), 0.05, thresholds=steps)
    assert sequence.threshold == 500
    assert conformal.selective(1 - errors, np.arange(1000.0), 0.05, thresholds=steps).coverage == 0
    first_wrong = np.arange(1000) < 20
    stopped = conformal.selective(first_wrong, np.arange(1000.0), 0.05, thresholds=steps)
    assert stopped.threshold == -np.inf  # although the risk of all is 0.02
    half = conformal.selective(errors, np.arange(1000.0), 0.05, where=np.arange(1000) % 2 == 0)
    assert 400 < half.threshold <= 550
    assert half.risk <= 0.05


def test_one_example_may_be_enough() -> None:
    """If its chance of being right by luck is as low as stated."""
    one = functools.partial(conformal.selective, [0.0], [0.3], num_candidates=1)
    assert one(0.97) == (np.inf, 1, 0)
    assert one(0.9) == one(0.97, thresholds=[0.1]) == (-np.inf, 0, 0)


def test_candidates_are_evenly_spaced() -> None:
    """From the least number that is evidence on, `log(0.1 / 4) / log(0.5)`, to all."""
    errors = np.float32(np.arange(100) >= np.arange(101)[:, None])
    select = functools.partial(conformal.selective, risk=0.5, confidence=0.9, num_candidates=4)
    found = quick(jax.vmap(select, (0, None)))(errors, np.arange(100, dtype=np.float32))
    numbers = np.unique(np.rint(100 * found.coverage))
    assert numbers[[0, -1]].tolist() == [0, 100]
    steps = np.diff([6, *numbers[1:]])
    assert (len(steps), steps.min(), steps.max()) == (4, 23, 24)
    limited = np.isfinite(found.threshold)
    np.testing.assert_allclose(found.threshold[limited], 100 * found.coverage[limited])


# -- as users call it


def test_sets() -> None:
    probs = np.float32([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]])
    for threshold, members in {0.5: [[1, 0, 0], [0, 0, 0]], 0.7: [[1, 1, 0], [1, 1, 0]]}.items():
        np.testing.assert_array_equal(conformal.sets(conformal.lac(probs), threshold), members)
    both = conformal.sets(conformal.lac(probs), np.float32([0.7, 0.5]))
    np.testing.assert_array_equal(both, [[1, 1, 0], [0, 0, 0]])
    some = conformal.sets(conformal.lac(probs), 0.5, allow_empty=False)
    np.testing.assert_array_equal(some, [[1, 0, 0], [1, 0, 0]])
    assert conformal.sets(conformal.lac(probs), np.inf).all()
    scores = conformal.raps(probs, penalty=0.1, rank=1)
    np.testing.assert_allclose(scores, [[0.5, 0.9, 1.2], [0.4, 0.85, 1.2]], rtol=1e-6)
    every = conformal.raps(probs, penalty=0.1, rank=0)  # also the first class has one
    np.testing.assert_allclose(every, scores + np.float32(0.1), rtol=1e-6)


def test_pixels_without_a_label_do_not_count() -> None:
    probs = RNG.dirichlet(np.ones(3), (2, 4, 5)).astype(np.float32)
    labels = np.where(RNG.uniform(size=(2, 4, 5)) < 0.3, 255, RNG.integers(0, 3, (2, 4, 5)))
    counts = labels != 255
    scores = conformal.of_labels(labels, conformal.lac(probs), where=counts)
    expected = 1 - np.take_along_axis(probs, np.where(counts, labels, 0)[..., None], -1)[..., 0]
    np.testing.assert_array_equal(scores, np.where(counts, expected, np.nan))
    threshold = conformal.calibrate(scores.ravel(), 0.8, where=counts.ravel())
    assert threshold == conformal.calibrate(expected[counts], 0.8)
    # What does not count is NaN, whatever its label is.
    within = conformal.of_labels(0 * labels, conformal.lac(probs), where=counts)
    np.testing.assert_array_equal(np.isnan(within), ~counts)
    with pytest.raises(ValueError, match="such as where=labels != 255"):
        conformal.of_labels(labels, conformal.lac(probs))


def test_a_key_that_is_no_key_is_told_the_order() -> None:
    probs = np.full((2, 2), 0.5, np.float32)
    for call, order in (
        (lambda: conformal.aps(probs, 0), r"aps\(probs, key\)"),
        (lambda: conformal.raps(probs, 0, penalty=0.1, rank=1), r"raps\(probs, key\)"),
        (
            lambda: mc.until(jax.random.uniform, 0, tolerance=0.1, max_samples=200),
            r"mc.until\(fn, key\)",
        ),
    ):
        with pytest.raises(TypeError, match=rf"The order of the arguments is {order}\.$"):
            call()
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"^mc\.until takes a single key"):
        mc.until(jax.random.uniform, keys, tolerance=0.1, max_samples=200)


def test_crossing_bounds_meet_in_the_middle() -> None:
    lower, upper = conformal.quantile_interval(np.zeros(2), np.array([1.0, 4.0]), -1.0)
    np.testing.assert_array_equal([lower, upper], [[0.5, 1], [0.5, 3]])
    np.testing.assert_array_equal(conformal.residual_interval([1.0, 2.0], 0.0), [[1, 2]] * 2)


def test_adaptive_sampling_and_summaries() -> None:
    """Scores of what `mc.until` returns, in one program (MC-CP)."""
    x = np.float32(RNG.normal(size=(30, 8)))
    labels = RNG.integers(0, 3, 30)
    weights = np.float32(RNG.normal(size=(8, 3)))

    @quick
    def run(key: jax.Array, x: jax.Array) -> Any:
        def one(x: jax.Array) -> Any:
            reached = mc.until(
                lambda key: jaxdrop.dropout(key, x, 0.3) @ weights,
                key,
                tolerance=0.05,
                max_samples=64,
                batch_size=8,
                summary=lambda logits: mc.classification(logits=logits, binary=False),
            )
            return reached.summary.mean, reached.num_samples

        probs, used = jax.vmap(one)(x)
        scores = conformal.aps(probs, jax.random.key(1))
        threshold = conformal.calibrate(conformal.of_labels(labels, scores), 0.8)
        return conformal.sets(scores, threshold), used

    members, used = run(jaxdrop.key(0), x)
    assert np.asarray(members)[np.arange(30), labels].sum() >= 0.8 * 30
    assert len(set(np.asarray(used))) > 1


def test_examples_divided_among_devices() -> None:
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
    scores, groups = np.float32(RNG.random(48)), RNG.integers(0, 2, 48)
    placed = jax.device_put(scores, NamedSharding(mesh, PartitionSpec("a")))
    found = conformal.calibrate(placed, 0.8, groups=groups)
    np.testing.assert_array_equal(found, conformal.calibrate(scores, 0.8, groups=groups))
    errors = jax.device_put(
        (scores > 0.8).astype(np.float32), NamedSharding(mesh, PartitionSpec("a"))
    )
    np.testing.assert_array_equal(
        conformal.selective(errors, placed, 0.3),
        conformal.selective(np.asarray(errors), scores, 0.3),
    )


def test_what_is_impossible_is_nan_where_it_cannot_raise() -> None:
    scores, groups = jnp.asarray(RNG.random(20), jnp.float32), jnp.asarray(RNG.integers(0, 2, 20))
    calibrate = quick(
        lambda scores, level, groups: conformal.calibrate(
            scores, level, groups=groups, num_groups=2
        )
    )
    fine = calibrate(scores, jnp.float32(0.5), groups)
    assert np.isfinite(fine).all()
    assert np.isnan(calibrate(scores, jnp.float32(1.5), groups)).all()
    assert np.isnan(calibrate(scores, jnp.float32(0.5), groups.at[3].set(2))).all()
    unknown = calibrate(scores.at[0].set(jnp.nan), jnp.float32(0.5), groups)
    np.testing.assert_array_equal(np.isnan(unknown), np.arange(2) == groups[0])
    alone = calibrate(jnp.float32([np.nan]), jnp.float32(0.5), jnp.zeros(1, jnp.int32))
    np.testing.assert_array_equal(alone, [np.nan, np.inf])
    members = quick(conformal.sets)(jnp.float32([[0.1, jnp.nan]]), jnp.float32(0))
    np.testing.assert_array_equal(members, [[False, True]])
    assert np.isnan(quick(conformal.residual_scores)(scores, scores, 0 * scores)).all()
    errors = jnp.zeros(20)
    select = quick(lambda *given: conformal.selective(*given[:2], 0.5, thresholds=given[2]))
    increasing = jnp.float32([0.2, 0.9])
    for wrong, doubt, thresholds, possible in (
        (errors, scores, increasing, True),
        (2 * scores, scores, increasing, False),
        (errors, scores.at[0].set(jnp.nan), increasing, False),
        (errors, scores, increasing[::-1], False),
        (errors, scores, jnp.float32([0.9, 0.9]), False),
    ):
        assert np.isnan(select(wrong, doubt, thresholds).threshold) != possible


def _raises(kind: type[Exception], match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_bad_input() -> None:
    scores, probs = RNG.random(20), RNG.dirichlet(np.ones(3), 20)
    calibrate = conformal.calibrate
    _raises(ValueError, r"coverage must lie in \(0, 1\), got 90", lambda: calibrate(scores, 90))
    _raises(
        ValueError, "coverage must be a single number", lambda: calibrate(scores, np.array([0.5]))
    )
    _raises(
        ValueError, "takes scores without NaN, got 1", lambda: calibrate(np.array([1.0, np.nan]))
    )
    _raises(ValueError, "at least one entry", lambda: calibrate(np.zeros(0)))
    _raises(ValueError, "got a single number", lambda: calibrate(np.float32(1)))
    summary = mc.regression(scores[None], tau=1.0)
    _raises(
        TypeError,
        r"got Regression\(.*Pass one of its fields, such as .mean",
        lambda: conformal.residual_scores(scores, summary),
    )
    groups = np.arange(20)
    _raises(
        ValueError,
        r"groups must lie in \[0, 3\), where 3 is num_groups, got 0 to 19",
        lambda: calibrate(scores, groups=groups, num_groups=3),
    )
    _raises(TypeError, "groups of integers", lambda: calibrate(scores, groups=scores))
    _raises(ValueError, r"groups of shape \(20,\)", lambda: calibrate(scores, groups=groups[1:]))
    _raises(TypeError, "not given", lambda: calibrate(scores, num_groups=3))
    _raises(
        TypeError,
        "takes num_groups=.*where groups are traced",
        lambda: jax.jit(lambda groups: calibrate(scores, groups=groups))(groups),
    )
    _raises(
        ValueError,
        r"groups must lie in \[0, 2\)",
        lambda: conformal.by_group(scores[:2], np.array([2])),
    )
    for thresholds in (np.float32(1), np.zeros(0)):
        _raises(
            ValueError,
            r"by_group takes thresholds of shape \(G, ...\)",
            lambda thresholds=thresholds: conformal.by_group(thresholds, np.array([0])),
        )
    _raises(
        ValueError,
        r"std must lie in \(0, infinity\), got 0",
        lambda: conformal.residual_scores(scores, scores, 0 * scores),
    )
    _raises(
        ValueError,
        r"threshold must lie in \[0, infinity\], got -1",
        lambda: conformal.residual_interval(scores, -1.0),
    )
    _raises(
        ValueError,
        r"threshold of shape \(3,\) does not broadcast to predictions of shape \(20,\)",
        lambda: conformal.residual_interval(scores, np.ones(3)),
    )
    _raises(
        ValueError,
        "threshold must not be NaN",
        lambda: conformal.quantile_interval(scores, scores, np.nan),
    )
    _raises(ValueError, "must sum to 1", lambda: conformal.aps(3 * probs))
    for shape in ((4, 1), (), (0, 3)):
        _raises(
            ValueError, "at least two classes", lambda shape=shape: conformal.lac(np.ones(shape))
        )
    for shape in ((), (0, 3)):
        _raises(
            ValueError,
            r"sets takes scores of",
            lambda shape=shape: conformal.sets(np.ones(shape), 1),
        )
    _raises(
        ValueError,
        r"threshold of shape \(3,\) does not broadcast to inputs of shape \(20,\)",
        lambda: conformal.sets(probs, np.ones(3)),
    )
    _raises(TypeError, "key", lambda: conformal.aps(probs, 3))
    _raises(
        ValueError,
        "rank must be at least 0, got -1",
        lambda: conformal.raps(probs, penalty=0.1, rank=-1),
    )
    _raises(ValueError, "penalty must lie in", lambda: conformal.raps(probs, penalty=-0.1, rank=1))
    _raises(
        ValueError,
        r"labels must lie in \[0, 3\)",
        lambda: conformal.of_labels(np.full(20, 3), probs),
    )
    _raises(ValueError, "scores without NaN", lambda: conformal.sets(np.array([[np.nan, 1]]), 1.0))
    _raises(
        ValueError,
        r"errors must be 0 or 1, or booleans, .* got 0.* to",
        lambda: conformal.selective(scores, scores, 0.1),
    )
    _raises(
        ValueError,
        r"risk must lie in \(0, 1\), got 5",
        lambda: conformal.selective(scores > 1, scores, 5),
    )
    _raises(
        ValueError,
        "thresholds must increase",
        lambda: conformal.selective(scores > 1, scores, 0.1, thresholds=[0.2, 0.2]),
    )
    for shape in ((), (0,), (1, 2)):
        _raises(
            ValueError,
            "thresholds must have shape",
            lambda shape=shape: conformal.selective(
                scores > 1, scores, 0.1, thresholds=np.ones(shape)
            ),
        )
    _raises(
        ValueError,
        "num_candidates must be at least 1",
        lambda: conformal.selective(scores > 1, scores, 0.1, num_candidates=0),
    )
