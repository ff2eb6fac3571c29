"""Summaries of samples, against values computed in float64 elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from scipy import special

from jaxdrop import mc

# Computed in float64 with numpy and scipy, from these probabilities of shape (inputs, samples,
# classes).
PROBABILITIES = np.array(
    [
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0]],
        [[0.98, 0.01, 0.01], [0.97, 0.02, 0.01], [0.99, 0.005, 0.005], [0.96, 0.02, 0.02]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        [[0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.25, 0.15, 0.6], [0.34, 0.33, 0.33]],
    ]
)
EXPECTED = {
    "mean": [
        [0.475, 0.45, 0.075],
        [0.975, 0.01375, 0.01125],
        [0.5, 0.25, 0.25],
        [0.2725, 0.245, 0.4825],
    ],
    "predictive_entropy": [
        0.9072077263064947,
        0.13411031948037075,
        1.0397207708399179,
        1.0505072007796428,
    ],
    "expected_entropy": [0.7579858294025599, 0.1310856728091399, 0.0, 1.0188300234754069],
    "mutual_information": [
        0.14922189690393484,
        0.0030246466712308406,
        1.0397207708399179,
        0.031677177304235915,
    ],
    "variance": [
        [0.051875, 0.0525, 0.001875],
        [0.000125, 4.21875e-05, 2.96875e-05],
        [0.25, 0.1875, 0.1875],
        [0.00276875, 0.005325, 0.01441875],
    ],
    "variation_ratio": [0.25, 0.0, 0.5, 0.25],
    "disagreement": [0.5, 0.0, 0.8333333333333334, 0.5],
    "least_confidence": [0.525, 0.025, 0.5, 0.5175],
}
FIELDS = [
    field.name
    for field in dataclasses.fields(mc.Classification)
    if field.default is dataclasses.MISSING
]


def _float64(logits: np.ndarray) -> dict[str, np.ndarray]:
    """The definitions, term by term, in float64."""
    log_probs = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    probs = np.exp(log_probs)
    mean = probs.mean(0)
    gaps = special.rel_entr(probs, np.broadcast_to(mean, probs.shape)).sum(-1)
    return {
        "mean": mean,
        "log_mean": special.logsumexp(log_probs, axis=0) - np.log(len(probs)),
        "variance": probs.var(0),
        "votes": (probs.argmax(-1)[..., None] == np.arange(probs.shape[-1])).sum(0),
        "predictive_entropy": special.entr(mean).sum(-1),
        "expected_entropy": special.entr(probs).sum(-1).mean(0),
        "mutual_information": gaps.mean(0),
        "least_confidence": 1 - mean.max(-1),
    }


Values = dict[str, np.ndarray]


@jax.jit
def _values(summary: mc.Classification) -> Values:
    """All that a summary of independent samples says."""
    names = [
        *FIELDS,
        "mean",
        "std",
        "predictive_entropy",
        "least_confidence",
        "variation_ratio",
        "disagreement",
        "standard_error",
    ]
    return {name: getattr(summary, name) for name in names}


def _of(logits: jax.Array) -> Values:
    return _values(mc.classification(logits=logits, binary=False))


def _assert_close(values: Values, expected: Values, **tolerance: float) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, err_msg=name, **tolerance)


def _logits(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.float32(scale * np.random.default_rng(seed).normal(size=shape))


RULED_OUT = _logits(4, 2, 3)
RULED_OUT[..., 1] = -np.inf


@pytest.mark.sweep
def test_known_values() -> None:
    """Probabilities of 0 are logits of -inf."""
    probs = np.float32(PROBABILITIES.swapaxes(0, 1))
    with np.errstate(divide="ignore"):
        logits = np.log(probs)
    expected = {**EXPECTED, "num_samples": 4, "standard_error": probs.std(0, ddof=1) / 2}
    for summary in (mc.classification(logits=logits), mc.classification(probs=probs)):
        _assert_close(_values(summary), expected, rtol=1e-5, atol=2e-7)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("shape", [(1, 3), (4, 2, 3), (7, 2, 3, 10), (3, 0, 4)])
def test_definitions(shape: tuple[int, ...]) -> None:
    for scale in (0.1, 3.0, 100.0):
        logits = _logits(*shape, scale=scale)
        values = _of(logits)
        assert values["mean"].shape == shape[1:]
        assert values["mutual_information"].shape == values["variation_ratio"].shape == shape[1:-1]
        _assert_close(values, _float64(np.asarray(logits)), rtol=1e-5, atol=2e-6)
        total = values["expected_entropy"] + values["mutual_information"]
        np.testing.assert_allclose(values["predictive_entropy"], total, rtol=1e-5, atol=1e-6)
        assert (np.asarray(values["mutual_information"]) >= 0).all()


def test_the_first_of_equals_gets_the_vote() -> None:
    summary = mc.classification(probs=np.float32([[[0.4, 0.4, 0.2]], [[0.2, 0.4, 0.4]]]))
    np.testing.assert_array_equal(summary.votes, [[1, 1, 0]])
    np.testing.assert_array_equal(summary.variation_ratio, [0.5])


def test_one_sample_knows_nothing_of_the_weights() -> None:
    logits = _logits(1, 200, 10)
    values = _of(logits)
    np.testing.assert_allclose(values["mutual_information"], 0, atol=1e-7)
    np.testing.assert_allclose(values["mean"], special.softmax(logits[0], axis=-1), rtol=1e-5)
    assert np.isnan(values["disagreement"]).all()
    assert np.isnan(values["standard_error"]).all()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_samples_that_agree_keep_their_digits(spread: float) -> None:
    """The difference of the two entropies, about spread squared, would lose them: its own rounding
    error is 1e-7.
    """
    logits = _logits(1, 200, 10) + _logits(20, 200, 10, scale=spread, seed=1)
    exact = _float64(np.asarray(logits))["mutual_information"]
    np.testing.assert_allclose(
        mc.classification(logits=logits).mutual_information, exact, rtol=1e-6 / spread
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("spread", [1e-4, 1e-6, 0.0])
def test_rounding_makes_no_negative_information(spread: float) -> None:
    logits = _logits(1, 200, 10) + _logits(20, 200, 10, scale=spread, seed=1)
    assert (np.asarray(mc.classification(logits=logits).mutual_information) >= 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats(dtype: jnp.dtype) -> None:
    logits = jnp.asarray(_logits(4, 2, 3), dtype)
    values = _of(logits)
    assert values["mean"].dtype == jnp.float32
    _assert_close(values, _float64(np.asarray(logits.astype(jnp.float32))), rtol=1e-5, atol=1e-6)


def test_float64() -> None:
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)))
        values = _of(logits)
        assert values["mean"].dtype == jnp.float64
        _assert_close(values, _float64(np.asarray(logits)), rtol=1e-13, atol=1e-15)


# -- samples in groups


def _merged(parts: Iterable[np.ndarray]) -> mc.Classification:
    return functools.reduce(
        mc.Classification.merge, (mc.classification(logits=part) for part in parts)
    )


@given(
    logits=arrays(np.float32, (4, 2, 3), elements=st.floats(-20, 20, width=32)),
    cuts=st.sets(st.integers(1, 3)).map(sorted),
    backwards=st.booleans(),
)
def test_groups_merge_to_the_whole(logits: np.ndarray, cuts: list[int], backwards: bool) -> None:
    parts = np.split(logits, cuts)
    values = _values(_merged(reversed(parts) if backwards else parts))
    whole = _of(logits)
    assert int(values["num_samples"]) == 4
    np.testing.assert_array_equal(values["votes"], whole["votes"])
    _assert_close(values, whole, rtol=1e-5, atol=2e-6)


def test_groups_that_agree_keep_their_digits() -> None:
    logits = _logits(1, 200, 10) + _logits(8, 200, 10, scale=1e-3, seed=1)
    information = _merged(logits[:, None]).mutual_information
    np.testing.assert_allclose(
        information, _float64(np.asarray(logits))["mutual_information"], rtol=5e-3
    )
    assert (np.asarray(information) >= 0).all()


def test_small_variances_of_large_probabilities() -> None:
    """Of 1e-6 around 1/2, float32 has some 30 values, and a mean to a fiftieth of that."""
    first = 0.5 + 1e-6 * np.random.default_rng(0).normal(size=(40, 300))
    probs = np.stack([first, 1 - first], -1).astype(np.float32)
    merged = functools.reduce(
        mc.Classification.merge, (mc.classification(probs=part) for part in np.split(probs, 10))
    )
    for summary in (mc.classification(probs=probs), merged):
        np.testing.assert_allclose(summary.variance, np.float64(probs).var(0), rtol=1e-5)
        np.testing.assert_allclose(
            np.float64(summary.mean) + np.float64(summary.mean_residual),
            np.float64(probs).mean(0),
            rtol=1e-12,
        )


def test_groups_merge_under_scan() -> None:
    """The merged summary has the structure, shapes and dtypes of the first one."""

    def step(summary: mc.Classification, part: jax.Array) -> tuple[mc.Classification, None]:
        return summary.merge(mc.classification(logits=part)), None

    logits = _logits(4, 2, 2, 3)
    merged, _ = jax.lax.scan(step, mc.classification(logits=logits[0]), logits[1:])
    _assert_close(
        _values(merged), _float64(np.asarray(logits.reshape(8, 2, 3))), rtol=1e-5, atol=1e-6
    )


def test_a_class_ruled_out_by_all_groups() -> None:
    logits = RULED_OUT
    merged = _merged([logits[:1], logits[1:]])
    _assert_close(_values(merged), _float64(np.asarray(logits)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merged.log_mean[..., 1], -np.inf)


def test_other_inputs_do_not_merge() -> None:
    one, two = (mc.classification(logits=_logits(4, size, 3)) for size in (1, 2))
    with pytest.raises(
        ValueError, match=r"summaries of the same inputs merge, .*\(1, 3\).*\(2, 3\)"
    ):
        one.merge(two)
    with pytest.raises(
        TypeError,
        match="other must be a Classification, which merges with one of its kind, got Regression",
    ):
        one.merge(mc.regression(jnp.ones((2, 3)), tau=1.0))


# -- transformations


BY_ONE = _logits(4, 2, 3)
BY_ONE[0, 0, 1] = -np.inf
LOGITS = {
    "ordinary": _logits(4, 2, 3),
    "equal": np.zeros((4, 2, 3), np.float32),
    "certain": _logits(4, 2, 3, scale=1e4),  # other probabilities are 0 in float32
    "a class ruled out": RULED_OUT,
    "a class ruled out by one": BY_ONE,
}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_gradients_are_finite(logits: jax.Array) -> None:
    gradients = _gradients(logits)
    assert {
        name: bool(np.isfinite(gradient).all()) for name, gradient in gradients.items()
    } == dict.fromkeys(gradients, True)


@jax.jit
def _gradients(logits: jax.Array) -> dict[str, jax.Array]:
    """Of the sum of squares of each quantity."""

    def loss(logits: jax.Array, name: str) -> jax.Array:
        merged = mc.classification(logits=logits[:1]).merge(mc.classification(logits=logits))
        return sum(
            (getattr(summary, name) ** 2).sum()
            for summary in (mc.classification(logits=logits), merged)
        )

    names = (
        "mean",
        "variance",
        "predictive_entropy",
        "expected_entropy",
        "mutual_information",
        "least_confidence",
    )
    return {name: jax.grad(loss)(logits, name) for name in names}


def test_gradients() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32)
    names = [name for name in FIELDS if name not in ("num_samples", "votes", "mean_residual")]
    check_grads(
        lambda logits: [_of(logits)[name] for name in names],
        (logits,),
        order=1,
        modes=("rev",),
        rtol=2e-2,
        atol=2e-2,
    )


def test_gradients_of_merged_summaries() -> None:
    """They are those of one summary of all samples."""

    @jax.grad
    def gradient(logits: jax.Array, cut: int) -> jax.Array:
        parts = [
            mc.classification(logits=part) for part in (logits[:cut], logits[cut:]) if part.size
        ]
        whole = functools.reduce(mc.Classification.merge, parts)
        return (
            (whole.variance * jnp.arange(3.0)[None]).sum()
            + whole.standard_error.sum()
            + (whole.mean**3).sum()
        )

    logits = _logits(4, 1, 3)
    np.testing.assert_allclose(gradient(logits, 1), gradient(logits, 4), rtol=1e-4, atol=1e-6)


def test_transformations_do_not_change_it() -> None:
    """A mapped summary has a number of samples for each entry of the mapped axis. All axes are
    equal, and none is mistaken.
    """
    logits = _logits(5, 2, 2, 2)
    expected = _of(logits)
    mapped = jax.jit(jax.vmap(lambda logits: mc.classification(logits=logits), in_axes=1))
    for summary in (mapped(logits), mapped(logits[:2]).merge(mapped(logits[2:]))):
        np.testing.assert_array_equal(summary.num_samples, [5, 5])
        values = _values(summary)
        _assert_close({**values, "num_samples": 5}, expected, rtol=1e-5, atol=5e-7)


# -- bad input


@pytest.mark.parametrize(
    "logits", [jnp.ones((2, 3), int), jnp.ones((2, 3), bool), jnp.ones((2, 3), jnp.complex64)]
)
def test_not_floating(logits: jax.Array) -> None:
    with pytest.raises(
        TypeError, match=f"classification takes floating logits, got {logits.dtype}.*float32"
    ):
        mc.classification(logits=logits)


@pytest.mark.parametrize("shape", [(3,), (), (0, 3), (0, 2, 3)])
@pytest.mark.parametrize("name", ["logits", "probs"])
def test_no_samples_axis(shape: tuple[int, ...], name: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"{name} must have shape \(S, \.\.\., C\) with at least one sample, got \(",
    ):
        mc.classification(**{name: jnp.ones(shape)})


def test_which_of_the_two_is_said_by_the_caller() -> None:
    x = jnp.full((2, 1, 4), 0.25)
    with pytest.raises(TypeError, match=r"either logits=\.\.\. or probs=\.\.\., got neither"):
        mc.classification()
    with pytest.raises(TypeError, match=r"either logits=\.\.\. or probs=\.\.\., got both"):
        mc.classification(logits=x, probs=x)
    with pytest.raises(TypeError, match="positional"):
        mc.classification(x)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("probs", [[0.5, 0.6], [1.5, -0.5], [2.0, -1.0], [np.nan, 1.0]])
def test_logits_are_no_probabilities(probs: list[float]) -> None:
    """An error where values are known, and NaN for that input alone where they are not."""
    given = np.float32([[[0.5, 0.5], probs]])
    with pytest.raises(ValueError, match="probs must not be negative and must sum to 1"):
        mc.classification(probs=given)
    values = _of_probs(given)
    assert {name: bool(np.isnan(values[name][1]).all()) for name in PER_INPUT} == dict.fromkeys(
        PER_INPUT, True
    )
    assert {name: bool(np.isfinite(values[name][0]).all()) for name in PER_INPUT} == dict.fromkeys(
        PER_INPUT, True
    )


PER_INPUT = [
    "mean",
    "variance",
    "expected_entropy",
    "mutual_information",
    "predictive_entropy",
    "least_confidence",
]
PER_INPUT += ["variation_ratio", "std"]


@jax.jit
def _of_probs(probs: jax.Array) -> Values:
    return _values(mc.classification(probs=probs))


def test_nan_votes_for_nothing() -> None:
    logits = _logits(4, 3, 5)
    logits[1, 2, 0] = np.nan
    values, whole = _of(logits), _of(logits[:, :2])
    for name in [*PER_INPUT, "disagreement"]:
        assert np.isnan(values[name][2]).all(), name
        np.testing.assert_array_equal(values[name][:2], whole[name])
    assert values["votes"].sum(-1).tolist() == [4, 4, 3]


# -- sequences


def test_sequence_scores() -> None:
    log_probs = np.log(np.float32([[0.5, 0.25, 0.1], [0.5, 0.1, 0.1]]))
    log_probs[1, 1] = -np.inf
    mask = np.array([[True, True, False], [True, False, False]])
    np.testing.assert_allclose(mc.sequence_scores(log_probs, mask), np.log([0.125, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(
        mc.sequence_scores(log_probs, mask, per_token=True), np.log([0.125**0.5, 0.5]), rtol=1e-6
    )
    np.testing.assert_allclose(mc.sequence_scores(log_probs[:1]), np.log([0.0125]), rtol=1e-6)
    np.testing.assert_array_equal(
        mc.sequence_scores(log_probs, ~mask[0], per_token=True)[1], log_probs[1, 2]
    )
    several = np.tile(log_probs[:, None], (1, 4, 1))  # (2, 4, T)
    for per_token in (False, True):
        each = mc.sequence_scores(log_probs, mask, per_token=per_token)
        found = mc.sequence_scores(several, mask[:, None], per_token=per_token)
        np.testing.assert_array_equal(found, np.tile(each[:, None], (1, 4)))
    assert np.isfinite(
        jax.grad(lambda x: mc.sequence_scores(x, mask).sum())(jnp.asarray(log_probs))
    ).all()


def test_log_mean_exp() -> None:
    scores = np.float32(
        np.random.default_rng(0).normal(-500, 20, size=(5, 3))
    )  # their exponentials are 0 in float32
    expected = special.logsumexp(np.float64(scores), axis=0) - np.log(5)
    np.testing.assert_allclose(mc.log_mean_exp(scores), expected, rtol=1e-6)
    assert (mc.log_mean_exp(scores) >= scores.mean(0)).all()


def test_bad_sequences() -> None:
    with pytest.raises(
        TypeError, match="mask must be boolean, true for tokens that count, got int32"
    ):
        mc.sequence_scores(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"mask of shape \(4,\) does not broadcast"):
        mc.sequence_scores(jnp.ones((2, 3)), jnp.ones(4, bool))
    for mask in (np.array([None, True]), np.array(["a"])):
        with pytest.raises(TypeError, match="mask of booleans"):
            mc.sequence_scores(jnp.ones((2, 3)), mask)
    with pytest.raises(
        TypeError, match="sequence_scores takes an array mask of booleans, got 'all'"
    ):
        mc.sequence_scores(jnp.ones((2, 3)), "all")
    with pytest.raises(ValueError, match="axis of tokens"):
        mc.sequence_scores(jnp.float32(1))
    with pytest.raises(TypeError, match="sequence_scores takes floating log_probs, got int32"):
        mc.sequence_scores(jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match="at least one sample"):
        mc.log_mean_exp(jnp.ones((0, 3)))


def test_constants_inside_jit_are_checked() -> None:
    probs, logits = jnp.full((2, 1, 4), 0.25), jnp.ones((2, 1, 4))
    np.testing.assert_array_equal(
        jax.jit(lambda: mc.classification(probs=probs).votes)(), [[2, 0, 0, 0]]
    )
    with pytest.raises(ValueError, match="probs must not be negative"):
        jax.jit(lambda: mc.classification(probs=logits).votes)()
