"""Summaries of samples, against values computed in float64 elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from jaxdrop import mc

# Computed in float64 with numpy and scipy, from these probabilities of shape (inputs, samples, classes).
PROBABILITIES = np.array(
    [
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0]],
        [[0.98, 0.01, 0.01], [0.97, 0.02, 0.01], [0.99, 0.005, 0.005], [0.96, 0.02, 0.02]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        [[0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.25, 0.15, 0.6], [0.34, 0.33, 0.33]],
    ]
)
EXPECTED = mc.Classification(
    mean=np.array([[0.475, 0.45, 0.075], [0.975, 0.01375, 0.01125], [0.5, 0.25, 0.25], [0.2725, 0.245, 0.4825]]),
    predictive_entropy=np.array([0.9072077263064947, 0.13411031948037075, 1.0397207708399179, 1.0505072007796428]),
    expected_entropy=np.array([0.7579858294025599, 0.1310856728091399, 0.0, 1.0188300234754069]),
    mutual_information=np.array([0.14922189690393484, 0.0030246466712308406, 1.0397207708399179, 0.031677177304235915]),
)


def _float64(logits: np.ndarray) -> mc.Classification:
    """The definitions, term by term, in float64."""
    log_probs = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    probs = np.exp(log_probs)
    mean = probs.mean(0)
    gaps = special.rel_entr(probs, np.broadcast_to(mean, probs.shape)).sum(-1)
    return mc.Classification(mean, special.entr(mean).sum(-1), special.entr(probs).sum(-1).mean(0), gaps.mean(0))


_classification = jax.jit(lambda logits: mc.classification(logits))


def _logits(*shape: int, scale: float = 1.0) -> jax.Array:
    return scale * jax.random.normal(jax.random.key(0), shape)


def test_published_values() -> None:
    """Probabilities of 0 are logits of -inf."""
    with np.errstate(divide="ignore"):
        logits = np.log(PROBABILITIES).astype(np.float32).swapaxes(0, 1)
    for name, drawn, expected in zip(EXPECTED._fields, _classification(jnp.asarray(logits)), EXPECTED, strict=True):
        np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (7, 2, 3, 10), (3, 0, 4), (4, 1)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_definitions(shape: tuple[int, ...], scale: float) -> None:
    logits = _logits(*shape, scale=scale)
    result, expected = _classification(logits), _float64(np.asarray(logits))
    for name, part, value in zip(expected._fields, result, expected, strict=True):
        assert part.shape == (shape[1:] if name == "mean" else shape[1:-1])
        np.testing.assert_allclose(part, value, rtol=1e-5, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(
        result.predictive_entropy, result.expected_entropy + result.mutual_information, rtol=1e-5, atol=1e-6
    )
    assert (np.asarray(result.mutual_information) >= 0).all()


def test_one_sample_knows_nothing_of_the_weights() -> None:
    result = _classification(_logits(1, 50, 10))
    np.testing.assert_allclose(result.mutual_information, 0, atol=1e-7)
    np.testing.assert_allclose(result.mean, special.softmax(_logits(1, 50, 10)[0], axis=-1), rtol=1e-5)


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_samples_that_agree_keep_their_digits(spread: float) -> None:
    """The difference of the two entropies, about spread squared, would lose them: its own rounding error is 1e-7."""
    logits = _logits(1, 200, 10) + spread * jax.random.normal(jax.random.key(1), (20, 200, 10))
    result, exact = _classification(logits), _float64(np.asarray(logits)).mutual_information
    np.testing.assert_allclose(result.mutual_information, exact, rtol=1e-6 / spread)


@pytest.mark.parametrize("spread", [1e-4, 1e-6, 0.0])
def test_rounding_makes_no_negative_information(spread: float) -> None:
    logits = _logits(1, 200, 10) + spread * jax.random.normal(jax.random.key(1), (20, 200, 10))
    assert (np.asarray(_classification(logits).mutual_information) >= 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats(dtype: jnp.dtype) -> None:
    logits = _logits(6, 4, 5).astype(dtype)
    result, expected = _classification(logits), _float64(np.asarray(logits.astype(jnp.float32)))
    for part, value in zip(result, expected, strict=True):
        assert part.dtype == jnp.float32
        np.testing.assert_allclose(part, value, rtol=1e-5, atol=1e-6)


def test_float64() -> None:
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 5)))
        for part, value in zip(_classification(logits), _float64(np.asarray(logits)), strict=True):
            assert part.dtype == jnp.float64
            np.testing.assert_allclose(part, value, rtol=1e-13)


LOGITS = {
    "ordinary": _logits(4, 2, 3),
    "one sample": _logits(1, 2, 3),
    "equal": jnp.zeros((4, 2, 3)),
    "certain": _logits(4, 2, 3, scale=1e4),  # other probabilities are 0 in float32
    "a class ruled out": _logits(4, 2, 3).at[..., 1].set(-jnp.inf),
    "a class ruled out by one": _logits(4, 2, 3).at[0, 0, 1].set(-jnp.inf),
}


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_gradients_are_finite(logits: jax.Array) -> None:
    gradients = _gradients(logits)
    assert {name: bool(np.isfinite(gradient).all()) for name, gradient in gradients.items()} == dict.fromkeys(gradients, True)


@jax.jit
def _gradients(logits: jax.Array) -> dict[str, jax.Array]:
    """Of the sum of squares of each summary."""

    def loss(logits: jax.Array, name: str) -> jax.Array:
        return (getattr(mc.classification(logits), name) ** 2).sum()

    return {name: jax.grad(loss)(logits, name) for name in mc.Classification._fields}


def test_gradients() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32)
    check_grads(_classification, (logits,), order=1, rtol=2e-2, atol=2e-2)


def test_transformations_do_not_change_it() -> None:
    logits = _logits(4, 6, 3)
    expected = mc.classification(logits)
    for result in (_classification(logits), jax.vmap(_classification, in_axes=1)(logits)):
        for part, value in zip(result, expected, strict=True):
            np.testing.assert_allclose(part, value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("logits", [jnp.ones((2, 3), int), jnp.ones((2, 3), bool)])
def test_not_floating(logits: jax.Array) -> None:
    with pytest.raises(TypeError, match=f"classification .*{logits.dtype}.*float32"):
        mc.classification(logits)


def test_complex_logits() -> None:
    with pytest.raises(TypeError, match=r"classification .*complex64"):
        mc.classification(jnp.ones((2, 3), jnp.complex64))


@pytest.mark.parametrize("shape", [(3,), (), (0, 3), (0, 2, 3)])
def test_no_samples_axis(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must have shape \(S, \.\.\., C\) with at least one sample, got \("):
        mc.classification(jnp.ones(shape))
