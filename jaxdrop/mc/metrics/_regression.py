"""Scores of a regression's predictions for observations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _reduction, _regression
from jaxdrop.mc._reduction import masked, reduction


@_checks.hinted
def rmse(
    y: _inputs.Number, mean: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The root of the mean squared error, `sqrt(mean_n (y_n - mean_n)^2)`.

    Args:
      y: the observations.
      mean: the predictions, of the same shape.
      where: booleans, the entries that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN.
    """
    return _rmse(*_inputs.entries("rmse", where, y=y, mean=mean))


@reduction("rmse")
def _rmse(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    y, mean = (masked(where, x) for x in arrays)
    return jnp.sqrt(_reduction.mean((y - mean) ** 2, where))


@_checks.hinted
def gaussian_nll(
    y: _inputs.Number,
    mean: _inputs.ArrayLike,
    std: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`mean_n 1/2 z_n^2 + log std_n + 1/2 log(2 pi)`, with `z = (y - mean) / std`, in nats.

    The negative log-likelihood under a Gaussian for each observation. `-mc.log_likelihood(...)` is
    another number, that under the mixture of all samples.

    Args:
      y: the observations.
      mean: the predictions, of the same shape.
      std: the standard deviation of an observation (not of the mean), such as `Regression.std`;
        of the same shape, above 0.
      where: booleans, the entries that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN, or a standard
        deviation that is not above 0.
    """
    return _gaussian_nll(*_gaussian("gaussian_nll", where, y=y, mean=mean, std=std))


@reduction("gaussian_nll")
def _gaussian_nll(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    z, std = _standardized(arrays, where)
    return _reduction.mean(z**2 / 2 + jnp.log(std), where) + np.log(2 * np.pi).astype(z.dtype) / 2


@cites("gneiting2007strictly")
@_checks.hinted
def crps_gaussian(
    y: _inputs.Number,
    mean: _inputs.ArrayLike,
    std: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The continuous ranked probability score of Gaussians, in the units of y; less is better.

    `mean_n std (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi))`, with `z = (y - mean) / std`. Args and
    Raises are those of `gaussian_nll`.

    References:
      Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA
      102(477), 2007.
    """
    return _crps_gaussian(*_gaussian("crps_gaussian", where, y=y, mean=mean, std=std))


@reduction("crps_gaussian")
def _crps_gaussian(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    z, std = _standardized(arrays, where)
    unit = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi).astype(z.dtype)
    return _reduction.mean(std * unit, where)


@cites("gneiting2007strictly", "ferro2014fair")
@_checks.hinted
def crps_samples(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    fair: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The continuous ranked probability score of samples, in the units of y; less is better.

    `mean_n E|X - y_n| - 1/2 E|X - X'|`. The samples should be samples of an observation: add the
    noise to a model's predictions, or they score as a forecast without noise.

    Args:
      y: the observations, of the shape of `samples` without its first axis.
      samples: shape (S, ...).
      fair: whether to take `X'` from the S - 1 other samples in place of all S. The expectation is
        then the score of an infinite number of samples.
      where: booleans, the observations that count, as in `mc.metrics`.

    Raises:
      TypeError: not real numbers, or `fair` is not a bool.
      ValueError: shapes do not fit or are empty, an entry that counts is NaN, or there is one
        sample to be `fair` with.

    References:
      Gneiting & Raftery, 2007. Ferro, "Fair scores for ensemble forecasts", QJRMS 140(683), 2014.
    """
    samples = _inputs.samples("crps_samples", "samples", samples)
    (y,), where = _inputs.entries(
        "crps_samples", where, y=_regression.target("crps_samples", y, samples)
    )
    fair = _checks.check_flag(fair, "fair")
    if fair and samples.shape[0] < 2:
        raise ValueError(
            f"crps_samples needs two samples if fair, got samples of shape {samples.shape}"
        )
    _inputs.not_nan("crps_samples", "samples", samples, None if where is None else where[None])
    return _crps_samples(y, samples, where, fair=fair)


@reduction("crps_samples")
def _crps_samples(
    y: jax.Array, samples: jax.Array, where: jax.Array | None, *, fair: bool
) -> jax.Array:
    where_samples = None if where is None else where[None]
    gaps = masked(where_samples, samples - y[None])
    size = gaps.shape[0]
    ordered = jnp.sort(gaps - _reduction.mean(gaps, axis=0)[None], axis=0)
    ranks = (2.0 * np.arange(size) - size + 1) / (size - 1 if fair else size)
    weights = jnp.reshape(jnp.asarray(ranks, gaps.dtype), (size, *[1] * y.ndim))
    half = _reduction.mean(weights * ordered, axis=0)
    return _reduction.mean(_reduction.mean(jnp.abs(gaps), axis=0) - half, where)


@cites("grimit2006continuous")
@_checks.hinted
def crps_mixture(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The continuous ranked probability score of the mixture `1/S sum_s N(y_s, sigma_s^2)`, in the
    units of y; less is better.

    `mean_n 1/S sum_s A(y - y_s, sigma_s^2) - 1/(2 S^2) sum_st A(y_s - y_t, sigma_s^2 + sigma_t^2)`,
    with `A(m, v) = m (2 Phi(m / sqrt(v)) - 1) + 2 sqrt(v) phi(m / sqrt(v))`. The whole predictive
    distribution is scored, with its noise, and not the Gaussian of its moments, as by
    `crps_gaussian`. It takes S passes over the samples.

    Args:
      y: the observations, of the shape of `samples` without its first axis.
      samples: as in `mc.regression`.
      tau: as in `mc.regression`; infinite without noise, which is `crps_samples`.
      variance: as in `mc.regression`.
      where: booleans, the observations that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError, ValueError: as `mc.regression`, or shapes do not fit, or an entry that counts is
        NaN.

    References:
      Grimit, Gneiting, Berrocal & Johnson, "The continuous ranked probability score for circular
      variables and its application to mesoscale forecast ensemble verification", QJRMS 132, 2006,
      equation 5.
    """
    samples, noise = _regression.mixture("crps_mixture", samples, tau, variance, noiseless=True)
    (y,), where = _inputs.entries(
        "crps_mixture", where, y=_regression.target("crps_mixture", y, samples)
    )
    _inputs.not_nan("crps_mixture", "samples", samples, None if where is None else where[None])
    return _crps_mixture(y, samples, noise, where)


@reduction("crps_mixture")
def _crps_mixture(
    y: jax.Array, samples: jax.Array, noise: jax.Array, where: jax.Array | None
) -> jax.Array:
    counts = None if where is None else where[None]
    gaps = masked(counts, samples - y[None])
    noise = masked(counts, jnp.broadcast_to(noise, samples.shape))

    def pairs(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _reduction.mean(_absolute(gaps - one[0][None], noise + one[1][None]), axis=0)

    half = _reduction.mean(lax.map(pairs, (gaps, noise)), axis=0) / 2
    return _reduction.mean(_reduction.mean(_absolute(gaps, noise), axis=0) - half, where)


def _absolute(mean: jax.Array, variance: jax.Array) -> jax.Array:
    """`E|X|` of a Gaussian X."""
    certain = variance == 0
    std = jnp.sqrt(jnp.where(certain, 1, variance))
    z = mean / std
    noisy = mean * (2 * norm.cdf(z) - 1) + 2 * std * norm.pdf(z)
    return jnp.where(certain, jnp.abs(mean), noisy)


def _gaussian(
    caller: str, where: _inputs.ArrayLike | None, **arrays: _inputs.Number
) -> tuple[list[jax.Array], jax.Array | None]:
    checked, selected = _inputs.entries(caller, where, **arrays)
    _inputs.positive("std", checked[2], where=selected)
    return checked, selected


def _standardized(arrays: list[jax.Array], where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """`z`, and the standard deviations, NaN where they are not above 0."""
    y, mean, std = (masked(where, x, 1) for x in arrays)
    std = jnp.where(std > 0, std, jnp.nan)
    return (y - mean) / std, std
