"""The parts of a schedule: counts of steps, rates, and weighted means of two rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks

Count = int | float | jax.Array | np.ndarray
"""The number of steps that were taken: a number, or a traced scalar."""
Schedule = Callable[[Count], float | jax.Array]
"""A function of the number of steps that gives the rate, as Optax's schedules give a step size."""


def switch(before: float, after: float, step: int) -> Schedule:
    """`before` up to `step`, and `after` from `step` on."""
    return lambda count: jnp.where(steps_taken(count) < step, np.float32(before), np.float32(after))


def fraction_of(steps: int, begin: int) -> Callable[[Count], jax.Array]:
    """A function from a count to the fraction of a change that is done: exactly 0 up to `begin`,
    exactly 1 from `begin + steps` on.
    """
    steps, begin = step_of("steps", steps), step_of("begin", begin, least=0)

    def fraction(count: Count) -> jax.Array:
        done = jnp.minimum(jnp.maximum(steps_taken(count), begin) - begin, steps)
        # XLA may replace the division by a product with 1 / steps, which would not give exactly 1.
        return jnp.where(done < steps, done.astype(jnp.float32) / np.float32(steps), np.float32(1))

    return fraction


def steps_taken(count: Count) -> jax.Array:
    """The number of steps taken so far, as an array."""
    array = jnp.asarray(_checks.check_array(count, "count"))
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(
            f"count must be the number of steps taken so far, got {_checks.quoted(count)}"
        )
    return array


def between(start: float, end: float, fraction: jax.Array) -> jax.Array:
    """The weighted mean of `start` and `end`, kept between them in spite of rounding."""
    low, high = sorted((np.float32(start), np.float32(end)))
    return jnp.clip((1 - fraction) * start + fraction * end, low, high)


def known_rate(name: str, rate: Any) -> float:
    """The argument `name`, a rate, as a Python number."""
    return _checks.check_known_rate(
        rate, name, "multiply the schedule's value by an array, or by a traced number, instead."
    )


def whole_steps(count: Any) -> int:
    """The argument `count` as a Python integer. A traced one has no value yet."""
    way = "call the schedule outside of jax.jit, and hand its rate on, marked as static"
    _checks.check_not_traced(count, "count", way)
    number = np.asarray(_checks.check_array(count, "count"))
    if number.ndim or not jnp.issubdtype(number.dtype, jnp.integer):
        raise TypeError(
            f"count must be the number of steps taken so far, got {_checks.quoted(count)}"
        )
    return int(number)


def speed_of(gamma: Any) -> float:
    """The argument `gamma` as a positive number."""
    _checks.check_not_traced(gamma, "gamma")
    meaning = " It is how fast the rate changes per step, 10 / steps for example."
    known = _checks.check_number(gamma, "gamma", meaning=meaning, above=True)
    if not isinstance(known, float):
        raise TypeError(f"gamma must be one number, got {_checks.quoted(gamma)}")
    return known


def step_of(name: str, steps: Any, *, least: int = 1) -> int:
    """The argument `name`, a number of steps, as a Python integer from `least` on."""
    return _checks.check_count(
        steps, name, least=least, most=2**31 - 1, kind="an integer number of steps"
    )
