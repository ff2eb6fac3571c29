"""Checks of rates and other real numbers, alone or in arrays."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify

from jaxdrop._checks._arrays import broadcasts, is_key, is_real, unwrapped
from jaxdrop._checks._messages import check_not_traced, quoted, shown

Rate: TypeAlias = float | jax.Array | np.ndarray
"""The probability of dropping: a number, or an array, traced or not."""


def check_rate(rate: Any, name: str = "rate") -> float | jax.Array:
    """A rate known now, as a Python float (or an array, if it has axes); a traced one without its
    gradient.

    Raises:
      TypeError: not a real number.
      ValueError: outside [0, 1], or NaN. A traced rate cannot raise, but under `checkify`: where it
        is impossible it becomes NaN, and so does everything that is formed with it.
    """
    rate = check_number(
        rate, name, 1, " It is the probability of dropping, not of keeping, and not a percentage."
    )
    return lax.stop_gradient(rate) if isinstance(rate, jax.core.Tracer) else rate


def check_known_rate(rate: Any, name: str, reason: str) -> float:
    """A rate that is one number, known now. `reason` says why it has to be, and what else there
    is.
    """
    if isinstance(rate, jax.core.Tracer) or (
        isinstance(rate, (jax.Array, np.ndarray)) and rate.ndim
    ):
        raise TypeError(
            f"{shown(name)} must be one number that is known now, but it is {quoted(rate)}:"
            f" {reason}"
        )
    return cast(float, check_rate(rate, name))


def check_number(
    value: Any,
    name: str,
    most: float = math.inf,
    meaning: str = "",
    *,
    least: float = 0.0,
    above: bool = False,
) -> float | jax.Array:
    """As `check_rate`, of any finite real number from `least` (or above it) to `most`. `meaning` is
    a sentence for messages.
    """

    def inside(x: Any) -> Any:
        return (x > least if above else x >= least) & (x <= most) & (abs(x) < math.inf)

    if type(value) is float and inside(value):  # nearly always: no text is made, nor an array
        return value
    value = unwrapped(value)
    bounded = math.isfinite(least) or math.isfinite(most)
    first, last = "(" if above else "[", "]" if math.isfinite(most) else ")"
    allowed = f"{first}{least:g}, {most:g}{last}".replace("inf", "infinity") if bounded else ""
    if not _is_number(value):
        where = f" in {allowed}" if bounded else ""
        raise TypeError(
            f"{shown(name)} must be a real number{where}, got"
            f" {quoted(value)}.{_way(value, shown(name))}{meaning}"
        )
    rule = f"{shown(name)} must {f'lie in {allowed}' if bounded else 'be finite'}"
    if isinstance(value, jax.core.Tracer):
        real = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
        possible = inside(real)
        checkify.debug_check(jnp.all(possible), f"{rule}, got {{value}}", value=real)
        # NaN as a constant of this dtype: to convert it would be an operation, at which
        # `jax_debug_nans` stops.
        return jnp.where(possible, real, np.asarray(np.nan, real.dtype))
    known = _as_float64(value)
    if not np.all(inside(known)):
        wrong = float(known[~inside(known)][0]) if known.ndim else value
        raise ValueError(f"{rule}, got {quoted(wrong)}.{meaning}")
    return float(known) if known.ndim == 0 else cast(jax.Array, value)


def check_parameter(
    value: Any, name: str, shape: tuple[int, ...] = (), shared: tuple[int, ...] = ()
) -> float | jax.Array:
    """A finite number of any sign as a float, or an array of floating numbers that fits the mask of
    an array of `shape`.
    """
    value = unwrapped(value)
    if isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.floating):
        check_rate_shape(jnp.asarray(value), shape, shared, name)
        return jnp.asarray(value)
    if isinstance(value, (jax.Array, np.ndarray)) or not _is_number(value):
        raise TypeError(
            f"{shown(name)} must be a real number or an array of them, of a floating dtype, got"
            f" {quoted(value)}"
        )
    return check_number(value, name, least=-math.inf)


def check_numbers(values: Any, name: str, count: int, what: str) -> np.ndarray[Any, Any]:
    """A known sequence of `count` real numbers as float64. `what` they are is for the message."""
    check_not_traced(values, name)
    numeric = None
    if (
        isinstance(values, (Sequence, np.ndarray, jax.Array))
        and not isinstance(values, (str, bytes))
        and not is_key(values)
    ):
        with contextlib.suppress(
            TypeError, ValueError, OverflowError
        ):  # ragged, traced in part, or beyond what NumPy holds
            numeric = np.asarray(values)
    if numeric is None or not is_real(numeric.dtype):
        raise TypeError(f"{shown(name)} must be {what}, got {quoted(values)}")
    if numeric.shape != (count,):
        raise ValueError(f"{shown(name)} must be {what}, got {quoted(values)}")
    return numeric.astype(np.float64)


def check_one_rate(rate: float | jax.Array, rule: str, name: str = "rate") -> None:
    """Checks that a rate has no axes. `rule` says who takes one rate, for the message."""
    if not isinstance(rate, float) and rate.ndim:
        raise ValueError(f"{rule}, but {shown(name)} has shape {tuple(rate.shape)}")


def check_rate_shape(
    rate: float | jax.Array,
    shape: tuple[int, ...],
    broadcast_dims: tuple[int, ...],
    name: str = "rate",
) -> None:
    """Checks that a rate with axes fits the mask of an array of `shape`."""
    if isinstance(rate, float) or rate.ndim == 0:
        return
    mask = tuple(1 if axis in broadcast_dims else length for axis, length in enumerate(shape))
    if not broadcasts(rate.shape, mask):
        name = shown(name)
        raise ValueError(
            f"{name} has shape {tuple(rate.shape)}, which does not broadcast to the mask's shape"
            f" {mask}. Give one {name}, or one for each entry along the mask's last axes."
        )


def _way(value: Any, name: str) -> str:
    """What to do with a value that holds numbers, or makes them; a sentence."""
    if callable(value):
        return f" A schedule is called: {name}=schedule(step)."
    if isinstance(value, (list, tuple)):
        return f" Several numbers are an array: {name}=np.array([...])."
    return ""


def _is_number(value: Any) -> bool:
    """Whether a value is a real number, or an array of them."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return is_real(value.dtype)
    return isinstance(value, numbers.Real)


def _as_float64(value: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(value, np.float64)
    except OverflowError:  # an integer, too large for a float; no check takes either infinity
        return np.asarray(math.inf)
    except TypeError:  # a fraction
        return np.asarray(float(value))
