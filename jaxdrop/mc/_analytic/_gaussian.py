"""Moments of nonlinear functions of normal variables, in closed form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


# Less than any variance that counts. The derivative of its inverse root is still finite in float32.
_TINY = 1e-24


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


def inverse_root(variance: Array) -> Array:
    """`1 / sqrt(variance)`. Of a variance of 0, as in a max pool over a channel that a ReLU has
    switched off, a large number with the derivative 0.
    """
    counts = variance > _TINY
    return jnp.where(counts, lax.rsqrt(jnp.where(counts, variance, 1)), _TINY**-0.5)


def at_least(mean: Array, variance: Array, bound: Array) -> Result:
    """The larger of a normal variable and a constant."""
    found, above = _larger(mean, variance, bound, 0.0)
    return found._replace(explained=above**2 * variance, slope=above)


def maximum(mean: Array, variance: Array, other: Array, other_variance: Array) -> Result:
    """The larger of two independent normal variables.

    Clark, "The greatest of a finite set of random variables", Operations Research 9 (1961).
    """
    found, above = _larger(mean, variance, other, other_variance)
    explained = above**2 * variance + (1 - above) ** 2 * other_variance
    return found._replace(explained=explained)


def _larger(
    mean: Array, variance: Array, other: Array, other_variance: Array
) -> tuple[Result, Array]:
    """The larger of two; and the probability that it is the first one."""
    gap, total = mean - other, variance + other_variance
    inverse = inverse_root(total)
    above, density = cdf_and_pdf(gap * inverse)
    below, lift = 1 - above, total * inverse * density
    # The square of the mean is not subtracted, which would leave rounding errors.
    own = above * variance + below * other_variance - lift * lift
    own += gap * (gap * above * below + lift * (below - above))
    return Result(above * mean + below * other + lift, jnp.maximum(own, 0), None), above


def compared(name: str, whole: bool, a: Any, b: Any) -> Result:
    """Whether a comparison of two independent normal variables is true. Whole numbers are equal
    where normal ones are closer than a half.
    """
    gap, total = a.mean - b.mean, a.variance + b.variance
    inverse = inverse_root(total)
    half = 0.5 if whole else 0.0
    (least, steep), (more, flat) = (cdf_and_pdf((gap + sign * half) * inverse) for sign in (1, -1))
    share, density = {
        "ge": (least, steep),
        "gt": (more, flat),
        "le": (1 - more, -flat),
        "lt": (1 - least, -steep),
        "eq": (least - more, steep - flat),
        "ne": (1 - least + more, flat - steep),
    }[name]
    share = jnp.where(total > 0, share, getattr(lax, name)(a.mean, b.mean))
    density = jnp.where(total > 0, density, 0)
    return Result(share, share * (1 - share), density**2, density * inverse)


def square(mean: Array, variance: Array) -> Result:
    """The square of a normal variable."""
    linear = 4 * mean * mean * variance
    return Result(mean * mean + variance, linear + 2 * variance * variance, linear, 2 * mean)


# The two inner ones of Lobatto's four nodes in [0, 1], which are exact for degree 5.
_INNER = (0.5 - 0.5 / math.sqrt(5), 0.5 + 0.5 / math.sqrt(5))


def gelu(mean: Array, variance: Array) -> Result:
    """`x cdf(x)` of a normal variable: the exact GELU. The approximation of it by a tanh differs by
    less than 5e-4.

    With `t = (1 + s^2)^-1/2`, `h = t mean`, `a = (1 + 2 s^2)^-1/2` and the standard normal
    distribution function P and density p,

        E[x P(x)] = mean P(h) + s^2 t p(h),
        E[P(x)^2] - P(h)^2 = 1/pi * (integral of exp(-h^2 (1 + u^2) / 2) / (1 + u^2), u = a ... 1).

    The last line is a difference of two of Owen's functions T. The other terms of the variance
    follow from `E[x f(x)] = mean E[f] + s^2 E[f']`. All differences are integrals from a to 1, of
    which four nodes are taken: nothing cancels where the variance is small, and the standard
    deviation is off by less than 3e-4 s.
    """
    shrink, narrow = lax.rsqrt(1 + variance), lax.rsqrt(1 + 2 * variance)
    at = mean * shrink
    above, density = cdf_and_pdf(at)
    length = 2 * variance * narrow * narrow / (1 + narrow)  # 1 - narrow

    def bell(u: Array) -> Array:
        return jnp.exp(-0.5 * (at * u) ** 2) * (1 / math.sqrt(2 * math.pi))

    inner = bell(narrow)
    middle = [(u, bell(u) * (5 / 12)) for u in (narrow + length * part for part in _INNER)]
    curve = [(narrow, inner / 12), *middle, (1.0, density / 12)]
    between = sum(power / (1 + u * u) for u, power in curve)
    spread = 2 * density * length * between
    # Of P at `narrow h`, less P at h; and p there.
    step = -at * length * sum(power for _, power in curve)
    own = shrink * density
    found = mean * above + variance * own
    slope = above + own * shrink * at
    tilted = own * (shrink * at * (above + step) + variance * shrink * narrow * inner)
    second = above * above + spread + 2 * tilted - variance * own * own
    total = mean * (mean * spread + 2 * variance * own * step) + variance * second
    return Result(found, jnp.maximum(total, 0), slope**2 * variance, slope)


def power(mean: Array, variance: Array, exponent: float) -> Result:
    """A power of a positive variable, as if it were log-normal. Where the mean is not positive, the
    power of the mean, with variance 0.
    """
    fine, base, own, spread = _log_normal(mean, variance)
    found = base**exponent * jnp.exp(spread * (exponent * (exponent - 1) / 2))
    second = jnp.where(fine, found**2 * jnp.expm1(exponent**2 * spread), 0)
    # The covariance with the variable, over its variance.
    slope = jnp.where(fine, found * jnp.expm1(exponent * spread) * base / own, 0)
    found = jnp.where(fine, found, jnp.where(fine, 1, mean) ** exponent)
    return Result(found, second, slope**2 * variance, slope)


def inverse_power(mean: Array, variance: Array, exponent: int) -> Result:
    """A negative whole power of a variable that keeps its sign."""
    sign = jnp.where(mean < 0, -1, 1)
    found = power(sign * mean, variance, exponent)
    odd = sign if exponent % 2 else 1
    return found._replace(mean=odd * found.mean, slope=odd * sign * found.slope)


def logarithm(mean: Array, variance: Array) -> Result:
    """The logarithm of a positive variable, as if it were log-normal."""
    fine, base, own, spread = _log_normal(mean, variance)
    found = jnp.where(fine, jnp.log(base) - spread / 2, jnp.log(jnp.where(fine, 1, mean)))
    slope = jnp.where(fine, spread * base / own, 0)
    return Result(found, spread, slope**2 * variance, slope)


def _log_normal(mean: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
    """Where there is a log-normal variable with these moments, its moments, and the variance of its
    logarithm.
    """
    fine = (mean > 0) & (variance > 0)
    base, own = jnp.where(fine, mean, 1), jnp.where(fine, variance, 1)
    return fine, base, own, jnp.log1p(jnp.where(fine, variance, 0) / base**2)


def softmax(mean: Array, variance: Array, axes: tuple[int, ...]) -> Result:
    """The softmax of independent normal variables.

    Mean: the softmax of `(mean - center) / sqrt(1 + pi/8 variance)`, MacKay's approximation to the
    integral of a logistic function, with the expected logit as center. Variance: by the derivative.
    A logit of minus infinity is taken to be fixed, and a row of such is 0.
    """
    none = jnp.isneginf(mean)
    mean = jnp.where(none.all(axes, keepdims=True), 0, mean)
    plain = jax.nn.softmax(mean, axes)
    center = jnp.where(none, 0, plain * jnp.where(none, 0, mean)).sum(axes, keepdims=True)
    shrunk = (mean - lax.stop_gradient(center)) / jnp.sqrt(1 + math.pi / 8 * variance)
    found = jnp.where(none, 0, jax.nn.softmax(shrunk, axes))
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
