"""Moments of nonlinear functions of normal variables, in closed form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


# Less than any variance that counts: 0 over its root is 0.
_TINY = 1e-37


class Result(NamedTuple):
    """Moments of a function's value.

    Attributes:
      mean, variance: the moments.
      explained: the part of the variance that is that of a linear function of the arguments.
      slope: the derivative of the mean in that of the only argument, if it was needed.
    """

    mean: Array
    variance: Array
    explained: Array
    slope: Array = None


def cdf_and_pdf(x: Array) -> tuple[Array, Array]:
    """The standard normal distribution function and density. `jax.scipy.stats.norm.cdf` takes twice
    as long.
    """
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)), density


def at_least(mean: Array, variance: Array, bound: Array) -> Result:
    """The larger of a normal variable and a constant."""
    gap, inverse = mean - bound, lax.rsqrt(variance + _TINY)
    spread = variance * inverse
    above, density = cdf_and_pdf(gap * inverse)
    found = bound + gap * above + spread * density
    # The square of the mean is not subtracted, which would leave rounding errors.
    own = variance * (above - density**2) + gap * (
        gap * above * (1 - above) + spread * density * (1 - 2 * above)
    )
    return Result(found, jnp.maximum(own, 0), above**2 * variance, above)


def maximum(mean: Array, variance: Array, other: Array, other_variance: Array) -> Result:
    """The larger of two independent normal variables.

    Clark, "The greatest of a finite set of random variables", Operations Research 9 (1961).
    """
    total = variance + other_variance
    spread = jnp.sqrt(jnp.where(total > 0, total, 1))
    gap = mean - other
    at = jnp.where(total > 0, gap / spread, jnp.where(gap >= 0, 30.0, -30.0).astype(gap.dtype))
    above, density = cdf_and_pdf(at)
    density = spread * density
    below = 1 - above
    found = other + gap * above + density
    second = (variance + (mean - found) ** 2) * above
    second += (other_variance + (other - found) ** 2) * below
    second += (mean + other - 2 * found) * density
    second = jnp.maximum(second, 0)
    return Result(found, second, above**2 * variance + below**2 * other_variance)


def power(mean: Array, variance: Array, exponent: float) -> Result:
    """A power of a positive variable, as if it were log-normal. Where the mean is not positive, the
    power of the mean, with variance 0.
    """
    fine = (mean > 0) & (variance > 0)
    base = jnp.where(fine, mean, 1)
    spread = jnp.log1p(jnp.where(fine, variance, 0) / base**2)
    found = base**exponent * jnp.exp(spread * (exponent * (exponent - 1) / 2))
    own = found**2 * jnp.expm1(exponent**2 * spread)
    gain = exponent * base ** (exponent - 1)
    plain = jnp.where(mean == 1, 1, mean) ** exponent
    own = jnp.where(fine, own, 0)
    return Result(
        jnp.where(fine, found, plain), own, jnp.minimum(gain**2 * jnp.where(fine, variance, 0), own)
    )


def logarithm(mean: Array, variance: Array) -> Result:
    """The logarithm of a positive variable, as if it were log-normal."""
    fine = (mean > 0) & (variance > 0)
    base = jnp.where(fine, mean, 1)
    spread = jnp.log1p(jnp.where(fine, variance, 0) / base**2)
    found = jnp.where(fine, jnp.log(base) - spread / 2, jnp.log(jnp.where(fine, 1, mean)))
    return Result(found, spread, spread)


def softmax(mean: Array, variance: Array, axes: tuple[int, ...]) -> Result:
    """The softmax of independent normal variables.

    Mean: the softmax of `(mean - center) / sqrt(1 + pi/8 variance)`, MacKay's approximation to the
    integral of a logistic function, with the expected logit as center. Variance: by the derivative.
    """
    plain = jax.nn.softmax(mean, axes)
    center = lax.stop_gradient((plain * mean).sum(axes, keepdims=True))
    shrunk = (mean - center) / jnp.sqrt(1 + math.pi / 8 * variance)
    found = jax.nn.softmax(shrunk, axes)
    others = (found**2 * variance).sum(axes, keepdims=True)
    own = found**2 * ((1 - 2 * found) * variance + others)
    return Result(found, own, own)


def ratio_to_sum(mean: Array, variance: Array, axes: tuple[int, ...]) -> Result:
    """Entries over their sum, for independent positive variables: linear in what they differ by
    from their means.
    """
    total = mean.sum(axes, keepdims=True)
    found = mean / total
    others = variance.sum(axes, keepdims=True)
    own = ((1 - 2 * found) * variance + found**2 * others) / total**2
    return Result(found, own, own)
