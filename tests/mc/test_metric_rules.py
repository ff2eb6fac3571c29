"""What holds of every metric: what `where` leaves out, what is impossible, meshes, and labels with
two values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn import calibration as sklearn_calibration
from sklearn import metrics as sklearn_metrics

from jaxdrop import mc
from jaxdrop.mc import metrics
from tests.compilation import quick

RNG = np.random.default_rng(0)
LABELS, PROBS = RNG.integers(0, 4, 48), np.float32(RNG.dirichlet(np.ones(4), 48))
ONES, CHANCES = RNG.integers(0, 2, (48, 3)), np.float32(np.round(RNG.random((48, 3)), 1))
CHANCES[0], ONES[0] = 0.25, 0
Y, MEAN, SAMPLES = (
    np.float32(RNG.normal(size=48)),
    np.float32(RNG.normal(size=48)),
    np.float32(RNG.normal(size=(5, 48))),
)
STD, CDF, ERRORS = (
    np.float32(RNG.uniform(0.5, 2, 48)),
    np.float32(RNG.random(48)),
    np.float32(RNG.integers(0, 3, 48)),
)
LOGITS = np.float32(RNG.normal(size=(3, 48, 4)))


class Judge(NamedTuple):
    """A metric, its arrays, of which the examples lie along the first axis, and the first entries
    that are impossible.
    """

    metric: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    bad: tuple[Any, ...]


def _classes(metric: Callable[..., Any], binary: bool = True) -> dict[str, Judge]:
    probs: Any = [np.nan, 0.5, 0.5, 0.5], [1, -1, 1, 0], [9, 9, 9, 9]
    name = metric.__name__
    judges = {
        name: Judge(
            metric,
            (LABELS, PROBS),
            (*((-1, row) for row in probs), (4, PROBS[0]), (2**31 - 1, PROBS[0])),
        )
    }
    if binary:
        impossible = (-1, 0.5), (0, np.nan), (0, -0.5), (1, 1.5), (2, 0.5)
        judges[f"{name}, binary"] = Judge(
            functools.partial(metric, binary=True), (ONES, CHANCES), impossible
        )
    return judges


def _samples(metric: Callable[..., Any]) -> Callable[..., Any]:
    return lambda first, samples, **options: metric(first, jnp.moveaxis(samples, 1, 0), **options)


def _observed(metric: Callable[..., Any], *arrays: np.ndarray, bad: Any = ()) -> dict[str, Judge]:
    nan = tuple(
        tuple(np.nan if here == at else x[0] for here, x in enumerate(arrays))
        for at in range(len(arrays))
    )
    return {metric.__name__: Judge(metric, arrays, (*nan, *bad))}


def _curves(errors: Any, uncertainty: Any, **options: Any) -> jax.Array:
    return metrics.coverage_at_risk(errors, uncertainty, 0.9, **options) + metrics.risk_at_coverage(
        errors, uncertainty, 0.7, **options
    )


def _interval_scores(*arrays: Any, **options: Any) -> jax.Array:
    return metrics.interval_score(*arrays, coverage=0.7, **options)


JUDGES = {
    name: judge
    for each in (
        *map(
            _classes,
            (metrics.nll, metrics.brier, metrics.accuracy, metrics.ece, metrics.classwise_ece),
        ),
        _classes(metrics.adaptive_ece, binary=False),
        {
            "nll, log_probs": Judge(
                lambda labels, logs, **options: metrics.nll(labels, log_probs=logs, **options),
                (LABELS, np.log(PROBS)),
                ((-1, np.log(PROBS[0])), (0, PROBS[0]), (0, np.full(4, np.nan))),
            ),
            "fit_temperature": Judge(
                _samples(mc.fit_temperature), (LABELS, LOGITS.swapaxes(0, 1)), ((-1, LOGITS[:, 0]),)
            ),
            "crps_samples": Judge(
                _samples(metrics.crps_samples),
                (Y, SAMPLES.T),
                ((np.nan, SAMPLES[:, 0]), (0, np.nan)),
            ),
        },
        _observed(metrics.rmse, Y, MEAN),
        _observed(metrics.gaussian_nll, Y, MEAN, STD, bad=[(0, 0, 0), (0, 0, -1)]),
        _observed(metrics.crps_gaussian, Y, MEAN, STD, bad=[(0, 0, 0), (0, 0, -1)]),
        _observed(metrics.picp, Y, MEAN - STD, MEAN + STD, bad=[(0, 1, -1)]),
        _observed(metrics.mpiw, MEAN - STD, MEAN + STD, bad=[(1, -1)]),
        _observed(metrics.sharpness, STD, bad=[(-1,)]),
        _observed(metrics.rmsce, CDF, bad=[(1.5,), (-0.5,)]),
        _observed(metrics.aurc, ERRORS, CDF),
        _observed(metrics.augrc, ERRORS, CDF),
        _observed(_curves, ERRORS, CDF),
        _observed(_interval_scores, Y, MEAN - STD, MEAN + STD, bad=[(0, 1, -1)]),
        {
            "crps_mixture": Judge(
                _samples(functools.partial(metrics.crps_mixture, tau=4.0)),
                (Y, SAMPLES.T),
                ((np.nan, SAMPLES[:, 0]), (0, np.nan)),
            ),
            "pinball": Judge(
                _samples(
                    functools.partial(metrics.pinball, q=np.float32([0.1, 0.2, 0.5, 0.8, 0.9]))
                ),
                (Y, SAMPLES.T),
                ((np.nan, SAMPLES[:, 0]), (0, np.nan)),
            ),
            "set_coverage": Judge(metrics.set_coverage, (LABELS, PROBS > 0.2), ((4, True),)),
            "coverage_by_group": Judge(
                lambda covered, groups, **options: metrics.coverage_by_group(
                    covered, groups, num_groups=4, **options
                ).coverage.mean(),
                (PROBS[:, 0] > 0.2, LABELS),
                ((True, 4), (True, -1)),
            ),
        },
        _observed(metrics.ause, ERRORS, CDF),
    )
    for name, judge in each.items()
}
every = pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)


def _value(judge: Judge, *arrays: Any, **options: Any) -> jax.Array:
    found = judge.metric(*arrays, **options)
    return found.temperature if isinstance(found, mc.FittedTemperature) else found


def _with(judge: Judge, bad: tuple[Any, ...]) -> list[np.ndarray]:
    arrays = [array.copy() for array in judge.arrays]
    for array, entry in zip(arrays, bad, strict=True):
        array[0] = entry
    return arrays


@pytest.mark.sweep(keep=4)
@every
def test_where_is_a_selection_and_the_rest_is_not_looked_at(judge: Judge) -> None:
    """What is impossible does not matter there; elsewhere it is an error, or NaN if it is not
    known.
    """
    where = np.arange(48) % 3 != 0
    expected = quick(functools.partial(_value, judge))(*(array[where] for array in judge.arrays))
    if judge.arrays[0].ndim == 2:
        where = np.repeat(where[:, None], 3, axis=1)
    traced = quick(lambda where, *arrays: _value(judge, *arrays, where=where))
    everywhere = np.ones_like(where)
    for bad in judge.bad:
        arrays = _with(judge, bad)
        for found in (traced(where, *arrays), _value(judge, *arrays, where=where)):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
        assert np.isnan(traced(everywhere, *arrays)), bad
        with pytest.raises(
            ValueError,
            match=r"must lie in|without NaN|must not be negative|lower <= upper",
        ):
            _value(judge, *arrays)
    np.testing.assert_allclose(
        traced(everywhere, *judge.arrays), _value(judge, *judge.arrays), rtol=2e-5, atol=1e-7
    )
    assert np.isnan(traced(~everywhere, *judge.arrays))
    with pytest.raises(ValueError, match="where must leave at least one entry"):
        _value(judge, *judge.arrays, where=~everywhere)


@pytest.mark.sweep(keep=4)
@every
def test_examples_divided_among_devices(judge: Judge) -> None:
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
    placed = [
        jax.device_put(array, NamedSharding(mesh, PartitionSpec("a"))) for array in judge.arrays
    ]
    np.testing.assert_allclose(
        _value(judge, *placed), _value(judge, *judge.arrays), rtol=2e-5, atol=1e-7
    )


def test_curves_divided_among_devices_under_jit() -> None:
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        errors, uncertainty = (jax.device_put(x, PartitionSpec("a")) for x in (ERRORS, CDF))
        found = jax.jit(metrics.risk_coverage)(errors, uncertainty)
        scores = jax.jit(lambda x: mc.acquisition.top(x, 3))(uncertainty)
    np.testing.assert_allclose(found.risk, metrics.risk_coverage(ERRORS, CDF).risk, rtol=1e-5)
    np.testing.assert_array_equal(scores, CDF.argsort()[:-4:-1])


# -- labels with two values


@pytest.mark.sweep
def test_two_values_of_sklearn() -> None:
    y, p = ONES.ravel(), CHANCES.ravel().astype(float)
    inner = np.clip(CHANCES, 0.05, 0.95)
    found = (
        metrics.nll(ONES, inner, binary=True),
        metrics.nll(ONES, log_probs=np.log(inner), binary=True),
    )
    np.testing.assert_allclose(
        found, [sklearn_metrics.log_loss(y, inner.ravel().astype(float))] * 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.brier(ONES, CHANCES, binary=True), sklearn_metrics.brier_score_loss(y, p), rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.accuracy(ONES, CHANCES, binary=True), sklearn_metrics.accuracy_score(y, p > 0.5)
    )
    inner = 0.9 * CHANCES + np.float32(
        0.03
    )  # off the edges of bins, of which scikit-learn's hold the upper one
    bins = metrics.reliability(ONES == 1, inner, binary=True, num_bins=7)
    accuracy, confidence = sklearn_calibration.calibration_curve(y, inner.ravel(), n_bins=7)
    filled = np.asarray(bins.count) > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-6)
    np.testing.assert_allclose(bins.confidence[filled], confidence, rtol=1e-6)
    each = [metrics.ece(ONES[:, label], CHANCES[:, label], binary=True) for label in range(3)]
    np.testing.assert_allclose(
        metrics.classwise_ece(ONES, CHANCES, binary=True), np.mean(each), rtol=1e-6
    )


@pytest.mark.sweep
def test_two_values_far_from_a_half() -> None:
    """Both logarithms keep their digits, and a probability that rounding made larger than 1 is
    1.
    """
    assert metrics.nll([0], np.float32([1e-9]), binary=True) == np.float32(1e-9)
    np.testing.assert_allclose(
        metrics.nll([0, 1], log_probs=np.float32([-1e-9, -200]), binary=True),
        (np.log(1e9) + 200) / 2,
    )
    above = np.float32([1 + 2e-7])
    for given in ({"probs": above}, {"log_probs": np.log(above)}):
        found = [metrics.nll([label], **given, binary=True) for label in (1, 0)]
        assert found == [0, np.inf]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("pooled", [False, True])
def test_temperature_of_two_values_is_that_of_two_classes(pooled: bool) -> None:
    logits = 3 * LOGITS[..., 0]
    two = np.stack([np.zeros_like(logits), logits], axis=-1)

    @quick
    def both(labels: jax.Array, two: jax.Array, logits: jax.Array) -> Any:
        fit = functools.partial(mc.fit_temperature, pooled=pooled)
        return fit(labels == 1, logits, binary=True), fit(labels, two)

    found, expected = both(ONES[:, 0], two, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_could_be_either_is_refused() -> None:
    for labels, probs, options, hint in (
        (ONES, CHANCES, {}, r"One-hot labels: pass labels.argmax\(-1\). .* pass binary=True"),
        (
            ONES[:, 0],
            CHANCES[:, :1],
            {},
            r"two classes at least, .* pass probs\[..., 0\] and binary=True",
        ),
        (
            ONES[:, 0],
            CHANCES[:, :1],
            {"binary": True},
            r"got labels of shape \(48,\) for probs of shape \(48, 1\). Pass probs\[..., 0\]",
        ),
        (
            ONES[:, 0],
            CHANCES[:, :2],
            {"binary": True},
            r"Pass probs\[..., 1\], or leave binary=True out",
        ),
        (ONES, 9 * CHANCES, {"binary": True}, r"probs must lie in \[0, 1\], .* Are they logits\?"),
    ):
        for metric in (metrics.brier, metrics.ece):
            with pytest.raises(ValueError, match=hint):
                metric(labels, probs, **options)
    with pytest.raises(ValueError, match="several labels along the last axis"):
        metrics.classwise_ece(ONES[:, 0], CHANCES[:, 0], binary=True)
    with pytest.raises(TypeError, match=r"integer labels, .* one-hot: pass labels.argmax"):
        metrics.brier(np.float32(np.eye(4))[LABELS], PROBS)


# -- integers of any width, and wrong containers


@pytest.mark.parametrize(
    "labels", [np.array([2**40]), np.array([2**63], np.uint64), [2**31], np.array([255], np.uint8)]
)
def test_labels_are_checked_before_they_are_cut(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\), got"):
        metrics.brier(labels, PROBS[:1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8"])
def test_labels_and_groups_of_any_integers(dtype: str) -> None:
    """Labels of MNIST are bytes, and NumPy puts no -1 beside them."""
    labels, groups = LABELS.astype(dtype), ONES[:, 0].astype(dtype)
    assert metrics.brier(labels, PROBS) == metrics.brier(LABELS, PROBS)
    assert metrics.brier(groups, CHANCES[:, 0], binary=True) == metrics.brier(
        ONES[:, 0], CHANCES[:, 0], binary=True
    )
    found = metrics.coverage_by_group(LABELS == 0, groups)
    np.testing.assert_array_equal(found.size, np.bincount(ONES[:, 0]))
    ignored = np.where(np.arange(48) < 5, 100, LABELS).astype(dtype)
    np.testing.assert_allclose(
        metrics.brier(ignored, PROBS, where=ignored != 100),
        metrics.brier(LABELS[5:], PROBS[5:]),
        rtol=1e-6,
    )


def test_what_labels_of_another_dtype_or_shape_are_told() -> None:
    """No advice names an argument that the function does not have."""
    scores = mc.conformal.lac(PROBS)
    sets = np.asarray(scores) < 0.5
    hot = np.eye(4, dtype=int)[LABELS]
    for call, hint in (
        (lambda: metrics.nll(ONES + 0.0, CHANCES, binary=True), r"pass labels.astype\(int\)\.$"),
        (lambda: metrics.nll(LABELS + 0.0, PROBS), r"Whole numbers: pass labels.astype\(int\)"),
        (lambda: metrics.nll(ONES[:, 0] == 1, PROBS), "two values: pass binary=True"),
        (lambda: metrics.set_coverage(LABELS == 1, sets), r"labels.argmax\(-1\)"),
    ):
        with pytest.raises(TypeError, match=hint):
            call()
    for call, hint in (
        (
            lambda: mc.conformal.of_labels(hot, scores),
            r"One-hot labels: pass labels.argmax\(-1\)\.$",
        ),
        (lambda: metrics.set_coverage(hot, sets), r"One-hot labels: pass labels.argmax\(-1\)\.$"),
        (lambda: metrics.set_coverage(hot[:, 0], sets[:, :1]), r"got shape \(48, 1\)\.$"),
        (lambda: metrics.nll(LABELS, np.stack([PROBS] * 3)), r"mc.classification\(.*\).mean"),
        (
            lambda: metrics.nll(ONES, np.stack([CHANCES] * 3), binary=True),
            r"mc.classification\(.*\).mean",
        ),
        (lambda: mc.conformal.calibrate(scores[:, 0], groups=0 * LABELS - 2), "got -2 to -2"),
    ):
        with pytest.raises(ValueError, match=hint):
            call()


def test_labels_that_are_known_where_what_counts_is_not() -> None:
    """Those that count must be in range: otherwise the metric is NaN."""
    labels, where = np.where(np.arange(48) == 7, 2**40, LABELS), np.arange(48) != 7
    score = jax.jit(lambda where: metrics.brier(labels, PROBS, where=where))
    np.testing.assert_allclose(score(where), metrics.brier(LABELS[where], PROBS[where]), rtol=1e-5)
    assert np.isnan(score(~where))


def test_numbers_of_integers_are_not_cut() -> None:
    assert metrics.rmse([2**40, 0], np.array([2.0**40, 0])) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"a": 1}, None, "abc", np.array([None, 1]), np.array(["a"]), [2**70], [[1], [1, 2]], object()],
)
def test_what_holds_no_numbers(wrong: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: metrics.brier(wrong, PROBS),
        lambda: metrics.brier(LABELS, wrong),
        lambda: metrics.rmse(Y, wrong),
        lambda: metrics.picp(Y, wrong, Y),
        lambda: metrics.aurc(wrong, Y),
        lambda: metrics.auroc(wrong, Y),
        lambda: mc.fit_temperature(wrong, LOGITS),
        lambda: mc.acquisition.top(wrong, 1),
        lambda: mc.acquisition.bald(wrong),
        lambda: mc.acquisition.power_sampling(
            jax.random.key(0), Y, 1, coldness=wrong, kind="softmax"
        ),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"takes (an array|a Classification)"):
            call()


def test_flags_and_masks() -> None:
    for call in (
        lambda: metrics.ece(LABELS, PROBS, binary="False"),
        lambda: metrics.crps_samples(Y, SAMPLES, fair=1),
    ):
        with pytest.raises(TypeError, match="must be True or False"):
            call()
    with pytest.raises(
        TypeError, match="where must be boolean, true for the entries that count, got int"
    ):
        metrics.ece(LABELS, PROBS, where=LABELS)
    with pytest.raises(ValueError, match=r"where of shape \(47,\) does not broadcast"):
        metrics.ece(LABELS, PROBS, where=np.ones(47, bool))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["probs", "log_probs"])
def test_what_logits_are_told(name: str, binary: bool) -> None:
    """What the rule is, what was given, and what makes probabilities of it."""
    logits = 300 * (LOGITS[0, ..., 0] if binary else LOGITS[0])  # exponentials overflow
    labels = ONES[:, 0] if binary else LABELS
    with pytest.raises(ValueError, match="Are they logits") as caught:
        metrics.nll(labels, **{name: logits}, binary=binary)
    subject = "probs" if name == "probs" else "the exponentials of log_probs"
    rule = "lie in [0, 1]" if binary else "not be negative and must sum to 1 along the last axis"
    sums = logits.sum(-1)
    told = f" and their sums {sums.min():g} to {sums.max():g}"
    function = ("log_" if name == "log_probs" else "") + ("sigmoid" if binary else "softmax")
    assert str(caught.value) == (
        f"{subject} must {rule}, but {name} are {logits.min():g} to {logits.max():g}"
        f"{told if name == 'probs' and not binary else ''}. Are they logits? Pass"
        f" {name}=jax.nn.{function}(logits)."
    )


def test_what_nan_is_told() -> None:
    probs = np.where(np.arange(48)[:, None] == 3, np.nan, PROBS)
    hint = r"4 of 192 entries are NaN: leave them out\.$"
    for call in (
        lambda: metrics.nll(LABELS, probs),
        lambda: mc.conformal.lac(probs),
        lambda: mc.classification(probs=probs[None]),
    ):
        with pytest.raises(ValueError, match=hint):
            call()
    with pytest.raises(ValueError, match=r"1 of 48 entries are NaN: leave them out\.$"):
        metrics.nll(ONES[:, 0], probs[:, 0], binary=True)


def test_a_number_that_is_nearly_one_is_no_one() -> None:
    with pytest.raises(ValueError, match=r"cdf must lie in \[0, 1\], got 0.5 to 1.0000001$"):
        metrics.mace(np.float32([0.5, 1 + 1.2e-7]))


@pytest.mark.parametrize("name", ["probs", "log_probs"])
def test_slopes_where_the_other_label_is_impossible(name: str) -> None:
    labels, probs = np.array([0, 1, 1, 0]), np.float32([0, 1, 0.5, 0.5])
    with np.errstate(divide="ignore"):
        given = probs if name == "probs" else np.log(probs)
    found = jax.grad(lambda x: metrics.nll(labels, **{name: x}, binary=True))(given)
    expected = np.float32([1, -1, -2, 2]) * (1 if name == "probs" else probs) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# -- the rest


def test_empty_bins_are_no_error_where_nan_is() -> None:
    with jax.debug_nans(True):
        assert metrics.ece(LABELS, PROBS, num_bins=40) < 1
        assert metrics.mce(LABELS, PROBS, num_bins=40) < 1
        assert metrics.adaptive_ece(LABELS[:3], PROBS[:3], num_bins=5) < 1
        assert metrics.reliability(LABELS, PROBS, num_bins=40).count.sum() == 48


@pytest.mark.sweep
def test_equal_confidences_in_any_order() -> None:
    """Of four predictions at .5, cut into two bins, each counts as half right."""
    right = np.array([0, 0, 1, 1])
    for order in (right, right[::-1], np.array([0, 1, 1, 0])):
        found = metrics.reliability(
            order, np.full((4, 2), 0.5, np.float32), num_bins=2, equal_mass=True
        )
        np.testing.assert_array_equal(found.total_correct, [1, 1])
        np.testing.assert_array_equal(found.total_confidence, [1, 1])


@pytest.mark.sweep
def test_double_precision_and_a_batch_of_data_sets() -> None:
    with jax.enable_x64(True):
        assert (
            metrics.ece(
                LABELS, PROBS.astype(float) / PROBS.astype(float).sum(-1, keepdims=True)
            ).dtype
            == np.float64
        )
        assert metrics.aurc(ERRORS, CDF.astype(float)).dtype == np.float64
    sets = [x.reshape(2, 24, *x.shape[1:]) for x in (LABELS, PROBS, ERRORS, CDF)]

    def both(labels: Any, probs: Any, errors: Any, uncertainty: Any) -> Any:
        return metrics.ece(labels, probs), metrics.aurc(errors, uncertainty)

    found = quick(jax.vmap(both))(*sets)
    each = quick(both)
    np.testing.assert_allclose(
        np.transpose(found), [each(*(x[at] for x in sets)) for at in range(2)], rtol=1e-5
    )


SMOOTH = ["nll", "nll, binary", "nll, log_probs", "brier", "brier, binary", "gaussian_nll"]
SMOOTH += ["crps_gaussian", "crps_samples", "crps_mixture", "interval_score", "rmse", "sharpness"]


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", [name for name in JUDGES if name in SMOOTH])
def test_derivatives_where_nothing_counts(name: str) -> None:
    """A metric as a loss: of what is left out, impossible values included, the derivative is 0, and
    of the others that of the metric of them alone.
    """
    judge = JUDGES[name]
    where = np.arange(48) % 3 != 0
    floats = [at for at, x in enumerate(judge.arrays) if x.dtype == np.float32]

    @functools.partial(quick, static_argnames="some")
    def slopes(where: Any, *arrays: Any, some: bool) -> Any:
        def loss(*chosen: Any) -> jax.Array:
            every = [*arrays]
            for at, x in zip(floats, chosen, strict=True):
                every[at] = x
            return judge.metric(*every, **({"where": where} if some else {}))

        return jax.grad(loss, range(len(floats)))(*(arrays[at] for at in floats))

    expected = slopes(None, *(x[where] for x in judge.arrays), some=False)
    counts = np.repeat(where[:, None], 3, 1) if judge.arrays[0].ndim == 2 else where
    for bad in judge.bad[:3]:
        arrays = _with(judge, bad)
        for slope, each in zip(slopes(counts, *arrays, some=True), expected, strict=True):
            np.testing.assert_array_equal(slope[~where], 0)
            np.testing.assert_allclose(slope[where], each, rtol=1e-4, atol=1e-7)
