"""Calibration of a regression: the shares of observations inside intervals and below quantiles."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _reduction
from jaxdrop.mc._reduction import masked, reduction

Proportion = Literal["interval", "quantile"]
"""What share is counted: of observations inside the central interval, or below the quantile."""


@cites("kuleshov2018accurate", "chung2021uncertainty")
class CalibrationCurve(NamedTuple):
    """The shares of observations inside intervals, or below quantiles, of given probabilities."""

    expected: jax.Array
    """Probabilities, from 0 to 1."""
    observed: jax.Array
    """The share of observations in the interval, or below the quantile, of each probability."""


@cites(CalibrationCurve)
@_checks.hinted
def calibration_curve(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> CalibrationCurve:
    """The share of observations in the central interval, or below the quantile, of each
    probability.

    For p on `linspace(0, 1, num_points)`: the share of observations with `|2 F(y) - 1| <= p`
    (`"interval"`), or with `F(y) <= p` (`"quantile"`), where F is the predicted distribution
    function. A calibrated model has a share of p.

        curve = mc.metrics.calibration_curve(summary.cdf(y))                  # of Gaussians
        curve = mc.metrics.calibration_curve(mc.cdf(y, samples, tau=tau))     # of the mixture

    Args:
      cdf: `F(y)` of each observation, in [0, 1]; any shape.
      proportion: `"interval"` or `"quantile"`.
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
    return _calibration_curve(
        *_levels("calibration_curve", cdf, where), **_curve(proportion, num_points)
    )


@reduction("calibration_curve")
def _calibration_curve(
    cdf: jax.Array, where: jax.Array | None, *, central: bool, num_points: int
) -> CalibrationCurve:
    valid = masked(where, (cdf >= 0) & (cdf <= 1), fill=True)
    values = jnp.abs(2 * cdf - 1) if central else cdf
    expected = jnp.asarray(np.linspace(0, 1, num_points), values.dtype)
    reached = jnp.searchsorted(
        expected, masked(where, values, np.inf).ravel()
    )  # the index of the first point that is not below the value
    below = _reduction.counts(reached, num_points).cumsum()
    observed = below.astype(cdf.dtype) / _reduction.number(where, cdf.size).astype(cdf.dtype)
    return CalibrationCurve(expected, jnp.where(valid.all(), observed, jnp.nan))


@_checks.hinted
def rmsce(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The root mean squared calibration error, `sqrt(mean_p (observed(p) - p)^2)`; args as in
    `calibration_curve`.
    """
    return _errors(*_levels("rmsce", cdf, where), **_curve(proportion, num_points))[0]


@_checks.hinted
def mace(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The mean absolute calibration error, `mean_p |observed(p) - p|`; args as in
    `calibration_curve`.
    """
    return _errors(*_levels("mace", cdf, where), **_curve(proportion, num_points))[1]


@_checks.hinted
def miscalibration_area(
    cdf: _inputs.ArrayLike,
    *,
    proportion: Proportion = "interval",
    num_points: int = 100,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The area between the calibration curve, drawn as straight lines, and the diagonal; args as in
    `calibration_curve`.
    """
    return _errors(*_levels("miscalibration_area", cdf, where), **_curve(proportion, num_points))[2]


@reduction("calibration_errors")
def _errors(
    cdf: jax.Array, where: jax.Array | None, *, central: bool, num_points: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The root mean square and the mean of the gap between curve and diagonal, and its area."""
    curve = _calibration_curve(cdf, where, central=central, num_points=num_points)
    gap = curve.observed - curve.expected
    left, right = gap[:-1], gap[1:]
    total = jnp.abs(left) + jnp.abs(right)
    # A piece that crosses the diagonal is two triangles, of heights |left| and |right|.
    crossing = (left**2 + right**2) / jnp.where(total > 0, total, 1)
    area = jnp.where(left * right < 0, crossing, total).mean() / 2
    return jnp.sqrt((gap**2).mean()), jnp.abs(gap).mean(), area


@_checks.hinted
def picp(
    y: _inputs.Number,
    lower: _inputs.ArrayLike,
    upper: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The prediction interval's coverage: the share of observations in [lower, upper], both ends
    included.

    Args:
      y: the observations.
      lower: of the same shape; with `upper` what `Regression.interval` and `mc.interval` return.
      upper: of the same shape.
      where: booleans, the observations that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN, or a lower bound that
        lies above the upper one.
    """
    return _picp(*bounds("picp", where, y=y, lower=lower, upper=upper))


@reduction("picp")
def _picp(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    y, lower, upper = arrays
    inside = (y >= lower) & (y <= upper)
    known = ~jnp.isnan(y) & (lower <= upper)
    return _reduction.mean(jnp.where(known, inside.astype(y.dtype), jnp.nan), where)


@_checks.hinted
def mpiw(
    lower: _inputs.ArrayLike, upper: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The mean width of prediction intervals, `mean_n (upper_n - lower_n)`; args as in `picp`."""
    return _mpiw(*bounds("mpiw", where, lower=lower, upper=upper))


@reduction("mpiw")
def _mpiw(arrays: list[jax.Array], where: jax.Array | None) -> jax.Array:
    lower, upper = (masked(where, x) for x in arrays)
    return _reduction.mean(jnp.where(lower <= upper, upper - lower, jnp.nan), where)


@cites("gneiting2007probabilistic")
@_checks.hinted
def sharpness(std: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None) -> jax.Array:
    """`sqrt(mean_n std_n^2)`: the width of the predictions, in the units of y; less is sharper.

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
    std = masked(where, std)
    return jnp.sqrt(_reduction.mean(jnp.where(std >= 0, std, jnp.nan) ** 2, where))


def bounds(
    caller: str, where: _inputs.ArrayLike | None, **arrays: _inputs.Number
) -> tuple[list[jax.Array], jax.Array | None]:
    """Checks arrays, the last two being the bounds of intervals."""
    checked, selected = _inputs.entries(caller, where, **arrays)
    lower, upper = checked[-2:]
    if (bound := _inputs.known(lower)) is not None and not _inputs.holds(
        lambda x: bound <= x, upper, selected
    ):
        raise ValueError(
            f"{caller} takes bounds with lower <= upper, and some are the other way round"
        )
    return checked, selected


def _levels(
    caller: str, cdf: _inputs.ArrayLike, where: _inputs.ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
    (cdf,), selected = _inputs.entries(caller, where, cdf=_inputs.floating(caller, "cdf", cdf))
    if not _inputs.holds(lambda cdf: (cdf >= 0) & (cdf <= 1), cdf, selected):
        raise ValueError(f"cdf must lie in [0, 1], got {_inputs.range_of(cdf[~np.isnan(cdf)])}")
    return cdf, selected


def _curve(proportion: Proportion, num_points: int) -> dict[str, Any]:
    _checks.check_one_of(proportion, "proportion", Proportion)
    return {
        "central": proportion == "interval",
        "num_points": _checks.check_count(num_points, "num_points", least=2),
    }
