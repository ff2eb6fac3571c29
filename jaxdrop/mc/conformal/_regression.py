"""Scores and intervals of regressions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs


@cites("lei2018distribution")
@_checks.hinted
def residual_scores(
    y: _inputs.Number, mean: _inputs.ArrayLike, std: _inputs.ArrayLike | None = None
) -> jax.Array:
    """`|y - mean|`, or, normalized, `|y - mean| / std`.

    With absolute residuals all intervals are equally wide. With normalized ones the width follows
    the standard deviation, of which only the ratio between inputs matters: an epistemic one of MC
    dropout will do where no noise is known.

    Args:
      y: the observations, any shape.
      mean: the predictions, such as `Regression.mean`, of the same shape.
      std: standard deviations, such as `Regression.std`, of the same shape; above 0.

    Returns:
      The scores, of the same shape.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or `std` is not above 0 (under `jit`, where values are
        not known, the score is NaN).

    References:
      Lei et al., 2018, arXiv:1604.04173, section 5.2.
    """
    if std is None:
        return _residual_scores(*_inputs.alike("residual_scores", y=y, mean=mean), None)
    arrays = _inputs.alike("residual_scores", y=y, mean=mean, std=std)
    _inputs.positive("std", arrays[2])
    return _residual_scores(*arrays)


@kernel("residual_scores", checkpoint=False)
def _residual_scores(y: jax.Array, mean: jax.Array, std: jax.Array | None) -> jax.Array:
    residual = jnp.abs(y - mean)
    return residual if std is None else residual / _inputs.nan_unless(std > 0, std)


@_checks.hinted
def residual_interval(
    mean: _inputs.ArrayLike, threshold: _inputs.Number, std: _inputs.ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """`mean - threshold` and `mean + threshold`; normalized, `mean - threshold std` and `mean +
    threshold std`: all y whose score is at most the threshold.

    Args:
      mean: the predictions for new inputs, any shape.
      threshold: of `calibrate`, in [0, infinity]; broadcasts to the shape of `mean`.
      std: of the shape of `mean`, if and only if the scores had one.

    Returns:
      Lower and upper bounds, of the shape of `mean`.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, `std` is not above 0, or the threshold is below 0 or
        NaN.
    """
    known = {} if std is None else {"std": std}
    arrays = _inputs.alike("residual_interval", mean=mean, **known)
    if std is not None:
        _inputs.positive("std", arrays[1])
    level = _threshold("residual_interval", threshold, arrays[0])
    _inputs.positive("threshold", level, zero=True, infinity=True)
    half = level if std is None else level * _inputs.nan_unless(arrays[1] > 0, arrays[1])
    return arrays[0] - half, arrays[0] + half


@cites("romano2019conformalized")
@_checks.hinted
def quantile_scores(
    y: _inputs.Number, lower: _inputs.ArrayLike, upper: _inputs.ArrayLike
) -> jax.Array:
    """`max(lower - y, y - upper)`: how far an observation lies outside an interval; below 0 inside.

    The scores of conformalized quantile regression. The interval is any, such as that of the
    mixture of samples:

        lower, upper = mc.interval(samples, 0.9, tau=tau)
        threshold = mc.conformal.calibrate(mc.conformal.quantile_scores(y, lower, upper), 0.9)
        lower, upper = mc.conformal.quantile_interval(new_lower, new_upper, threshold)

    Args:
      y: the observations, any shape.
      lower: the lower bounds, of the same shape.
      upper: the upper bounds, of the same shape.

    Returns:
      The scores, of the same shape.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty.

    References:
      Romano, Patterson & Candès, "Conformalized quantile regression", NeurIPS 2019,
      arXiv:1905.03222.
    """
    return _quantile_scores(*_inputs.alike("quantile_scores", y=y, lower=lower, upper=upper))


@kernel("quantile_scores", checkpoint=False)
def _quantile_scores(y: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    return jnp.maximum(lower - y, y - upper)


@_checks.hinted
def quantile_interval(
    lower: _inputs.ArrayLike, upper: _inputs.ArrayLike, threshold: _inputs.Number
) -> tuple[jax.Array, jax.Array]:
    """`lower - threshold` and `upper + threshold`: all y whose score is at most the threshold.

    A threshold below 0 makes intervals narrower. Where the bounds would cross, no y has such a
    score, and both bounds are their middle.

    Args:
      lower: the lower bounds for new inputs, any shape.
      upper: the upper bounds, of the same shape.
      threshold: of `calibrate`; broadcasts to the shape of the bounds.

    Returns:
      Lower and upper bounds, of the same shape.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or the threshold is NaN.
    """
    low, high = _inputs.alike("quantile_interval", lower=lower, upper=upper)
    level = _threshold("quantile_interval", threshold, low)
    crossed = low - level > high + level
    middle = low / 2 + high / 2
    return jnp.where(crossed, middle, low - level), jnp.where(crossed, middle, high + level)


def _threshold(caller: str, threshold: _inputs.Number, like: jax.Array) -> jax.Array:
    """The argument `threshold`, in the dtype and the shape of predictions."""
    level = _inputs.setting(caller, "threshold", threshold).astype(like.dtype)
    return broadcast(level, like.shape, "predictions")


def broadcast(level: jax.Array, shape: tuple[int, ...], of: str) -> jax.Array:
    """The argument `threshold`, which must not be NaN, in a shape. `of` is for the message."""
    if not _inputs.holds(lambda x: ~np.isnan(x), level):
        raise ValueError("threshold must not be NaN: were there NaN in the scores?")
    try:
        return jnp.broadcast_to(level, shape)
    except ValueError:
        raise ValueError(
            f"threshold of shape {level.shape} does not broadcast to {of} of shape {shape}"
        ) from None
