"""What the samples of a regression say: a mixture of Gaussians, one around the prediction of each sample."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp, ndtr, ndtri

from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel
from jaxdrop.mc import _inputs, _merging


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Regression:
    """The moments of a prediction from S samples, in the units of the target (squared, for variances); all of shape (...)."""

    num_samples: jax.Array
    """S, an integer scalar."""
    mean: jax.Array
    """`1/S sum_s y_s`."""
    epistemic_variance: jax.Array
    """The variance of the `y_s` over the samples (of the population: divided by S): what the weights do not agree on."""
    aleatoric_variance: jax.Array
    """The variance of the noise, `1 / tau` or `1/S sum_s sigma_s^2`: what remains when the weights are known."""

    @property
    def total_variance(self) -> jax.Array:
        """The variance of a new observation: epistemic and aleatoric."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> jax.Array:
        """The standard deviation of a new observation, the root of `total_variance`."""
        return jnp.sqrt(self.total_variance)

    @property
    def standard_error(self) -> jax.Array:
        """The standard error of `mean` if the samples are independent; NaN if there is one sample. See `Classification`."""
        count = _merging.along(self.num_samples, self.mean).astype(self.mean.dtype)
        return jnp.sqrt(self.epistemic_variance / (count - 1))

    def interval(self, coverage: float = 0.95) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bound of the central interval of the Gaussian with these moments: of observations, not of the mean.

        Raises:
          ValueError: `coverage` is not in (0, 1).
        """
        _inputs.fraction("coverage", coverage)
        half = ndtri(jnp.asarray((1 + coverage) / 2, self.mean.dtype)) * self.std
        return self.mean - half, self.mean + half

    def cdf(self, y: _inputs.Number) -> jax.Array:
        """The probability of an observation of at most `y` under the Gaussian with these moments; `y` has the shape of `mean`."""
        y, mean, std = _inputs.alike("cdf", y=y, mean=self.mean, std=self.std)
        return ndtr((y - mean) / std)

    def merge(self, other: Regression) -> Regression:
        """The summary of these samples and of `other` ones of the same inputs, together, exact up to rounding.

        Raises:
          TypeError: `other` is not a `Regression`.
          ValueError: it is of other inputs: a shape differs.
        """
        _merging.check(self, other)
        return _merge(self, other)


def regression(
    samples: _inputs.ArrayLike, *, tau: _inputs.Number | None = None, variance: _inputs.ArrayLike | None = None
) -> Regression:
    """Mean of the predictions of S samples, and the variance of what will be observed, in its two parts.

    The variance is `1/S sum_s y_s^2 - (1/S sum_s y_s)^2` (epistemic) plus that of the noise (aleatoric): `1 / tau`, or
    `1/S sum_s sigma_s^2` if the model predicts its noise. Each entry is taken for itself; of the covariance of several outputs
    this is the diagonal.

        summary = mc.regression(mc.predict(lambda key: fn(key, x), keys), tau=tau)
        lower, upper = summary.interval(0.95)

    Args:
      samples: predictions `y_s`, shape (S, ...).
      tau: the precision of the noise, one over its variance: a number, or an array that broadcasts to (...). `jnp.inf` for
        functions that are observed without noise.
      variance: in its place, the variances `sigma_s^2` that the samples predict, of the shape of `samples`. A model that
        predicts their logarithm passes `variance=jnp.exp(log_variance)`.

    Returns:
      A `Regression`.

    Raises:
      TypeError: both or neither of `tau` and `variance` are given, or samples are not floating numbers.
      ValueError: no samples, shapes that do not fit, `tau` not above 0 or `variance` below 0.

    References:
      Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", ICML 2016,
      arXiv:1506.02142, equation 6 (whose p is the probability of keeping). Kendall & Gal, "What uncertainties do we need in
      Bayesian deep learning for computer vision?", NeurIPS 2017, arXiv:1703.04977, equation 9.
    """
    samples, noise = _mixture("regression", samples, tau, variance, noiseless=True)
    return _regression(samples, noise)


@kernel("regression", checkpoint=False)
def _regression(samples: jax.Array, noise: jax.Array) -> Regression:
    return Regression(
        num_samples=jnp.int32(samples.shape[0]),
        mean=samples.mean(0),
        epistemic_variance=samples.var(0),
        aleatoric_variance=jnp.broadcast_to(noise, samples.shape).mean(0),
    )


@kernel("merge", checkpoint=False)
def _merge(first: Regression, second: Regression) -> Regression:
    shares = _merging.shares(first.num_samples, second.num_samples, first.mean.dtype)
    gap = second.mean - first.mean
    return Regression(
        num_samples=first.num_samples + second.num_samples,
        mean=first.mean + _merging.along(shares.second, gap) * gap,
        epistemic_variance=shares.variance(first.epistemic_variance, second.epistemic_variance, gap),
        aleatoric_variance=shares.mean(first.aleatoric_variance, second.aleatoric_variance),
    )


def log_likelihood(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
    output_axes: int = 0,
) -> jax.Array:
    """`log p(y) = log 1/S sum_s N(y; y_s, 1/tau)`, in nats: of the mixture, not of the Gaussian with its moments.

    With one `tau` and D outputs, `logsumexp_s(-tau/2 ||y - y_s||^2) - log S - D/2 log(2 pi) + D/2 log tau`. Targets that were
    standardized: pass y, samples and `tau` in the units in which the likelihood is wanted.

    Args:
      y: what was observed, of the shape of `samples` without its first axis.
      samples: predictions `y_s`, shape (S, ...).
      tau: the precision of the noise, one over its variance, as in `regression`, but finite.
      variance: in its place, the variances that the samples predict, of the shape of `samples`.
      output_axes: how many of the last axes are outputs of one example, which share the sample of the weights: 0 if each entry
        is an example of its own, 1 for samples of shape (S, N, D).

    Returns:
      The log-likelihood of each example: the shape of `y` without its last `output_axes` axes.

    Raises:
      TypeError: as `regression`, or `output_axes` is no integer.
      ValueError: as `regression`, or shapes do not fit.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142, equation 8.
    """
    samples, noise = _mixture("log_likelihood", samples, tau, variance)
    y = target("log_likelihood", y, samples)
    return mixture_likelihood(y, samples, noise, output_axes=output_count(output_axes, y.ndim))


@kernel("log_likelihood", checkpoint=False)
def mixture_likelihood(y: jax.Array, samples: jax.Array, noise: jax.Array, *, output_axes: int) -> jax.Array:
    """`log_likelihood` of checked arguments, `noise` being the variance."""
    log_density = -((samples - y[None]) ** 2 / noise + jnp.log(2 * np.pi * noise)) / 2
    joint = log_density.sum(range(y.ndim + 1 - output_axes, y.ndim + 1))
    return logsumexp(joint, axis=0) - np.log(samples.shape[0]).astype(samples.dtype)


def cdf(
    y: _inputs.Number,
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`P(Y <= y) = 1/S sum_s Phi((y - y_s) / sigma_s)`: of the mixture, at an observation.

    These values are uniform over the data if the predictions are calibrated: they are what `mc.metrics.calibration_curve` takes.

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
    samples, noise = _mixture("cdf", samples, tau, variance, noiseless=True)
    return _cdf(target("cdf", y, samples), samples, jnp.broadcast_to(noise, samples.shape))


@kernel("cdf", checkpoint=False)
def _cdf(y: jax.Array, samples: jax.Array, noise: jax.Array) -> jax.Array:
    noisy = noise > 0
    apart = y[None] - samples
    smooth = ndtr(apart / jnp.sqrt(jnp.where(noisy, noise, 1)))
    return jnp.where(noisy, smooth, (apart >= 0).astype(smooth.dtype)).mean(0)


def quantiles(
    samples: _inputs.ArrayLike,
    q: _inputs.Number,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The least `y` with `cdf(y) >= q`: quantiles of what will be observed, noise included.

    They are those of the mixture, found by bisection, so that a skewed or bimodal prediction keeps its shape. Quantiles of the
    predictions alone, which leave the noise out and are too narrow for observations, are those at `tau=jnp.inf`:
    `numpy.quantile(samples, q, axis=0, method="inverted_cdf")`. No gradient passes.

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
    samples, noise = _mixture("quantiles", samples, tau, variance, noiseless=True)
    _inputs.fraction("q", q)
    (q,) = _inputs.reals("quantiles", q=q)
    return _quantiles(samples, jnp.broadcast_to(noise, samples.shape), q.astype(samples.dtype))


@kernel("quantiles", checkpoint=False)
def _quantiles(samples: jax.Array, noise: jax.Array, q: jax.Array) -> jax.Array:
    samples, noise = lax.stop_gradient((samples, noise))

    def one(q: jax.Array) -> jax.Array:
        least = q - 2 * jnp.finfo(q.dtype).eps  # the mean of S ones and zeros may round to less than the fraction that it is
        # The mixture's quantile lies between the least and the largest one of its parts.
        parts = samples + ndtri(q) * jnp.sqrt(noise)
        slack = 4 * jnp.finfo(parts.dtype).eps * jnp.abs(parts).max(0)

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            middle = bounds[0] / 2 + bounds[1] / 2
            reached = _cdf(middle, samples, noise) >= least
            return jnp.where(reached, bounds[0], middle), jnp.where(reached, middle, bounds[1])

        steps = jnp.finfo(parts.dtype).nmant + 8
        return lax.fori_loop(0, steps, halve, (parts.min(0) - slack, parts.max(0) + slack))[1]

    return jnp.reshape(lax.map(one, q.ravel()), (*q.shape, *samples.shape[1:]))


def interval(
    samples: _inputs.ArrayLike,
    coverage: float = 0.95,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Lower and upper bound of the central interval that holds an observation with probability `coverage`.

    The quantiles of the mixture at `(1 - coverage) / 2` and `(1 + coverage) / 2`. `Regression.interval` is that of the Gaussian
    with the same moments.

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
    _inputs.fraction("coverage", coverage)
    lower, upper = quantiles(samples, jnp.asarray([(1 - coverage) / 2, (1 + coverage) / 2]), tau=tau, variance=variance)
    return lower, upper


def _mixture(
    caller: str,
    samples: _inputs.ArrayLike,
    tau: _inputs.Number | None,
    variance: _inputs.ArrayLike | None,
    noiseless: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The samples, and the variance of the noise in a shape that broadcasts to theirs without a change of rank."""
    samples = _inputs.samples(caller, "samples", samples)
    if (tau is None) == (variance is None):
        given = "neither" if tau is None else "both"
        raise TypeError(
            f"{caller} needs the noise of the observations, as either tau=... (its precision, 1 / variance) or variance=... (the"
            f" variances that the samples predict), got {given}. Observations without noise have tau=jnp.inf."
        )
    if variance is not None:
        variance = _inputs.floating(caller, "variance", variance).astype(samples.dtype)
        if variance.shape != samples.shape:
            raise ValueError(f"variance has one entry for each of samples, shape {samples.shape}, got {variance.shape}")
        _inputs.positive("variance", variance, zero=noiseless)
        return samples, variance
    assert tau is not None
    _inputs.positive("tau", tau, infinity=noiseless)
    (precision,) = _inputs.reals(caller, tau=tau)
    try:
        noise = jnp.broadcast_to(1 / precision.astype(samples.dtype), samples.shape[1:])
    except ValueError:
        raise ValueError(f"tau of shape {precision.shape} does not broadcast to that of a sample, {samples.shape[1:]}") from None
    return samples, noise[None]


def target(caller: str, y: _inputs.Number, samples: jax.Array) -> jax.Array:
    """The argument `y`, checked against the shape of one sample, in the dtype of the samples."""
    (target,) = _inputs.reals(caller, y=y)
    if target.shape != samples.shape[1:]:
        raise ValueError(
            f"{caller} takes y, and takes it first, of the shape of one sample, {samples.shape[1:]}, got {target.shape}."
            " samples have shape (S, ...)."
        )
    return target.astype(samples.dtype)


def output_count(output_axes: int, ndim: int) -> int:
    """The argument `output_axes`, checked against the number of axes of an observation."""
    count = _arguments.integer("output_axes", output_axes)
    if not 0 <= count <= ndim:
        raise ValueError(f"output_axes must lie in [0, {ndim}], the number of axes of y, got {count}")
    return count
