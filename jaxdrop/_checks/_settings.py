"""Checks of flags, names, functions, integers and axes."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop._checks._arrays import is_real, unwrapped
from jaxdrop._checks._messages import check_not_traced, quoted, shown

# The longest axis that XLA takes.
LONGEST = 2**31 - 1


def check_flag(value: Any, name: str) -> bool:
    """The argument as a Python bool: it is one, or NumPy's, or a known boolean array without
    axes.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    way = f"make both calls, and choose: jax.lax.cond({shown(name)}, ..., ...)"
    if name == "deterministic":
        way = "pass a traced rate instead: dropout(key, x, jnp.where(deterministic, 0.0, rate))"
    check_not_traced(value, name, way)
    if isinstance(value, (jax.Array, np.ndarray)) and value.dtype == bool and value.ndim == 0:
        return bool(value)
    raise TypeError(f"{shown(name)} must be True or False, got {quoted(value)}")


def check_one_of(value: Any, name: str, names: Any) -> None:
    """Checks that the argument is one of the names in a Literal type, or in a collection."""
    allowed = get_args(names) or tuple(names)
    if not (isinstance(value, str) and value in allowed):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(
            f"{shown(name)} must be one of {', '.join(map(repr, allowed))}, got {quoted(value)}"
        )


def check_text(value: Any, name: str) -> str:
    """The argument, if it is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{shown(name)} must be a str, got {quoted(value)}")
    return value


def check_callable(value: Any, name: str, of: str) -> None:
    """Checks that the argument is a function. `of` says what it is a function of, for the
    message.
    """
    if not callable(value):
        raise TypeError(f"{shown(name)} must be a function of {of}, got {quoted(value)}")


def check_integer(value: Any, name: str, kind: str = "an integer") -> int:
    """The argument as a Python integer. `kind` is for the message."""
    check_not_traced(value, name)
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{shown(name)} must be {kind}, got {quoted(value)}")


def check_integer_or_array(value: Any, name: str, kind: str = "") -> int | jax.Array:
    """The argument as a Python integer, or as an array of one integer, which may be traced. `kind`
    says more about it, for the message.
    """
    kind = f"an integer, or an array of one integer{kind}"
    value = unwrapped(value)
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return check_integer(value, name, kind)
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.integer) or not is_real(value.dtype):
        raise TypeError(f"{shown(name)} must be {kind}, got {quoted(value)}")
    return cast(jax.Array, value)


def check_count(
    value: Any, name: str, *, least: int = 1, most: float = math.inf, kind: str = "an integer"
) -> int:
    """The argument as a Python integer from `least` to `most`."""
    number = check_integer(value, name, kind)
    if not least <= number <= most:
        allowed = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(f"{shown(name)} must be {allowed}, got {quoted(number)}")
    return number


def check_integers(values: Any, name: str, kind: str = "a sequence of integers") -> tuple[int, ...]:
    """The argument, a sequence, as a tuple of Python integers. `kind` is for the message."""
    if type(values) is tuple and all(type(value) is int for value in values):
        return values
    check_not_traced(values, name)
    if not isinstance(values, (str, bytes, Mapping)):
        try:
            return tuple(check_integer(value, name) for value in values)
        except TypeError:
            pass
    raise TypeError(f"{shown(name)} must be {kind}, got {quoted(values)}")


def check_axis(value: Any, name: str, ndim: int, of: str = "x") -> int:
    """The axis that the argument names, as a number from 0 to `ndim - 1`. `of` is the argument
    whose axes they are.
    """
    number = check_integer(value, name, "the number of an axis")
    if not -ndim <= number < ndim:
        allowed = (
            f"-{ndim} to {ndim - 1} are allowed"
            if ndim
            else f"there is none to name in {shown(of)}"
        )
        raise ValueError(
            f"{shown(name)}={quoted(number)} is out of range: with {ndim} axes, {allowed}."
        )
    return number % ndim


def axis_numbers(broadcast_dims: Any) -> tuple[int, ...]:
    """`broadcast_dims` as a tuple of Python integers."""
    return check_integers(broadcast_dims, "broadcast_dims", "a sequence of axis numbers")


def check_broadcast_dims(broadcast_dims: Any, ndim: int, of: str = "x") -> tuple[int, ...]:
    """The axes that share a mask, as sorted numbers from 0 to `ndim - 1`. `of` is the argument
    whose axes they are.
    """
    dims = axis_numbers(broadcast_dims)
    if not dims:
        return dims
    for dim in dims:
        if not -ndim <= dim < ndim:
            name = shown("broadcast_dims")
            allowed = f"-{ndim} to {ndim - 1} are allowed"
            raise ValueError(
                f"{name}={quoted(dims)} names axis {dim}, but {shown(of)} has {ndim} axes:"
                f" {allowed}."
            )
    return tuple(sorted({dim % ndim for dim in dims}))
