"""Schedules that go from one rate to another."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.schedules._counts import (
    Count,
    Schedule,
    between,
    fraction_of,
    known_rate,
    step_of,
    steps_taken,
)


@_checks.hinted
def constant(rate: float) -> Schedule:
    """`rate` at every step: `optax.constant_schedule`, with the rate checked.

    The rate stays a Python number, so that a rate of 0 or 1 draws no mask.

    Args:
      rate: a number in [0, 1].

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1].
    """
    rate = known_rate("rate", rate)
    return lambda count: rate


@_checks.hinted
def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`start + (end - start) f`, with `f = (count - begin) / steps` held within [0, 1].

    Args:
      start: the rate up to step `begin`.
      end: the rate from step `begin + steps` on.
      steps: how many steps the change takes, at least 1.
      begin: the step at which the change begins, at least 0.

    Raises:
      TypeError, ValueError: a rate is not a number in [0, 1]; a step is not an integer, or too
        small.
    """
    start, end = known_rate("start", start), known_rate("end", end)
    fraction = fraction_of(steps, begin)
    return lambda count: between(start, end, fraction(count))


@cites("loshchilov2017sgdr")
@_checks.hinted
def cosine(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`start + (end - start) (1 - cos(pi f)) / 2`, with `f` as in `linear`: half a period of a
    cosine.

    If it falls from step 0 on, it is `optax.cosine_decay_schedule(start, steps, alpha=end /
    start)`.

    Args and Raises: as `linear`.

    References:
      Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2016,
      arXiv:1608.03983, for the shape.
    """
    start, end = known_rate("start", start), known_rate("end", end)
    fraction = fraction_of(steps, begin)
    return lambda count: between(
        start, end, 0.5 - 0.5 * jnp.cos(np.float32(math.pi) * fraction(count))
    )


@cites("smith2017cyclical", "zhou2020scheduled")
@_checks.hinted
def cyclic(start: float, turn: float, period: int) -> Schedule:
    """From `start` linearly to `turn` in half a period, back in the other half, and so on.

    `cyclic(rate, 0, steps)`, for a training of `steps` steps, is the V-shaped schedule of DropHead.

    Args:
      start: the rate at 0, `period`, `2 period`, ...
      turn: the rate in the middle between them.
      period: in steps, at least 2.

    Raises:
      TypeError, ValueError: a rate is not a number in [0, 1]; `period` is not an integer, or too
        small.

    References:
      Smith, "Cyclical learning rates for training neural networks", 2015, arXiv:1506.01186, for the
      shape. Zhou et al., "Scheduled DropHead: a regularization method for transformer models",
      2020, arXiv:2004.13342, for the V.
    """
    start, turn = known_rate("start", start), known_rate("turn", turn)
    period = step_of("period", period, least=2)

    def schedule(count: Count) -> jax.Array:
        phase = (steps_taken(count) % period).astype(jnp.float32) / np.float32(period)
        return between(start, turn, 1 - jnp.abs(2 * phase - 1))

    return schedule
