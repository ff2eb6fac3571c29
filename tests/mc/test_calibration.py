"""Temperature scaling, against SciPy's minimizer."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jaxdrop import mc

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.normal(size=(4, 1, 3)) + RNG.normal(scale=2, size=(4, 60, 3)))
LOGITS = np.concatenate(
    [LOGITS, np.full((4, 60, 1), -np.inf, np.float32)], axis=-1
)  # a class that is ruled out
LABELS = np.array([RNG.choice(4, p=special.softmax(row / 3)) for row in LOGITS.mean(0)])


def _best(loss: Callable[[float], float]) -> float:
    grid = np.linspace(-3, 3, 200)
    start = grid[np.argmin([loss(u) for u in grid])]
    return float(np.exp(optimize.minimize_scalar(loss, (start - 0.1, start + 0.1), tol=1e-12).x))


def _nll(logits: np.ndarray, temperature: float) -> float:
    log_probs = special.log_softmax(np.float64(logits) / temperature, axis=-1)
    picked = np.take_along_axis(log_probs, LABELS[None, :, None], axis=-1)
    return -np.mean(special.logsumexp(picked, axis=0) - np.log(len(logits)))


def _pooled() -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(special.softmax(np.float64(LOGITS), axis=-1).mean(0, keepdims=True))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("pooled", [False, True])
def test_it_is_the_minimum(pooled: bool) -> None:
    logits = _pooled() if pooled else LOGITS
    expected = _best(lambda u: _nll(logits, np.exp(u)))
    fitted = mc.fit_temperature(LABELS, LOGITS, pooled=pooled)
    np.testing.assert_allclose(fitted.temperature, expected, rtol=1e-4)
    np.testing.assert_allclose(fitted.nll, _nll(logits, expected), rtol=1e-6)
    if not pooled:
        summary = mc.classification(logits=LOGITS / fitted.temperature)
        np.testing.assert_allclose(
            mc.metrics.nll(LABELS, log_probs=summary.log_mean), fitted.nll, rtol=1e-5
        )


def test_a_deterministic_model() -> None:
    fitted = mc.fit_temperature(LABELS, LOGITS[0])
    np.testing.assert_allclose(
        fitted.temperature, _best(lambda u: _nll(LOGITS[:1], np.exp(u))), rtol=1e-4
    )


def test_the_bounds() -> None:
    """Near one, the loss is flat up to rounding, which is that of the exponential."""
    right = np.where(np.eye(4, dtype=bool)[LABELS], 5.0, 0.0)
    assert 0.00999 < mc.fit_temperature(LABELS, right).temperature < 0.05
    np.testing.assert_allclose(mc.fit_temperature(LABELS, -right).temperature, 100, rtol=1e-4)


def test_splits_by_vmap() -> None:
    splits = (
        jnp.asarray(np.tile(LABELS, (2, 1))),
        jnp.asarray(np.stack([LOGITS, 3 * LOGITS], axis=1)),
    )
    fitted = jax.jit(jax.vmap(mc.fit_temperature, in_axes=(0, 1)))(*splits)
    expected = _best(lambda u: _nll(LOGITS, np.exp(u)))
    np.testing.assert_allclose(fitted.temperature, [expected, 3 * expected], rtol=1e-4)


def test_bad_input() -> None:
    with pytest.raises(
        TypeError,
        match=(
            r"fit_temperature takes integer labels, and takes them first, got float32\[4, 60, 4\]"
        ),
    ):
        mc.fit_temperature(LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"got \(60,\) and \(4,\)"):
        mc.fit_temperature(LABELS, LOGITS[0, 0])
    with pytest.raises(ValueError, match=r"shape \(60,\), got labels of shape \(59,\)"):
        mc.fit_temperature(LABELS[1:], LOGITS)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\), got 1 to 4"):
        mc.fit_temperature(np.resize([1, 2, 4], 60), LOGITS)
    with pytest.raises(ValueError, match="at least one, got"):
        mc.fit_temperature(LABELS[:0], LOGITS[:, :0])
    impossible = LOGITS.copy()
    impossible[:, 0, LABELS[0]] = -np.inf
    with pytest.raises(ValueError, match="a probability of 0 at every temperature, or are NaN"):
        mc.fit_temperature(LABELS, impossible)
