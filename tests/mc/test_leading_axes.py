"""Where classes or tokens lie along the last axis, all other axes are those of the inputs: two of
them give what one gives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from jaxdrop import mc
from jaxdrop.mc import conformal, metrics

RNG = np.random.default_rng(0)
CLASSES = 4  # more than the lengths of the other axes, so that no axis is mistaken for the last
LABELS, ONES = RNG.integers(0, CLASSES, (2, 3)), RNG.integers(0, 2, (2, 3))
MANY = RNG.integers(0, 2, (2, 3, CLASSES))
PROBS = np.float32(RNG.dirichlet(np.ones(CLASSES), (2, 3)))
CHANCES, VALUES = np.float32(RNG.random((2, 3))), np.float32(RNG.normal(size=(2, 3)))
LOGITS = np.float32(RNG.normal(size=(5, 2, 3, CLASSES)))
SETS = PROBS > 0.25

SAME = {
    name: (functools.partial(getattr(metrics, name)), (LABELS, PROBS))
    for name in (
        *("accuracy", "brier", "nll", "ece", "mce", "classwise_ece", "adaptive_ece"),
        *("reliability",),
    )
}
SAME |= {
    f"{name}, binary": (functools.partial(getattr(metrics, name), binary=True), (ONES, CHANCES))
    for name in ("accuracy", "brier", "nll", "ece", "mce")
}
SAME |= {
    "classwise_ece, binary": (
        functools.partial(metrics.classwise_ece, binary=True),
        (MANY, np.float32(RNG.random((2, 3, CLASSES)))),
    ),
    "reliability of equal mass": (
        functools.partial(metrics.reliability, equal_mass=True, num_bins=2),
        (LABELS, PROBS),
    ),
    "set_coverage": (metrics.set_coverage, (LABELS, SETS)),
    "set_size": (metrics.set_size, (SETS,)),
    "rmse": (metrics.rmse, (VALUES, CHANCES)),
    "crps_gaussian": (metrics.crps_gaussian, (VALUES, CHANCES, CHANCES + 1)),
    "aurc": (metrics.aurc, (VALUES**2, CHANCES)),
    "ause": (metrics.ause, (VALUES**2, CHANCES)),
    "calibration_curve": (metrics.calibration_curve, (CHANCES,)),
    "selective": (
        lambda errors, scores: conformal.selective(errors, scores, 0.5),
        (ONES, CHANCES),
    ),
}
"""A number of all inputs: whatever their shape."""


def on_both(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> tuple[Any, Any]:
    """What a function makes of inputs with two leading axes, and of the same inputs with one."""
    return function(*arrays), function(*(x.reshape(6, *x.shape[2:]) for x in arrays))


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("name", SAME)
def test_a_number_of_all_inputs(name: str) -> None:
    metric, arrays = SAME[name]
    found, expected = on_both(metric, arrays)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)


EACH: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "lac": (conformal.lac, (PROBS,)),
    "aps": (conformal.aps, (PROBS,)),
    "raps": (functools.partial(conformal.raps, penalty=0.1, rank=1), (PROBS,)),
    "of_labels": (conformal.of_labels, (LABELS, PROBS)),
    "sets": (lambda probs: conformal.sets(1 - probs, 0.6), (PROBS,)),
    "sets, never empty": (
        lambda probs: conformal.sets(1 - probs, 0.1, allow_empty=False),
        (PROBS,),
    ),
    "sets of several thresholds": (conformal.sets, (PROBS, CHANCES)),
    "by_group": (lambda groups: conformal.by_group(LOGITS[:4, 0], groups), (LABELS,)),
    "energy": (lambda x: mc.energy(np.stack([x, 2 * x])), (LOGITS[0],)),
    "max_logit": (lambda x: mc.max_logit(np.stack([x, 2 * x])), (LOGITS[0],)),
    "sequence_scores": (mc.sequence_scores, (LOGITS[0],)),
    "sequence_scores, some per token": (
        functools.partial(mc.sequence_scores, per_token=True),
        (LOGITS[0], SETS),
    ),
}
"""Something of each input."""


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("name", EACH)
def test_something_of_each_input(name: str) -> None:
    function, arrays = EACH[name]
    found, expected = on_both(function, arrays)
    assert found.shape[:2] == (2, 3)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-6)


@pytest.mark.parametrize(("name", "binary"), [("logits", False), ("probs", True)])
def test_summaries_of_classifiers(name: str, binary: bool) -> None:
    given = LOGITS[..., 0] if binary else LOGITS
    if name == "probs":
        given = 1 / (1 + np.exp(-given)) if binary else np.asarray(jax.nn.softmax(given, -1))
    flat = given.reshape(5, 6, *given.shape[3:])
    found, expected = (
        mc.classification(**{name: x[:3]}, binary=binary).merge(
            mc.classification(**{name: x[3:]}, binary=binary)
        )
        for x in (given, flat)
    )
    properties = ["mean", "predictive_entropy", "mutual_information", "variation_ratio", "std"]
    properties += ["least_confidence", "disagreement", "standard_error", "variance", "votes"]
    properties += ["probability"] * binary
    for each in properties:
        two, one = getattr(found, each), getattr(expected, each)
        np.testing.assert_allclose(two, one.reshape(two.shape), rtol=1e-5, atol=1e-7, err_msg=each)
        assert two.shape[:2] == (2, 3), each


@pytest.mark.parametrize(("pooled", "binary"), [(False, True), (True, False)])
def test_a_temperature_of_all_inputs(pooled: bool, binary: bool) -> None:
    labels, logits = (ONES, LOGITS[..., 0]) if binary else (LABELS, LOGITS)
    found, expected = (
        mc.fit_temperature(y, x, pooled=pooled, binary=binary).temperature
        for y, x in (
            (labels, logits),
            (labels.ravel(), logits.reshape(5, 6, *logits.shape[3:])),
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
