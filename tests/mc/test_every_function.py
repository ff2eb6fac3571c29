"""What holds of every function: floats keep their precision, defaults stay, and what is out of its
range is NaN where its value is not known.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import acquisition, conformal, metrics
from tests.compilation import quick

LABELS, ONES, WHERE = np.arange(6) % 3, np.arange(6) % 2, np.arange(6) != 4
KEYS = mc.keys(jaxdrop.key(0), 8, "independent")
Y, S, C = (6,), (4, 6), (4, 6, 3)
BANDS, RISKS = (Y, Y), (Y, Y)

Call = Callable[..., Any]
Row = tuple[Call, tuple[tuple[int, ...], ...]]
"""A call, and the shapes of the floats that it takes."""


def _summary(one: Any) -> list[Any]:
    """All that a summary says, before and after it is merged."""
    properties = [
        name
        for name, member in inspect.getmembers(type(one))
        if isinstance(member, (property, functools.cached_property))
        and (name != "probability" or one.mean.shape[-1] == 2)
    ]
    other = jax.tree.map(lambda x: x, one)  # another object
    return [[getattr(each, name) for name in properties] for each in (one, one.merge(other))]


def _each(metric: Call, first: Any, shapes: Any, **options: Any) -> Iterator[Row]:
    """With all entries, and with some."""
    for where in (None, WHERE):
        yield functools.partial(metric, *first, where=where, **options), shapes


def _run(scale: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda key: scale * jaxdrop.dropout(key, jnp.ones(Y, scale.dtype), 0.5)


def _rows() -> Iterator[tuple[Call, Row]]:
    def add(function: Call, *rows: Row) -> Iterator[tuple[Call, Row]]:
        for row in rows:
            yield function, row

    probs = ((6, 3),)
    for metric in (
        *(metrics.accuracy, metrics.brier, metrics.nll, metrics.ece, metrics.mce),
        *(metrics.classwise_ece, metrics.adaptive_ece, metrics.reliability),
    ):
        yield from add(metric, *_each(metric, (LABELS,), probs))
        labels, shape = (ONES[:, None], (6, 1)) if metric is metrics.classwise_ece else (ONES, Y)
        if metric is not metrics.classwise_ece:
            yield from add(metric, *_each(metric, (labels,), (shape,), binary=True))
    yield from add(
        metrics.reliability, *_each(metrics.reliability, (LABELS,), probs, equal_mass=True)
    )
    for binary, labels, shape in ((False, LABELS, (6, 3)), (True, ONES, Y)):
        yield from add(
            metrics.nll,
            (lambda x, b=binary, y=labels: metrics.nll(y, log_probs=x, binary=b), (shape,)),
        )
    for metric in (
        *(metrics.rmse, metrics.aurc, metrics.augrc, metrics.ause, metrics.mpiw),
        *(metrics.risk_coverage, metrics.sparsification),
    ):
        yield from add(metric, *_each(metric, (), (Y, Y)))
    for metric in (
        *(metrics.gaussian_nll, metrics.crps_gaussian, metrics.picp, metrics.interval_score),
    ):
        yield from add(metric, *_each(metric, (), (Y, Y, Y)))
    for metric in (
        *(metrics.mace, metrics.rmsce, metrics.miscalibration_area, metrics.calibration_curve),
    ):
        for proportion in ("interval", "quantile"):
            yield from add(metric, *_each(metric, (), (Y,), proportion=proportion))
    yield from add(metrics.sharpness, *_each(metrics.sharpness, (), (Y,)))
    for fair in (False, True):
        yield from add(metrics.crps_samples, *_each(metrics.crps_samples, (), (Y, S), fair=fair))
    yield from add(metrics.crps_mixture, *_each(metrics.crps_mixture, (), (Y, S), tau=2.0))
    yield from add(
        metrics.crps_mixture,
        (lambda y, x, v: metrics.crps_mixture(y, x, variance=v), (Y, S, S)),
    )
    yield from add(metrics.pinball, *_each(metrics.pinball, (), (Y, (2, 6), (2,))))
    for metric in (metrics.risk_at_coverage, metrics.coverage_at_risk):
        yield from add(metric, *_each(metric, (), (Y, Y, ())))

    for probs_or_logits in ("probs", "logits"):
        for options in ({}, {"groups": 2}):
            yield from add(
                mc.classification,
                (
                    lambda x, name=probs_or_logits, options=options: _summary(
                        mc.classification(**{name: x}, **options)
                    ),
                    (C,),
                ),
            )
        yield from add(
            mc.classification,
            (
                lambda x, name=probs_or_logits: _summary(
                    mc.classification(**{name: x}, binary=True)
                ),
                (S,),
            ),
        )
    for options in ({}, {"groups": 2}):
        yield from add(
            mc.regression,
            (lambda x, t, o=options: _summary(mc.regression(x, tau=t, **o)), (S, ())),
            (lambda x, v, o=options: _summary(mc.regression(x, variance=v, **o)), (S, S)),
        )
        yield from add(
            mc.moments,
            (
                lambda x, o=options: _summary(mc.moments(_run(x), KEYS, batch_size=4, **o)),
                ((),),
            ),
        )
    yield from add(
        mc.regression,
        (lambda x, t, y: mc.regression(x, tau=t).interval(0.9), (S, (), Y)),
        (lambda x, t, y: mc.regression(x, tau=t).cdf(y), (S, (), Y)),
    )
    for strategy in ("independent", "stratified"):
        yield from add(
            mc.until,
            (
                lambda x, t, s=strategy: mc.until(
                    _run(x), jaxdrop.key(0), tolerance=t, max_samples=18, batch_size=4, strategy=s
                ),
                ((), ()),
            ),
        )
    for fn in (mc.cdf, mc.log_likelihood):
        yield from add(
            fn,
            (lambda y, x, t, fn=fn: fn(y, x, tau=t), (Y, S, ())),
            (lambda y, x, v, fn=fn: fn(y, x, variance=v), (Y, S, S)),
        )
    yield from add(mc.quantiles, (lambda x, q, t: mc.quantiles(x, q, tau=t), (S, (2,), ())))
    yield from add(mc.interval, (lambda x, t: mc.interval(x, 0.9, tau=t), (S, ())))
    yield from add(mc.energy, (lambda x, t: mc.energy(x, temperature=t), (C, ())))
    yield from add(mc.max_logit, (mc.max_logit, (C,)))
    yield from add(mc.log_mean_exp, (mc.log_mean_exp, (S,)))
    for per_token in (False, True):
        yield from add(
            mc.sequence_scores,
            (lambda x, p=per_token: mc.sequence_scores(x, WHERE, per_token=p), (S,)),
        )
    yield from add(mc.fit_tau, (mc.fit_tau, (Y, S)))
    for pooled in (False, True):
        yield from add(
            mc.fit_temperature,
            *_each(mc.fit_temperature, (LABELS,), (C,), pooled=pooled),
            *_each(mc.fit_temperature, (ONES,), (S,), pooled=pooled, binary=True),
        )

    yield from add(conformal.lac, (conformal.lac, probs))
    yield from add(
        conformal.aps,
        (conformal.aps, probs),
        (lambda x: conformal.aps(x, jaxdrop.key(0)), probs),
    )
    raps = functools.partial(conformal.raps, penalty=0.1, rank=1)
    yield from add(conformal.raps, (raps, probs), (lambda x: raps(x, jaxdrop.key(0)), probs))
    yield from add(conformal.of_labels, (lambda x: conformal.of_labels(LABELS, x), probs))
    yield from add(conformal.residual_scores, (conformal.residual_scores, (Y, Y, Y)))
    yield from add(conformal.quantile_scores, (conformal.quantile_scores, (Y, Y, Y)))
    yield from add(
        conformal.residual_interval,
        (conformal.residual_interval, (Y, ())),
        (conformal.residual_interval, (Y, (), Y)),
    )
    yield from add(conformal.quantile_interval, (conformal.quantile_interval, (Y, Y, ())))
    yield from add(conformal.by_group, (lambda x: conformal.by_group(x, LABELS), ((3,),)))
    yield from add(
        conformal.calibrate,
        *_each(conformal.calibrate, (), (Y,)),
        *_each(conformal.calibrate, (), (Y,), groups=LABELS, num_groups=3),
    )
    yield from add(
        conformal.selective,
        *_each(conformal.selective, (), (Y, Y, ())),
        (lambda x, u, t: conformal.selective(x, u, 0.5, thresholds=t), (Y, Y, (2,))),
    )

    for score in (
        *(acquisition.bald, acquisition.entropy),
        *(acquisition.margin, acquisition.variation_ratio),
    ):
        yield from add(score, (lambda x, score=score: score(mc.classification(logits=x)), (C,)))
    for name in ("probs", "logits"):
        yield from add(
            acquisition.batch_bald,
            (lambda x, name=name: acquisition.batch_bald(jaxdrop.key(0), 3, **{name: x}), (C,)),
            (
                lambda x, name=name: acquisition.batch_bald(
                    jaxdrop.key(0), 3, **{name: x}, max_configurations=9
                ),
                (C,),
            ),
        )
        yield from add(
            acquisition.epig,
            (
                lambda x, y, name=name: acquisition.epig(**{name: x, f"target_{name}": y}),
                (C, (4, 2, 3)),
            ),
        )


ROWS = list(_rows())
ELSEWHERE = {
    *("analytic", "linear_part"),  # tests/mc/test_analytic.py
    *("ensemble", "fit_rate", "predict", "predict_dataset"),  # run functions of the user
    *("keys", "masksembles", "open_results", "subnetwork"),  # hand on, or have no floats
    *("tau_from_weight_decay", "weight_decay_from_tau"),  # take numbers
    *("auroc", "aupr", "fpr95"),  # scikit-learn computes them
    *("coverage_by_group", "set_coverage", "set_size", "sets", "power_sampling", "top"),
}


# -- precision


def test_these_are_all() -> None:
    public = {
        name
        for module in (mc, metrics, conformal, acquisition)
        for name in dir(module)
        if inspect.isfunction(getattr(module, name))
    }
    assert {function.__name__ for function, _ in ROWS} == public - ELSEWHERE


@pytest.mark.parametrize("name", sorted({function.__name__ for function, _ in ROWS}))
def test_precision_is_kept(name: str) -> None:
    """Where JAX has 64 bits, what is computed from float32 stays float32, and from float64 float64.

    Programs are traced, not run: `jax_numpy_dtype_promotion="strict"` makes it an error there that
    an array of one precision meets one of the other.
    """
    rows = [row for function, row in ROWS if function.__name__ == name]
    with jax.enable_x64(True):
        for call, shapes in rows:
            for dtype in (jnp.float32, jnp.float64):
                given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
                found = jax.tree.leaves(jax.eval_shape(call, *given))
                floats = {x.dtype for x in found if jnp.issubdtype(x.dtype, jnp.floating)}
                assert floats == {jnp.dtype(dtype)}, inspect.getsource(call)


def _products(jaxpr: Any) -> Iterator[Any]:
    """The precision of each product of matrices in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


@pytest.mark.parametrize("name", ["batch_bald", "epig"])
def test_products_of_probabilities_are_exact(name: str) -> None:
    """Where an accelerator would round their factors to 8 or 11 bits."""
    rows = [row for function, row in ROWS if function.__name__ == name]
    for call, shapes in rows:
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        found = [*_products(jax.make_jaxpr(call)(*given).jaxpr)]
        assert found
        highest = jax.lax.Precision.HIGHEST
        assert {*found} <= {highest, (highest, highest)}


# -- defaults


def test_defaults_stay() -> None:
    """They decide on the numbers that people have reported."""
    found: dict[tuple[str, Any], set[str]] = {}
    for module in (mc, metrics, conformal, acquisition, mc.plots):
        for name in dir(module):
            function = getattr(module, name)
            if inspect.isfunction(function) and "_analytic" not in function.__module__:
                for each in inspect.signature(function).parameters.values():
                    if isinstance(each.default, bool | float | int):
                        found.setdefault((each.name, each.default), set()).add(name)
    flags = {name for name, default in found if default is False}
    assert {name for name, default in found if default is True} == {"allow_empty", "progress"}
    assert flags == {
        *("allow_deterministic", "allow_incomplete", "binary", "equal_mass", "fair", "normalize"),
        *("per_token", "pooled", "progress", "same_keys"),
    }
    assert found["progress", False] == {"predict"}
    numbers = {key: value for key, value in found.items() if not isinstance(key[1], bool)}
    expected: dict[tuple[str, float], set[str]] = {
        ("batch_size", 32): {"moments", "until"},
        ("coldness", 1.0): {"power_sampling"},
        ("columns", 8): {"certainty"},
        ("confidence", 0.95): {"selective"},
        ("coverage", 0.9): {"calibrate"},
        ("coverage", 0.95): {"band", "interval", "interval_score"},
        ("groups", 1): {"keys"},
        ("max_configurations", 10_000): {"batch_bald"},
        ("num_bins", 15): {
            *("adaptive_ece", "classwise_ece", "ece", "mce", "reliability"),
        },
        ("num_bins", 20): {"pit"},
        ("num_bins", 30): {"novelty"},
        ("num_candidates", 20): {"selective"},
        ("num_points", 100): {"calibration_curve", "mace", "miscalibration_area", "rmsce"},
        ("output_axes", 0): {"fit_tau", "log_likelihood"},
        ("scale", 2.0): {"masksembles"},
        ("temperature", 1.0): {"energy"},
    }
    # `True == 1` and `False == 0`: what has one of these numbers is looked up by it too.
    assert {key: found[key] for key in expected} == expected
    assert numbers.keys() <= expected.keys()


# -- ranges

RNG = np.random.default_rng(0)
VALUES, OBSERVED = np.float32(RNG.normal(size=20)), np.float32(RNG.normal(size=20))
SAMPLES, SCORES = np.float32(RNG.normal(size=(4, 20))), np.float32(RNG.random(20))
WRONG = np.float32(SCORES > 0.9)

FRACTIONS: dict[str, Call] = {
    "calibrate": lambda x: conformal.calibrate(SCORES, x),
    "risk of selective": lambda x: conformal.selective(WRONG, SCORES, x).coverage,
    "confidence of selective": lambda x: (
        conformal.selective(WRONG, SCORES, 0.5, confidence=x).coverage
    ),
    "interval": lambda x: jnp.stack(mc.interval(SAMPLES, x, tau=1.0)).sum(),
    "interval of a summary": lambda x: jnp.stack(mc.regression(SAMPLES, tau=1.0).interval(x)).sum(),
    "quantiles": lambda x: mc.quantiles(SAMPLES, x, tau=1.0).sum(),
    "interval_score": lambda x: metrics.interval_score(OBSERVED, VALUES, VALUES + 1, x),
    "pinball": lambda x: metrics.pinball(OBSERVED, VALUES[None], x[None]),
}
"""Functions of what lies in (0, 1)."""
POSITIVE: dict[str, Call] = {
    "gaussian_nll": lambda x: metrics.gaussian_nll(OBSERVED, VALUES, x + 0 * SCORES),
    "crps_gaussian": lambda x: metrics.crps_gaussian(OBSERVED, VALUES, x + 0 * SCORES),
    "residual_scores": lambda x: conformal.residual_scores(OBSERVED, VALUES, x + 0 * SCORES).sum(),
    "residual_interval": lambda x: jnp.stack(
        conformal.residual_interval(VALUES, 1.0, x + 0 * SCORES)
    ).sum(),
    "regression": lambda x: mc.regression(SAMPLES, tau=x).std.sum(),
    "log_likelihood of variances": lambda x: mc.log_likelihood(
        OBSERVED, SAMPLES, variance=x + 0 * SAMPLES
    ).sum(),
    "log_likelihood": lambda x: mc.log_likelihood(OBSERVED, SAMPLES, tau=x).sum(),
    "energy": lambda x: mc.energy(SAMPLES[..., None] * np.float32([1, 2]), temperature=x).sum(),
}
"""Functions of what is larger than 0."""
NOT_NEGATIVE: dict[str, Call] = {
    "regression of variances": lambda x: mc.regression(SAMPLES, variance=x + 0 * SAMPLES).std.sum(),
    "sharpness": lambda x: metrics.sharpness(x + 0 * SCORES),
    "cdf of variances": lambda x: mc.cdf(OBSERVED, SAMPLES, variance=x + 0 * SAMPLES).sum(),
    "mpiw": lambda x: metrics.mpiw(VALUES, VALUES + x),
    "picp": lambda x: metrics.picp(OBSERVED, 0 * SCORES, x + 0 * SCORES),
    "interval_score of widths": lambda x: metrics.interval_score(OBSERVED, VALUES, VALUES + x),
}
CLOSED: dict[str, Call] = {
    "rmsce": lambda x: metrics.rmsce(jnp.append(SCORES, x)),
    "miscalibration_area": lambda x: metrics.miscalibration_area(jnp.append(SCORES, x)),
    "brier": lambda x: metrics.brier(np.int32([1]), x[None], binary=True),
    "classification": lambda x: mc.classification(probs=x[None], binary=True).mean.sum(),
}
"""Functions of what lies in [0, 1]."""

CASES = {
    **{name: (call, [0.5], [0, 1, -0.5, 1.5]) for name, call in FRACTIONS.items()},
    **{name: (call, [0.5, 2], [0, -1]) for name, call in POSITIVE.items()},
    **{name: (call, [0, 0.5, 2], [-1]) for name, call in NOT_NEGATIVE.items()},
    **{name: (call, [0, 0.5, 1], [-0.5, 1.5]) for name, call in CLOSED.items()},
}


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("name", CASES)
def test_what_is_out_of_range_is_nan_where_it_is_not_known(name: str) -> None:
    """And an error where it is."""
    call, inside, outside = CASES[name]
    found = quick(jax.vmap(call))(jnp.asarray([*inside, *outside, np.nan], jnp.float32))
    np.testing.assert_array_equal(
        np.isnan(found), [False] * len(inside) + [True] * (len(outside) + 1)
    )
    for x in inside:
        assert np.isfinite(call(np.float32(x)))
    for x in outside:
        with pytest.raises(ValueError, match=r"must (lie|not|be)|lower <= upper|in \[0, 1\]"):
            call(np.float32(x))


INFINITE: dict[str, Call] = {
    "sharpness": lambda x: metrics.sharpness(x + SCORES),
    "regression": lambda x: mc.regression(SAMPLES, tau=x).std,
    "cdf": lambda x: mc.cdf(OBSERVED, SAMPLES, tau=x),
    "crps_mixture": lambda x: metrics.crps_mixture(OBSERVED, SAMPLES, tau=x),
    "residual_interval": lambda x: conformal.residual_interval(VALUES, x),
}
FINITE: dict[str, Call] = {
    "gaussian_nll": lambda x: metrics.gaussian_nll(OBSERVED, VALUES, x + SCORES),
    "residual_scores": lambda x: conformal.residual_scores(OBSERVED, VALUES, x + SCORES),
    "log_likelihood": lambda x: mc.log_likelihood(OBSERVED, SAMPLES, tau=x),
    "power_sampling": lambda x: acquisition.power_sampling(jaxdrop.key(0), SCORES, 2, coldness=x),
    "energy": lambda x: mc.energy(SAMPLES[..., None] * np.float32([1, 2]), temperature=x),
}


@pytest.mark.parametrize("name", [*INFINITE, *FINITE])
def test_what_may_be_infinite(name: str) -> None:
    infinity = np.float32(np.inf)
    if name in INFINITE:
        assert not any(np.isnan(x).any() for x in jax.tree.leaves(INFINITE[name](infinity)))
    else:
        with pytest.raises(ValueError, match=r"must lie in .0, infinity\), got inf"):
            FINITE[name](infinity)
