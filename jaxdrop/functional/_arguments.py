"""Checks that all functions share. A message names the argument, quotes the value and says what to do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import masks

T = TypeVar("T")


class Site(NamedTuple):
    """The checked arguments of one place where something is dropped."""

    x: jax.Array
    rate: float | jax.Array
    shared: tuple[int, ...]
    spec: PartitionSpec | None


def site(caller: str, x: jax.Array, rate: masks.Rate, broadcast_dims: Sequence[int], spec: PartitionSpec | None) -> Site:
    """Checks what nearly every function takes: an inexact array, a rate that fits its mask, shared axes, and a layout."""
    x = inexact(x, caller)
    checked = masks.check_rate(rate)
    shared = masks.check_broadcast_dims(broadcast_dims, x.ndim)
    masks.check_rate_shape(checked, x.shape, shared)
    return Site(x, checked, shared, masks.check_spec(spec, x.ndim))


def array(x: jax.Array, caller: str, name: str) -> jax.Array:
    """`x` as an array, if it is one already or holds numbers; anything else is a TypeError. `name` is for the message."""
    if hasattr(x, "dtype"):
        return x
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{caller} takes an array {name}, got {type(x).__name__} {x!r}") from None


def inexact(x: jax.Array, caller: str) -> jax.Array:
    """`x` as an array of floating or complex numbers; anything else is a TypeError."""
    x = array(x, caller, "x of floating or complex numbers")
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(f"x is a key, of dtype {x.dtype}. The key comes first, and then the array: {caller}(key, x, rate).")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{caller} scales what it keeps, and cannot do so with x of dtype {x.dtype}. Convert it first, as in"
            " x.astype(jnp.float32), or put the dropout after the embedding."
        )
    if not _has_zero(x.dtype):
        raise TypeError(
            f"{caller} cannot drop from x of dtype {x.dtype}, which has no 0. Convert it, as in x.astype(jnp.bfloat16)."
        )
    return x


@functools.cache
def _has_zero(dtype: np.dtype[Any]) -> bool:
    """Not so of float8_e8m0fnu, a dtype of powers of two, in which 0 becomes NaN."""
    return bool(np.asarray(0, dtype) == 0)


def integers(ids: jax.Array, caller: str) -> jax.Array:
    """`ids` as an array of integers; anything else is a TypeError."""
    ids = array(ids, caller, "of integer ids")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{caller} takes integer ids, got an array of dtype {ids.dtype}. For vectors there is jaxdrop.dropout.")
    return ids


def integer(name: str, value: int, kind: str = "an integer") -> int:
    """The argument `name` as a Python integer; anything else is a TypeError. `kind` is for the message."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind}, got {value!r}") from None


def count(name: str, value: int, *, least: int = 1) -> int:
    """The argument `name` as a Python integer of at least `least`."""
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def axis(name: str, value: int, ndim: int) -> int:
    """The axis that the argument `name` names, as a number from 0 to `ndim - 1`."""
    number = integer(name, value, "the number of an axis")
    if not -ndim <= number < ndim:
        allowed = f"-{ndim} to {ndim - 1} are allowed" if ndim else "there is none to name"
        raise ValueError(f"{name}={number} is out of range: with {ndim} axes, {allowed}.")
    return number % ndim


def one_of(name: str, value: str, names: Any) -> None:
    """Checks that the argument `name` is one of the names in the Literal type `names`."""
    allowed = get_args(names)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def either(call: T | None, module: T) -> T:
    """The argument of a call, if there is one, or else the module's."""
    return module if call is None else call


def is_true(deterministic: bool) -> bool:
    """The flag as a Python bool; a traced or otherwise unknown one is a TypeError."""
    if isinstance(deterministic, (bool, np.bool_)):
        return bool(deterministic)
    if isinstance(deterministic, jax.core.Tracer):
        raise TypeError(
            "deterministic must be known when the function is traced, but it is a traced value. Either\n"
            "1. mark it static: jax.jit(f, static_argnames='deterministic');\n"
            "2. pass a traced rate instead: dropout(key, x, jnp.where(deterministic, 0.0, rate))."
        )
    raise TypeError(f"deterministic must be True or False, got {deterministic!r}")
