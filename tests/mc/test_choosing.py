"""The precision of the noise and the rate, chosen on held-out data, against SciPy's minimizer and
closed forms.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import jaxdrop
from jaxdrop import mc

RNG = np.random.default_rng(0)
Y = RNG.normal(size=40)
SAMPLES = np.float32(Y + RNG.normal(scale=0.3, size=40) + RNG.normal(scale=0.5, size=(8, 40)))


def _log_likelihood(y: np.ndarray, samples: np.ndarray, tau: float, outputs: int = 1) -> float:
    """Equation 8 in float64, of examples with a number of outputs."""
    errors = ((np.float64(samples) - y) ** 2).reshape(len(samples), -1, outputs).sum(-1)
    parts = special.logsumexp(-tau / 2 * errors, axis=0) - np.log(len(samples))
    return float(parts.mean() + outputs / 2 * np.log(tau / (2 * np.pi)))


def _best(y: np.ndarray, samples: np.ndarray, outputs: int = 1) -> float:
    loss = lambda u: -_log_likelihood(y, samples, np.exp(u), outputs)  # noqa: E731
    grid = np.linspace(-20, 20, 800)
    start = grid[np.argmin([loss(u) for u in grid])]
    return float(np.exp(optimize.minimize_scalar(loss, (start - 0.1, start + 0.1), tol=1e-12).x))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_the_most_likely_precision(scale: float) -> None:
    fitted = mc.fit_tau(scale * Y, scale * SAMPLES)
    tau = _best(scale * Y, scale * SAMPLES)
    np.testing.assert_allclose(fitted.tau, tau, rtol=1e-4)
    np.testing.assert_allclose(
        fitted.log_likelihood, _log_likelihood(scale * Y, scale * SAMPLES, tau), rtol=1e-5
    )
    np.testing.assert_allclose(
        mc.log_likelihood(scale * Y, scale * SAMPLES, tau=fitted.tau).mean(),
        fitted.log_likelihood,
        rtol=1e-5,
    )


def test_several_outputs() -> None:
    fitted = mc.fit_tau(Y.reshape(10, 4), SAMPLES.reshape(8, 10, 4), output_axes=1)
    np.testing.assert_allclose(fitted.tau, _best(Y, SAMPLES, 4), rtol=1e-4)
    np.testing.assert_allclose(
        fitted.log_likelihood, _log_likelihood(Y, SAMPLES, float(fitted.tau), 4), rtol=1e-5
    )


def test_one_example() -> None:
    """Its samples alone say between which precisions the best one lies."""
    samples, y = np.array([[1.0], [3.0]], np.float32), np.zeros(1, np.float32)
    np.testing.assert_allclose(mc.fit_tau(y, samples).tau, _best(y, samples), rtol=1e-4)


def test_one_sample_has_the_mean_squared_error() -> None:
    np.testing.assert_allclose(
        mc.fit_tau(Y, SAMPLES[:1]).tau, 1 / ((SAMPLES[0] - Y) ** 2).mean(), rtol=1e-5
    )


def test_splits_by_vmap() -> None:
    splits = jnp.asarray(Y.reshape(2, 20)), jnp.asarray(SAMPLES.reshape(8, 2, 20))
    fitted = jax.jit(jax.vmap(mc.fit_tau, in_axes=(0, 1)))(*splits)
    expected = [_best(Y[part], SAMPLES[:, part]) for part in (slice(20), slice(20, None))]
    np.testing.assert_allclose(fitted.tau, expected, rtol=1e-4)


def test_no_precision_fits() -> None:
    with pytest.raises(ValueError, match="no finite tau: some sample hits each target exactly"):
        mc.fit_tau(SAMPLES[0], SAMPLES)
    with pytest.raises(ValueError, match="at least one held-out example"):
        mc.fit_tau(Y[:0], SAMPLES[:, :0])
    with pytest.raises(ValueError, match=r"of the shape of one sample, \(40,\), got \(8, 40\)"):
        mc.fit_tau(SAMPLES, Y.reshape(1, 40))


# -- weight decay

PRIOR = {"rate": 0.05, "length_scale": 1e-2, "num_examples": 455}


def test_weight_decay() -> None:
    tau = 0.1597
    # The regularizer of the authors' code: lengthscale**2 * (1 - dropout) / (2. * N * tau).
    decay = mc.weight_decay_from_tau(tau, **PRIOR, loss="half_mse")
    np.testing.assert_allclose(decay, 1e-2**2 * (1 - 0.05) / (2.0 * 455 * tau), rtol=1e-6)
    np.testing.assert_allclose(
        mc.weight_decay_from_tau(tau, **PRIOR, loss="mse"), 2 * decay, rtol=1e-6
    )
    for loss in ("half_mse", "mse"):
        decay = mc.weight_decay_from_tau(tau, **PRIOR, loss=loss)
        np.testing.assert_allclose(
            mc.tau_from_weight_decay(decay, **PRIOR, loss=loss), tau, rtol=1e-6
        )


@pytest.mark.parametrize(("loss", "half"), [("half_mse", 0.5), ("mse", 1.0)])
def test_weight_decay_is_the_maximum_a_posteriori(loss: str, half: float) -> None:
    """Of a linear model without dropout, with precision tau of the noise and a prior N(0, 1 / l^2)
    of the weights.
    """
    x, tau, length_scale = RNG.normal(size=(40, 3)), 2.5, 0.7
    posterior = np.linalg.solve(tau * x.T @ x + length_scale**2 * np.eye(3), tau * x.T @ Y)
    decay = mc.weight_decay_from_tau(
        tau, rate=0.0, length_scale=length_scale, num_examples=40, loss=loss
    )
    trained = np.linalg.solve(half * x.T @ x / 40 + float(decay) * np.eye(3), half * x.T @ Y / 40)
    np.testing.assert_allclose(trained, posterior, rtol=1e-5)


def test_bad_weight_decay() -> None:
    with pytest.raises(ValueError, match="loss must be one of 'half_mse', 'mse', got 'l2'"):
        mc.tau_from_weight_decay(1e-4, **PRIOR, loss="l2")
    with pytest.raises(ValueError, match=r"weight_decay must lie in \(0, infinity\), got 0.0"):
        mc.tau_from_weight_decay(0.0, **PRIOR, loss="mse")
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 1.5"):
        mc.tau_from_weight_decay(1e-4, **{**PRIOR, "rate": 1.5}, loss="mse")
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        mc.weight_decay_from_tau(1.0, **{**PRIOR, "num_examples": 0}, loss="mse")


# -- rates

KEYS = mc.keys(jaxdrop.key(0), 4)


def _dropped(key: jax.Array, rate: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, jnp.ones(1000), rate)


def _spread(samples: jax.Array, wanted: float) -> jax.Array:
    """The variance of what dropout at a rate returns, rate / (1 - rate), has a distance to the
    wanted one.
    """
    return jnp.abs(samples.var() - wanted)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_best_rate(batch_size: int | None) -> None:
    rates = np.array([0.0, 0.2, 0.5, 0.8])
    traces = []

    def fn(key: jax.Array, rate: jax.Array) -> jax.Array:
        traces.append(rate)
        return _dropped(key, rate)

    fitted = mc.fit_rate(
        fn, rates, KEYS, functools.partial(_spread, wanted=1.0), batch_size=batch_size
    )
    assert fitted.rate == 0.5
    np.testing.assert_allclose(fitted.rates, rates, rtol=1e-6)
    assert fitted.loss == fitted.losses[2] == fitted.losses.min()
    for rate, loss in zip(rates, fitted.losses, strict=True):
        samples = jnp.stack([_dropped(key, jnp.float32(rate)) for key in KEYS])
        np.testing.assert_allclose(loss, _spread(samples, 1.0), atol=1e-5)
    assert len(traces) <= 2  # one for the remainder of the batches


def test_bad_rates() -> None:
    loss = functools.partial(_spread, wanted=1.0)
    with pytest.raises(ValueError, match=r"rates must lie in \[0, 1\], got 1.5"):
        mc.fit_rate(_dropped, np.array([0.5, 1.5]), KEYS, loss)
    with pytest.raises(
        ValueError, match=r"rates must have shape \(R,\) with at least one rate, got \(\)"
    ):
        mc.fit_rate(_dropped, 0.5, KEYS, loss)
    with pytest.raises(ValueError, match=r"loss must return a number, got shape \(4, 1000\)"):
        mc.fit_rate(_dropped, np.array([0.5]), KEYS, lambda samples: samples)
    with pytest.raises(ValueError, match=r"the loss is NaN at the rates \[0.5\]"):
        mc.fit_rate(_dropped, np.array([0.5]), KEYS, lambda samples: samples.sum() * jnp.nan)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        mc.fit_rate(_dropped, np.array([0.5]), KEYS, loss, batch_size=0)
