"""The lower tail of the binomial distribution, with digits left for many trials in float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_TABLE = np.array(
    [0.0]
    + [
        math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - math.log(2 * math.pi) / 2
        for n in range(1, 16)
    ]
)


def lower_tail(errors: jax.Array, trials: jax.Array, rate: jax.Array) -> jax.Array:
    """`P(Bin(k, r) <= e)` for e below the mean `k r`, and 1 for others.

    The probability of e, times a sum of ratios of probabilities. The logarithms of the factorials
    are large numbers, whose rounding would remain in their small difference. (`betainc` has an
    error of 18 % for 1e5 trials.) So they are not formed: see Loader, "Fast and accurate
    computation of binomial probabilities", 2000.

    Args:
      errors: e, integers, shape (M,).
      trials: k, integers, shape (M,), at least 1.
      rate: r in (0, 1), a scalar, whose dtype is that of the result.
    """
    dtype = rate.dtype
    e, k = errors.astype(dtype), trials.astype(dtype)
    mean = k * rate
    apart = e - mean
    exponent = mean * _deviance(apart / mean)
    exponent = exponent + (k - mean) * _deviance(-apart / (k - mean))
    rest = _stirling(trials) - _stirling(errors) - _stirling(trials - errors)
    inner = jnp.maximum(e, 1) * jnp.maximum(k - e, 1)
    scale = jnp.sqrt(k / (2 * np.pi * inner).astype(dtype))
    mass = scale * jnp.exp(rest.astype(dtype) - exponent)
    mass = jnp.where(errors == 0, jnp.exp(k * jnp.log1p(-rate)), mass)
    odds = (1 - rate) / rate
    counts = e < mean

    def go_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, term, total = state
        return (counts & (term > jnp.finfo(dtype).eps * total)).any()

    def step(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        at, term, total = state
        left = (errors - at).astype(dtype)
        term = term * left / (trials - errors + at + 1).astype(dtype) * odds
        term = jnp.where(counts, term, 0)
        return at + 1, term, total + term

    one = jnp.ones_like(e)
    _, _, total = lax.while_loop(go_on, step, (jnp.int32(0), one, one))
    return jnp.where(counts, jnp.minimum(mass * total, 1), 1)


def _deviance(x: jax.Array) -> jax.Array:
    """`(1 + x) log(1 + x) - x`, and 1 at -1."""
    inside = jnp.maximum(x, -1 + jnp.finfo(x.dtype).eps)
    return jnp.where(x > -1, (1 + inside) * jnp.log1p(inside) - inside, 1)


def _stirling(number: jax.Array) -> jax.Array:
    """`log n! - log(sqrt(2 pi n) (n/e)^n)`, the error of Stirling's formula."""
    n = jnp.maximum(number, 1).astype(jnp.float32)
    series = 1 / (12 * n) - 1 / (360 * n * n * n)
    small = jnp.asarray(_TABLE, jnp.float32)[jnp.clip(number, 0, 15)]
    return jnp.where(number < 16, small, series)
