"""The summary of a regression's samples: the moments of the predictions and of observations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _describe, _groups, _inputs, _merging, _regression


@cites("gal2016dropout", "kendall2017what")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Regression(_groups.Grouped):
    """The moments of a prediction from S samples, of shape (...), in the units of the target,
    squared for variances.
    """

    num_samples: jax.Array
    """S, an integer scalar."""
    mean: jax.Array
    """`1/S sum_s y_s`."""
    epistemic_variance: jax.Array
    """The variance of the `y_s` over the samples (of the population: divided by S): the uncertainty
    about the weights (epistemic).
    """
    aleatoric_variance: jax.Array
    """The variance of the noise, `1 / tau` or `1/S sum_s sigma_s^2`: the uncertainty under known
    weights (aleatoric).
    """
    mean_residual: jax.Array
    """The rounding error of `mean`: the sum of the two has twice the digits, so that summaries
    merge without loss.
    """
    num_groups: jax.Array | None = None
    """How many groups of samples are independent of each other; None if each sample is."""
    group_variance: jax.Array | None = None
    """The variance of the groups' means of `y_s`; None if each sample is a group."""

    @property
    def total_variance(self) -> jax.Array:
        """The variance of a new observation: epistemic and aleatoric."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> jax.Array:
        """The standard deviation of a new observation, the root of `total_variance`."""
        return jnp.sqrt(self.total_variance)

    @_checks.hinted
    def interval(self, coverage: float = 0.95) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bound of the central interval of the Gaussian with these moments: of
        observations, not of the mean.

        Raises:
          ValueError: `coverage` is not in (0, 1).
        """
        upper = jnp.asarray(_regression.tails("interval", coverage), self.mean.dtype)[1]
        half = ndtri(upper) * self.std
        return self.mean - half, self.mean + half

    @_checks.hinted
    def cdf(self, y: _inputs.Number) -> jax.Array:
        """The probability of an observation of at most `y` under the Gaussian with these moments;
        `y` has the shape of `mean`.
        """
        y = _regression.target("cdf", y, self.mean[None])
        return _regression.normal_cdf(y - self.mean, self.total_variance)

    @_checks.hinted
    def merge(self, other: Regression) -> Regression:
        """The summary of these samples and of `other` ones of the same inputs, together, exact up
        to rounding.

        Raises:
          TypeError: `other` is not a `Regression`.
          ValueError: it is of other inputs: a shape or a dtype differs. Or it is `self`.
        """
        first, second = _groups.alike(self, other)
        return _merge(first, second)

    def _spread(self) -> jax.Array:
        return self.epistemic_variance

    def __repr__(self) -> str:
        return _describe.line(self, lambda: f"shape {tuple(self.mean.shape)}", self._told)

    def _told(self) -> dict[str, Any]:
        variances = {
            "epistemic std": self.epistemic_variance,
            "aleatoric std": self.aleatoric_variance,
        }
        return {name: np.sqrt(_describe.known(variance)) for name, variance in variances.items()}


@cites(Regression)
@_checks.hinted
def regression(
    samples: _inputs.ArrayLike,
    *,
    tau: _inputs.Number | None = None,
    variance: _inputs.ArrayLike | None = None,
    groups: int | None = None,
) -> Regression:
    """Mean of the predictions of S samples, and the variance of an observation, in its two parts.

    The variance is `1/S sum_s y_s^2 - (1/S sum_s y_s)^2` (epistemic) plus that of the noise
    (aleatoric): `1 / tau`, or `1/S sum_s sigma_s^2` if the model predicts its noise. For several
    outputs it is the diagonal of their covariance.

        summary = mc.regression(mc.predict(lambda key: fn(key, x), keys), tau=tau)
        lower, upper = summary.interval(0.95)

    Args:
      samples: predictions `y_s`, shape (S, ...).
      tau: the precision of the noise, one over its variance: a number, or an array that broadcasts
        to (...). `jnp.inf` for functions that are observed without noise.
      variance: in its place, the variances `sigma_s^2` that the samples predict, of the shape of
        `samples`. A model that predicts their logarithm passes `variance=jnp.exp(log_variance)`.
      groups: as in `classification`.

    Returns:
      A `Regression`.

    Raises:
      TypeError: both or neither of `tau` and `variance` are given, or samples are not floating
        numbers.
      ValueError: no samples, shapes that do not fit, `tau` not above 0 or `variance` below 0 (under
        `jit`, where values are not known, what they belong to becomes NaN), or `groups` that do not
        divide the samples.

    References:
      Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
      learning", ICML 2016, arXiv:1506.02142, equation 6 (whose p is the probability of keeping).
      Kendall & Gal, "What uncertainties do we need in Bayesian deep learning for computer vision?",
      NeurIPS 2017, arXiv:1703.04977, equation 9.
    """
    samples, noise = _regression.mixture("regression", samples, tau, variance, noiseless=True)
    return _summarize(samples, noise, groups=_groups.check_optional(groups, samples.shape[0]))


@kernel("regression", checkpoint=False)
def _summarize(samples: jax.Array, noise: jax.Array, *, groups: int | None) -> Regression:
    location, apart = _merging.center(samples)
    num_groups, group_variance = (None, None) if groups is None else _groups.of(apart, groups)
    return Regression(
        num_samples=jnp.int32(samples.shape[0]),
        mean=location.mean,
        epistemic_variance=(apart**2).mean(0),
        aleatoric_variance=jnp.broadcast_to(noise, samples.shape).mean(0),
        mean_residual=location.residual,
        num_groups=num_groups,
        group_variance=group_variance,
    )


@kernel("merge", checkpoint=False)
def _merge(first: Regression, second: Regression) -> Regression:
    shares = _merging.shares(first.num_samples, second.num_samples, first.mean.dtype)
    location, gap = shares.location(
        *(_merging.Location(each.mean, each.mean_residual) for each in (first, second))
    )
    num_groups, group_variance = _groups.merge(shares, first, second, gap)
    return Regression(
        num_samples=first.num_samples + second.num_samples,
        mean=location.mean,
        epistemic_variance=shares.variance(
            first.epistemic_variance, second.epistemic_variance, gap
        ),
        aleatoric_variance=shares.mean(first.aleatoric_variance, second.aleatoric_variance),
        mean_residual=location.residual,
        num_groups=num_groups,
        group_variance=group_variance,
    )
