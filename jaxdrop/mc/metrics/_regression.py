"""How good predictions of numbers and their uncertainties are."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel
from jaxdrop.mc import _inputs, _regression

Proportion = Literal["interval", "quantile"]


class CalibrationCurve(NamedTuple):
    """How often observations fall where they should."""

    expected: jax.Array
    """Probabilities, from 0 to 1."""
    observed: jax.Array
    """The share of observations in the interval, or below the quantile, of each probability."""


def rmse(y: _inputs.Number, mean: _inputs.ArrayLike) -> jax.Array:
    """The root of the mean squared error, `sqrt(mean_n (y_n - mean_n)^2)`.

    Args:
      y: what was observed.
      mean: what was predicted, of the same shape.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ, or are empty.
    """
    y, mean = _inputs.alike("rmse", y=y, mean=mean)
    return jnp.sqrt(((y - mean) ** 2).mean())


def gaussian_nll(y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike) -> jax.Array:
    """`mean_n 1/2 z_n^2 + log std_n + 1/2 log(2 pi)`, with `z = (y - mean) / std`: under Gaussians, in nats.

    That of the mixture of all samples is `-mc.log_likelihood(...)`: another number.

    Args:
      y: what was observed.
      mean: what was predicted, of the same shape.
      std: the standard deviation of an observation (not of the mean), such as `Regression.std`; of the same shape, above 0.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or a standard deviation is not above 0.
    """
    return _gaussian_nll(*_gaussian("gaussian_nll", y, mean, std))


@kernel("gaussian_nll", checkpoint=False)
def _gaussian_nll(y: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    return -norm.logpdf(y, mean, std).mean()


def crps_gaussian(y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike) -> jax.Array:
    """The continuous ranked probability score of Gaussians, in the units of y; less is better.

    `mean_n std (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi))`, with `z = (y - mean) / std`. Args and Raises are those of
    `gaussian_nll`.

    References:
      Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102(477), 2007.
    """
    return _crps_gaussian(*_gaussian("crps_gaussian", y, mean, std))


@kernel("crps_gaussian", checkpoint=False)
def _crps_gaussian(y: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    z = (y - mean) / std
    return (std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi).astype(z.dtype))).mean()


def crps_samples(y: _inputs.Number, samples: _inputs.ArrayLike, *, fair: bool = False) -> jax.Array:
    """The continuous ranked probability score of samples, `mean_n E|X - y_n| - 1/2 E|X - X'|`, in the units of y.

    The samples are of what will be observed: a model's predictions without the noise score as a forecast without noise.

    Args:
      y: what was observed, of the shape of `samples` without its first axis.
      samples: shape (S, ...).
      fair: take `X'` from the S - 1 other samples in place of all S: what an infinite number of samples would score, in
        expectation.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes do not fit or are empty, or there is one sample to be `fair` with.

    References:
      Gneiting & Raftery, 2007. Ferro, "Fair scores for ensemble forecasts", QJRMS 140(683), 2014.
    """
    samples = _inputs.samples("crps_samples", "samples", samples)
    y = _regression.target("crps_samples", y, samples)
    if not y.size or (fair and samples.shape[0] < 2):
        raise ValueError(f"crps_samples needs an observation, and two samples if fair, got samples of shape {samples.shape}")
    return _crps_samples(y, samples, fair=_arguments.is_true(fair))


@kernel("crps_samples", checkpoint=False)
def _crps_samples(y: jax.Array, samples: jax.Array, *, fair: bool) -> jax.Array:
    gaps = jnp.sort(samples - y[None], axis=0)
    size = samples.shape[0]
    ranks = (2.0 * np.arange(size) - size + 1) / (size * (size - 1 if fair else size))
    half = jnp.tensordot(jnp.asarray(ranks, gaps.dtype), gaps, axes=1, precision="highest")
    return (jnp.abs(gaps).mean(0) - half).mean()


def calibration_curve(cdf: _inputs.ArrayLike, *, proportion: Proportion = "interval", num_points: int = 100) -> CalibrationCurve:
    """How often observations fall into the central interval, or below the quantile, of each probability.

    For p on `linspace(0, 1, num_points)`: the share of observations with `|2 F(y) - 1| <= p` (`"interval"`), or with
    `F(y) <= p` (`"quantile"`), where F is the predicted distribution function. A calibrated model has a share of p.

        curve = mc.metrics.calibration_curve(summary.cdf(y))                  # of Gaussians
        curve = mc.metrics.calibration_curve(mc.cdf(y, samples, tau=tau))     # of the mixture of all samples

    Args:
      cdf: `F(y)` of each observation, in [0, 1]; any shape.
      proportion: one of the two names.
      num_points: at least 2.

    Returns:
      A `CalibrationCurve`.

    Raises:
      TypeError: not real numbers.
      ValueError: no values, one outside [0, 1], an unknown name, or fewer than 2 points.

    References:
      Kuleshov, Fenner & Ermon, "Accurate uncertainties for deep learning using calibrated regression", ICML 2018,
      arXiv:1807.00263. Chung, Char, Guo, Schneider & Neiswanger, "Uncertainty Toolbox", 2021, arXiv:2109.10254.
    """
    (cdf,) = _inputs.alike("calibration_curve", cdf=cdf)
    if not _inputs.holds(lambda cdf: (cdf >= 0) & (cdf <= 1), cdf):
        raise ValueError(f"cdf must lie in [0, 1], got {np.asarray(cdf).min()} to {np.asarray(cdf).max()}")
    _arguments.one_of("proportion", proportion, Proportion)
    points = _arguments.count("num_points", num_points, least=2)
    return _calibration_curve(cdf, central=proportion == "interval", num_points=points)


@kernel("calibration_curve", checkpoint=False)
def _calibration_curve(cdf: jax.Array, *, central: bool, num_points: int) -> CalibrationCurve:
    values = jnp.sort((jnp.abs(2 * cdf - 1) if central else cdf).ravel())
    expected = jnp.asarray(np.linspace(0, 1, num_points), values.dtype)
    return CalibrationCurve(expected, jnp.searchsorted(values, expected, side="right").astype(values.dtype) / values.size)


def rmsce(cdf: _inputs.ArrayLike, *, proportion: Proportion = "interval", num_points: int = 100) -> jax.Array:
    """The root mean squared calibration error, `sqrt(mean_p (observed(p) - p)^2)`; args as in `calibration_curve`."""
    return _errors(calibration_curve(cdf, proportion=proportion, num_points=num_points))[0]


def mace(cdf: _inputs.ArrayLike, *, proportion: Proportion = "interval", num_points: int = 100) -> jax.Array:
    """The mean absolute calibration error, `mean_p |observed(p) - p|`; args as in `calibration_curve`."""
    return _errors(calibration_curve(cdf, proportion=proportion, num_points=num_points))[1]


def miscalibration_area(cdf: _inputs.ArrayLike, *, proportion: Proportion = "interval", num_points: int = 100) -> jax.Array:
    """The area between the calibration curve, drawn as straight lines, and the diagonal; args as in `calibration_curve`."""
    return _errors(calibration_curve(cdf, proportion=proportion, num_points=num_points))[2]


@kernel("calibration_errors", checkpoint=False)
def _errors(curve: CalibrationCurve) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The root mean square, the mean, and the area of the gap between curve and diagonal."""
    gap = curve.observed - curve.expected
    left, right = gap[:-1], gap[1:]
    total = jnp.abs(left) + jnp.abs(right)
    # A piece that crosses the diagonal is two triangles, of heights |left| and |right|.
    crossing = (left**2 + right**2) / jnp.where(total > 0, total, 1)
    area = jnp.where(left * right < 0, crossing, total).mean() / 2
    return jnp.sqrt((gap**2).mean()), jnp.abs(gap).mean(), area


def picp(y: _inputs.Number, lower: _inputs.ArrayLike, upper: _inputs.ArrayLike) -> jax.Array:
    """The prediction interval's coverage: the share of observations in [lower, upper], both ends included.

    Args:
      y: what was observed.
      lower: of the same shape; with `upper` what `Regression.interval` and `mc.interval` return.
      upper: of the same shape.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ, or are empty.
    """
    y, lower, upper = _inputs.alike("picp", y=y, lower=lower, upper=upper)
    return ((lower <= y) & (y <= upper)).mean(dtype=y.dtype)


def mpiw(lower: _inputs.ArrayLike, upper: _inputs.ArrayLike) -> jax.Array:
    """The mean width of prediction intervals, `mean_n (upper_n - lower_n)`; args as in `picp`."""
    lower, upper = _inputs.alike("mpiw", lower=lower, upper=upper)
    return (upper - lower).mean()


def sharpness(std: _inputs.ArrayLike) -> jax.Array:
    """`sqrt(mean_n std_n^2)`: how narrow predictions are, in the units of y.

    Args:
      std: standard deviations of observations, such as `Regression.std`; any shape.

    Raises:
      TypeError: not real numbers.
      ValueError: there are none, or one is below 0.

    References:
      Gneiting, Balabdaoui & Raftery, "Probabilistic forecasts, calibration and sharpness", JRSS B 69(2), 2007.
    """
    (std,) = _inputs.alike("sharpness", std=std)
    _inputs.positive("std", std, zero=True)
    return jnp.sqrt((std**2).mean())


def _gaussian(caller: str, y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike) -> list[jax.Array]:
    arrays = _inputs.alike(caller, y=y, mean=mean, std=std)
    _inputs.positive("std", arrays[2])
    return arrays
