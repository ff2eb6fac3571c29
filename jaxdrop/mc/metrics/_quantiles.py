"""Scores of intervals and of quantiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _merging, _reduction, _regression
from jaxdrop.mc._reduction import masked, reduction
from jaxdrop.mc.metrics._coverage import bounds


@cites("gneiting2007strictly")
@_checks.hinted
def interval_score(
    y: _inputs.Number,
    lower: _inputs.ArrayLike,
    upper: _inputs.ArrayLike,
    coverage: _inputs.Number = 0.95,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`mean_n (u_n - l_n) + 2/a (l_n - y_n)^+ + 2/a (y_n - u_n)^+`, with `a = 1 - coverage`, in the
    units of y; less is better.

    The width of an interval, and a penalty for observations outside it. The central interval of the
    true distribution has the least expected score.

    Args:
      y: the observations.
      lower: of the same shape; with `upper` what `Regression.interval` and `mc.interval` return.
      upper: of the same shape.
      coverage: that of the intervals, in (0, 1); may be traced.
      where: booleans, the observations that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: not real numbers.
      ValueError: as `picp`, or `coverage` is not in (0, 1).

    References:
      Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA
      102(477), 2007, section 6.2.
    """
    arrays, selected = bounds("interval_score", where, y=y, lower=lower, upper=upper)
    outside = 2 * _regression.tails("interval_score", coverage)[0]
    return _interval_score(arrays, selected, jnp.asarray(outside))


@reduction("interval_score")
def _interval_score(
    arrays: list[jax.Array], where: jax.Array | None, outside: jax.Array
) -> jax.Array:
    y, lower, upper = (masked(where, x) for x in arrays)
    beyond = jnp.maximum(lower - y, 0) + jnp.maximum(y - upper, 0)
    score = upper - lower + 2 / outside.astype(y.dtype) * beyond
    return _reduction.mean(jnp.where(lower <= upper, score, jnp.nan), where)


@cites("koenker1978regression")
@_checks.hinted
def pinball(
    y: _inputs.Number,
    quantiles: _inputs.ArrayLike,
    q: _inputs.Number,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The pinball loss of quantiles, `mean_nk max(q_k (y_n - z_kn), (q_k - 1) (y_n - z_kn))`, in
    the units of y; less is better.

        q = np.array([0.05, 0.5, 0.95])
        mc.metrics.pinball(y, mc.quantiles(samples, q, tau=tau), q)

    Twice its mean over many evenly spaced q is the continuous ranked probability score.

    Args:
      y: the observations, any shape (...).
      quantiles: predicted quantiles, the shape of `q` followed by (...), as `mc.quantiles` returns
        them.
      q: their probabilities, in (0, 1): a number, or shape (Q,).
      where: booleans, the observations that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes do not fit or are empty, an entry that counts is NaN, or `q` is not in (0,
        1).

    References:
      Koenker & Bassett, "Regression quantiles", Econometrica 46(1), 1978.
    """
    (y,), selected = _inputs.entries("pinball", where, y=y)
    (given,) = _inputs.reals("pinball", quantiles=quantiles)
    given = given.astype(y.dtype)
    level = _inputs.setting("pinball", "q", q)
    _inputs.fraction("q", level)
    if level.ndim > 1 or given.shape != (*level.shape, *y.shape) or not given.size:
        raise ValueError(
            "pinball takes quantiles of the shape of q, a number or (Q,), followed by that of y,"
            f" got {given.shape}, {level.shape} and {y.shape}"
        )
    level = _inputs.nan_unless((level > 0) & (level < 1), level).astype(y.dtype)
    if not level.ndim:
        given, level = given[None], level[None]
    _inputs.not_nan("pinball", "quantiles", given, None if selected is None else selected[None])
    return _pinball(y, given, level, selected)


@reduction("pinball")
def _pinball(
    y: jax.Array, quantiles: jax.Array, level: jax.Array, where: jax.Array | None
) -> jax.Array:
    gap = masked(None if where is None else where[None], y[None] - quantiles)
    level = _merging.along(level, gap)
    loss = jnp.maximum(level * gap, (level - 1) * gap)
    return _reduction.mean(_reduction.mean(loss, axis=0), where)
