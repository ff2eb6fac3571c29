"""How good predictions of numbers and their uncertainties are."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from jaxdrop.functional import _arguments
from jaxdrop.mc import _inputs, _reduction, _regression
from jaxdrop.mc._reduction import keep, reduction

Proportion = Literal["interval", "quantile"]


class CalibrationCurve(NamedTuple):
    """How often observations fall where they should."""

    expected: jax.Array
    """Probabilities, from 0 to 1."""
    observed: jax.Array
    """The share of observations in the interval, or below the quantile, of each probability."""


def rmse(y: _inputs.Number, mean: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None) -> jax.Array:
    """The root of the mean squared error, `sqrt(mean_n (y_n - mean_n)^2)`.

    Args:
      y: what was observed.
      mean: what was predicted, of the same shape.
      where: booleans, the entries that count, as in `mc.metrics`.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN.
    """
    return _rmse(*_inputs.entries("rmse", where, y=y, mean=mean))


@reduction("rmse")
def _rmse(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    y, mean = (keep(where, x) for x in arrays)
    return jnp.sqrt(_reduction.mean((y - mean) ** 2, where))


def gaussian_nll(
    y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """`mean_n 1/2 z_n^2 + log std_n + 1/2 log(2 pi)`, with `z = (y - mean) / std`, in nats.

    This is the likelihood under Gaussians. That of the mixture of all samples is
    `-mc.log_likelihood(...)`, another number.

    Args:
      y: what was observed.
      mean: what was predicted, of the same shape.
      std: the standard deviation of an observation (not of the mean), such as `Regression.std`;
        of the same shape, above 0.
      where: booleans, the entries that count, as in `mc.metrics`.

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


def crps_gaussian(
    y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
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


def crps_samples(
    y: _inputs.Number, samples: _inputs.ArrayLike, *, fair: bool = False, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The continuous ranked probability score of samples, in the units of y; less is better.

    `mean_n E|X - y_n| - 1/2 E|X - X'|`. The samples are of what will be observed: a model's
    predictions without the noise score as a forecast without noise.

    Args:
      y: what was observed, of the shape of `samples` without its first axis.
      samples: shape (S, ...).
      fair: take `X'` from the S - 1 other samples in place of all S: what an infinite number of
        samples would score, in expectation.
      where: booleans, the observations that count, as in `mc.metrics`.

    Raises:
      TypeError: not real numbers, or `fair` is not a bool.
      ValueError: shapes do not fit or are empty, an entry that counts is NaN, or there is one sample
        to be `fair` with.

    References:
      Gneiting & Raftery, 2007. Ferro, "Fair scores for ensemble forecasts", QJRMS 140(683), 2014.
    """
    samples = _inputs.samples("crps_samples", "samples", samples)
    (y,), where = _inputs.entries("crps_samples", where, y=_regression.target("crps_samples", y, samples))
    fair = _inputs.flag("fair", fair)
    if fair and samples.shape[0] < 2:
        raise ValueError(f"crps_samples needs two samples if fair, got samples of shape {samples.shape}")
    _inputs.not_nan("crps_samples", "samples", samples, None if where is None else where[None])
    return _crps_samples(y, samples, where, fair=fair)


@reduction("crps_samples")
def _crps_samples(y: jax.Array, samples: jax.Array, where: jax.Array | None, *, fair: bool) -> jax.Array:
    where_samples = None if where is None else where[None]
    gaps = keep(where_samples, samples - y[None])
    size = gaps.shape[0]
    ordered = jnp.sort(gaps - _reduction.mean(gaps, axis=0)[None], axis=0)
    ranks = (2.0 * np.arange(size) - size + 1) / (size - 1 if fair else size)
    weights = jnp.reshape(jnp.asarray(ranks, gaps.dtype), (size, *[1] * y.ndim))
    half = _reduction.mean(weights * ordered, axis=0)
    return _reduction.mean(_reduction.mean(jnp.abs(gaps), axis=0) - half, where)


def calibration_curve(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> CalibrationCurve:
    """How often observations fall into the central interval, or below the quantile, of each probability.

    For p on `linspace(0, 1, num_points)`: the share of observations with `|2 F(y) - 1| <= p`
    (`"interval"`), or with `F(y) <= p` (`"quantile"`), where F is the predicted distribution
    function. A calibrated model has a share of p.

        curve = mc.metrics.calibration_curve(summary.cdf(y))                  # of Gaussians
        curve = mc.metrics.calibration_curve(mc.cdf(y, samples, tau=tau))     # of the mixture

    Args:
      cdf: `F(y)` of each observation, in [0, 1]; any shape.
      proportion: one of the two names.
      num_points: at least 2.
      where: booleans, the observations that count, as in `mc.metrics`.

    Returns:
      A `CalibrationCurve`.

    Raises:
      TypeError: not real numbers.
      ValueError: no values, one that counts lies outside [0, 1], an unknown name, or fewer than 2
        points.

    References:
      Kuleshov, Fenner & Ermon, "Accurate uncertainties for deep learning using calibrated
      regression", ICML 2018, arXiv:1807.00263. Chung, Char, Guo, Schneider & Neiswanger,
      "Uncertainty Toolbox", 2021, arXiv:2109.10254.
    """
    return _calibration_curve(*_levels("calibration_curve", cdf, where), **_curve(proportion, num_points))


@reduction("calibration_curve")
def _calibration_curve(cdf: jax.Array, where: jax.Array | None, *, central: bool, num_points: int) -> CalibrationCurve:
    valid = keep(where, (cdf >= 0) & (cdf <= 1), fill=True)
    values = jnp.abs(2 * cdf - 1) if central else cdf
    expected = jnp.asarray(np.linspace(0, 1, num_points), values.dtype)
    reached = jnp.searchsorted(expected, keep(where, values, 2).ravel())  # the first point not below
    below = _reduction.counts(reached, num_points).cumsum()
    observed = below.astype(cdf.dtype) / _reduction.number(where, cdf.size).astype(cdf.dtype)
    return CalibrationCurve(expected, jnp.where(valid.all(), observed, jnp.nan))


def rmsce(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The root mean squared calibration error, `sqrt(mean_p (observed(p) - p)^2)`; args as in `calibration_curve`."""
    return _errors(*_levels("rmsce", cdf, where), **_curve(proportion, num_points))[0]


def mace(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The mean absolute calibration error, `mean_p |observed(p) - p|`; args as in `calibration_curve`."""
    return _errors(*_levels("mace", cdf, where), **_curve(proportion, num_points))[1]


def miscalibration_area(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The area between the calibration curve, drawn as straight lines, and the diagonal; args as in `calibration_curve`."""
    return _errors(*_levels("miscalibration_area", cdf, where), **_curve(proportion, num_points))[2]


@reduction("calibration_errors")
def _errors(cdf: jax.Array, where: jax.Array | None, *, central: bool, num_points: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The root mean square, the mean, and the area of the gap between curve and diagonal."""
    curve = _calibration_curve(cdf, where, central=central, num_points=num_points)
    gap = curve.observed - curve.expected
    left, right = gap[:-1], gap[1:]
    total = jnp.abs(left) + jnp.abs(right)
    # A piece that crosses the diagonal is two triangles, of heights |left| and |right|.
    crossing = (left**2 + right**2) / jnp.where(total > 0, total, 1)
    area = jnp.where(left * right < 0, crossing, total).mean() / 2
    return jnp.sqrt((gap**2).mean()), jnp.abs(gap).mean(), area


def picp(
    y: _inputs.Number, lower: _inputs.ArrayLike, upper: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The prediction interval's coverage: the share of observations in [lower, upper], both ends included.

    Args:
      y: what was observed.
      lower: of the same shape; with `upper` what `Regression.interval` and `mc.interval` return.
      upper: of the same shape.
      where: booleans, the observations that count, as in `mc.metrics`.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN, or a lower bound that
        lies above the upper one.
    """
    return _picp(*_bounds("picp", where, y=y, lower=lower, upper=upper))


@reduction("picp")
def _picp(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    y, lower, upper = arrays
    outside = (y < lower) | (y > upper)
    inside = (y >= lower) & (y <= upper)
    known = (inside | outside) & (lower <= upper)  # NaN is neither
    return _reduction.mean(jnp.where(known, inside.astype(y.dtype), jnp.nan), where)


def mpiw(lower: _inputs.ArrayLike, upper: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None) -> jax.Array:
    """The mean width of prediction intervals, `mean_n (upper_n - lower_n)`; args as in `picp`."""
    return _mpiw(*_bounds("mpiw", where, lower=lower, upper=upper))


@reduction("mpiw")
def _mpiw(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    lower, upper = (keep(where, x) for x in arrays)
    return _reduction.mean(jnp.where(lower <= upper, upper - lower, jnp.nan), where)


def sharpness(std: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None) -> jax.Array:
    """`sqrt(mean_n std_n^2)`: how narrow predictions are, in the units of y.

    Args:
      std: standard deviations of observations, such as `Regression.std`; any shape.
      where: booleans, the entries that count, as in `mc.metrics`.

    Raises:
      TypeError: not real numbers.
      ValueError: there are none, or one that counts is below 0 or NaN.

    References:
      Gneiting, Balabdaoui & Raftery, "Probabilistic forecasts, calibration and sharpness", JRSS B
      69(2), 2007.
    """
    (std,), where = _inputs.entries("sharpness", where, std=std)
    _inputs.positive("std", std, zero=True, infinity=True, where=where)
    return _sharpness(std, where)


@reduction("sharpness")
def _sharpness(std: jax.Array, where: jax.Array | None) -> jax.Array:
    std = keep(where, std)
    return jnp.sqrt(_reduction.mean(jnp.where(std >= 0, std, jnp.nan) ** 2, where))


def _gaussian(caller: str, where: _inputs.ArrayLike | None, **arrays: _inputs.Number) -> tuple[list[jax.Array], jax.Array | None]:
    checked, selected = _inputs.entries(caller, where, **arrays)
    _inputs.positive("std", checked[2], where=selected)
    return checked, selected


def _standardized(arrays: list[jax.Array], where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """`z`, and the standard deviations, NaN where they are not above 0."""
    y, mean, std = (keep(where, x, fill) for x, fill in zip(arrays, (0, 0, 1), strict=True))
    std = jnp.where(std > 0, std, jnp.nan)
    return (y - mean) / std, std


def _bounds(caller: str, where: _inputs.ArrayLike | None, **arrays: _inputs.Number) -> tuple[list[jax.Array], jax.Array | None]:
    checked, selected = _inputs.entries(caller, where, **arrays)
    lower, upper = checked[-2:]
    if (bound := _inputs.known(lower)) is not None and not _inputs.holds(lambda x: bound <= x, upper, selected):
        raise ValueError(f"{caller} takes bounds with lower <= upper, and some are the other way round")
    return checked, selected


def _levels(caller: str, cdf: _inputs.ArrayLike, where: _inputs.ArrayLike | None) -> tuple[jax.Array, jax.Array | None]:
    (cdf,), selected = _inputs.entries(caller, where, cdf=cdf)
    if not _inputs.holds(lambda cdf: (cdf >= 0) & (cdf <= 1), cdf, selected):
        raise ValueError(f"cdf must lie in [0, 1], got {np.nanmin(cdf):g} to {np.nanmax(cdf):g}")
    return cdf, selected


def _curve(proportion: Proportion, num_points: int) -> dict[str, Any]:
    _arguments.one_of("proportion", proportion, Proportion)
    return {"central": proportion == "interval", "num_points": _arguments.count("num_points", num_points, least=2)}
