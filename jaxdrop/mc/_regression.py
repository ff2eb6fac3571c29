"""The predictive distribution of a regression: a mixture of Gaussians, one around the prediction of
each sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp, ndtr, ndtri

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs


@cites("gal2016dropout")
@_checks.hinted
def log_likelihood(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
    output_axes: int = 0,
) -> jax.Array:
    """`log p(y) = log 1/S sum_s N(y; y_s, 1/tau)`, in nats: the likelihood under the mixture, not
    under the Gaussian with its moments.

    With one `tau` and D outputs, `logsumexp_s(-tau/2 ||y - y_s||^2) - log S - D/2 log(2 pi) + D/2
    log tau`. If targets were standardized, pass y, samples and `tau` in the units that
    the likelihood should have.

    Args:
      y: the observations, of the shape of `samples` without its first axis.
      samples: predictions `y_s`, shape (S, ...).
      tau: the precision of the noise, one over its variance, as in `regression`, but finite.
      variance: in its place, the variances that the samples predict, of the shape of `samples`.
      output_axes: how many of the last axes are outputs of one example, which share the sample of
        the weights: 0 if each entry is an example of its own, 1 for samples of shape (S, N, D).

    Returns:
      The log-likelihood of each example: the shape of `y` without its last `output_axes` axes.

    Raises:
      TypeError: as `regression`, or `output_axes` is no integer.
      ValueError: as `regression`, or shapes do not fit.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142, equation 8.
    """
    samples, noise = mixture("log_likelihood", samples, tau, variance)
    y = target("log_likelihood", y, samples)
    return mixture_likelihood(y, samples, noise, output_axes=output_count(output_axes, y.ndim))


@kernel("log_likelihood", checkpoint=False)
def mixture_likelihood(
    y: jax.Array, samples: jax.Array, noise: jax.Array, *, output_axes: int
) -> jax.Array:
    """`log_likelihood` of checked arguments, `noise` being the variance."""
    log_density = -((samples - y[None]) ** 2 / noise + jnp.log(2 * np.pi * noise)) / 2
    joint = log_density.sum(range(y.ndim + 1 - output_axes, y.ndim + 1))
    return logsumexp(joint, axis=0) - np.log(samples.shape[0]).astype(samples.dtype)


@_checks.hinted
def cdf(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`P(Y <= y) = 1/S sum_s Phi((y - y_s) / sigma_s)`: the distribution function of the mixture.

    Over the observations of a data set its values are uniform if the predictions are calibrated:
    pass them to `mc.metrics.calibration_curve`.

    Args:
      y: of the shape of `samples` without its first axis.
      samples: as in `regression`.
      tau: as in `regression`.
      variance: as in `regression`.

    Returns:
      Probabilities, of the shape of `y`.

    Raises:
      TypeError, ValueError: as `regression`, or the shape of `y` does not fit.
    """
    samples, noise = mixture("cdf", samples, tau, variance, noiseless=True)
    return _cdf(target("cdf", y, samples), samples, noise)


@kernel("cdf", checkpoint=False)
def _cdf(y: jax.Array, samples: jax.Array, noise: jax.Array) -> jax.Array:
    return normal_cdf(y[None] - samples, noise).mean(0)


def normal_cdf(apart: jax.Array, variance: jax.Array) -> jax.Array:
    """`P(Y - m <= apart)` of a normal `Y` of mean m; a variance of 0 makes it a step, and NaN stays
    NaN.
    """
    # On a mesh with explicit axes `where` needs arguments of one layout: sums have that of both.
    variance, apart = variance + jnp.zeros_like(apart), apart + jnp.zeros_like(variance)
    noiseless = variance == 0
    smooth = ndtr(apart / jnp.sqrt(jnp.where(noiseless, 1, variance)))
    return jnp.where(noiseless & ~jnp.isnan(apart), (apart >= 0).astype(smooth.dtype), smooth)


@_checks.hinted
def quantiles(
    samples: _inputs.ArrayLike,
    q: _inputs.Number,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The least `y` with `cdf(y) >= q`: quantiles of an observation, noise included.

    They are those of the mixture, found by bisection, so that a skewed or bimodal prediction keeps
    its shape. `tau=jnp.inf` leaves the noise out: these are quantiles of the predictions,
    `numpy.quantile(samples, q, axis=0, method="inverted_cdf")`, too narrow for observations. They
    have no gradient.

    Args:
      samples: as in `regression`.
      tau: as in `regression`.
      variance: as in `regression`.
      q: probabilities in (0, 1), any shape.

    Returns:
      The shape of `q`, followed by that of `samples` without its first axis.

    Raises:
      TypeError, ValueError: as `regression`, or `q` is not in (0, 1).
    """
    samples, noise = mixture("quantiles", samples, tau, variance, noiseless=True)
    q = _inputs.setting("quantiles", "q", q)
    _inputs.fraction("q", q)
    q = _inputs.nan_unless((q > 0) & (q < 1), q.astype(samples.dtype))
    return _quantiles(samples, noise, q)


@kernel("quantiles", checkpoint=False)
def _quantiles(samples: jax.Array, noise: jax.Array, q: jax.Array) -> jax.Array:
    samples, noise = lax.stop_gradient((samples, noise))

    def one(q: jax.Array) -> jax.Array:
        least = q - 2 * jnp.finfo(q.dtype).eps  # the mean of S ones and zeros may be rounded down
        # A quantile of the mixture lies between the least and the largest of those of its parts.
        parts = samples + ndtri(q) * jnp.sqrt(noise)
        slack = 4 * jnp.finfo(parts.dtype).eps * jnp.abs(parts).max(0)

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            middle = bounds[0] / 2 + bounds[1] / 2
            reached = _cdf(middle, samples, noise) >= least
            return jnp.where(reached, bounds[0], middle), jnp.where(reached, middle, bounds[1])

        steps = jnp.finfo(parts.dtype).nmant + 8
        return lax.fori_loop(0, steps, halve, (parts.min(0) - slack, parts.max(0) + slack))[1]

    return jnp.reshape(lax.map(one, q.ravel()), (*q.shape, *samples.shape[1:]))


@_checks.hinted
def interval(
    samples: _inputs.ArrayLike,
    coverage: float = 0.95,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Lower and upper bound of the central interval that holds an observation with probability
    `coverage`.

    The quantiles of the mixture at `(1 - coverage) / 2` and `(1 + coverage) / 2`.
    `Regression.interval` is that of the Gaussian with the same moments.

    Args:
      samples: as in `regression`.
      tau: as in `regression`.
      variance: as in `regression`.
      coverage: in (0, 1).

    Returns:
      Two arrays of the shape of `samples` without its first axis.

    Raises:
      TypeError, ValueError: as `regression`, or `coverage` is not in (0, 1).
    """
    lower, upper = quantiles(samples, tails("interval", coverage), tau=tau, variance=variance)
    return lower, upper


def tails(caller: str, coverage: _inputs.Number) -> _inputs.ArrayLike:
    """The probabilities below the two bounds of a central interval, `(1 - coverage) / 2` and `(1 +
    coverage) / 2`.

    They are NaN if `coverage` is traced and not in (0, 1).
    """
    level = _inputs.single(caller, "coverage", coverage)
    _inputs.fraction("coverage", level)
    if isinstance(coverage, jax.Array):
        level = _inputs.nan_unless((level > 0) & (level < 1), level)
        return jnp.stack([(1 - level) / 2, (1 + level) / 2])
    exact = float(coverage)  # in float32, 1 - 0.9999 has three digits
    return np.array([(1 - exact) / 2, (1 + exact) / 2])


def mixture(
    caller: str,
    samples: _inputs.ArrayLike,
    tau: _inputs.Number | None,
    variance: _inputs.ArrayLike | None,
    noiseless: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The samples, and the variance of the noise in a shape that broadcasts to theirs without a
    change of rank.

    A traced variance that is out of range becomes NaN.
    """
    samples = _inputs.samples(caller, "samples", samples)
    if (tau is None) == (variance is None):
        given = "neither" if tau is None else "both"
        raise TypeError(
            f"{caller} needs the noise of the observations, as either tau=... (its precision, 1 /"
            f" variance) or variance=... (the variances that the samples predict), got {given}."
            " Observations without noise have tau=jnp.inf."
        )
    if variance is not None:
        variance = _inputs.floating(caller, "variance", variance).astype(samples.dtype)
        if variance.shape != samples.shape:
            raise ValueError(
                f"variance has one entry for each of samples, shape {samples.shape}, got"
                f" {variance.shape}"
            )
        _inputs.positive("variance", variance, zero=noiseless)
        return samples, _inputs.nan_unless(_is_variance(variance, noiseless), variance)
    assert tau is not None
    precision = _inputs.setting(caller, "tau", tau)
    _inputs.positive("tau", precision, infinity=noiseless)
    noise = 1 / precision.astype(samples.dtype)
    noise = _inputs.nan_unless(_is_variance(noise, noiseless), noise)
    try:
        noise = jnp.broadcast_to(noise, samples.shape[1:])
    except ValueError:
        raise ValueError(
            f"tau of shape {precision.shape} does not broadcast to that of a sample,"
            f" {samples.shape[1:]}"
        ) from None
    return samples, noise[None]


def _is_variance(noise: jax.Array, noiseless: bool) -> jax.Array:
    return (noise >= 0 if noiseless else noise > 0) & (noise < jnp.inf)


def target(caller: str, y: _inputs.Number, samples: jax.Array) -> jax.Array:
    """The argument `y`, checked against the shape of one sample, in the dtype of the samples."""
    (target,) = _inputs.reals(caller, y=y)
    if target.shape != samples.shape[1:]:
        raise ValueError(
            f"{caller} takes y, and takes it first, of the shape of one sample,"
            f" {samples.shape[1:]}, got {target.shape}. samples have shape (S, ...)."
        )
    return target.astype(samples.dtype)


def output_count(output_axes: int, ndim: int) -> int:
    """The argument `output_axes`, checked against the number of axes of an observation."""
    count = _checks.check_integer(output_axes, "output_axes")
    if not 0 <= count <= ndim:
        raise ValueError(
            f"output_axes must lie in [0, {ndim}], the number of axes of y, got {count}"
        )
    return count
