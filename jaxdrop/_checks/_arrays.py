"""Checks of arrays: what they hold, and their shape."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop._checks._messages import quoted, shown

# JAX answers anew each time, in a microsecond or two. There are few dtypes, and many calls.
_issubdtype = functools.cache(jnp.issubdtype)
_NEAREST = {"f": "float32", "c": "complex64", "i": "int32", "u": "uint32"}


def unwrapped(value: Any) -> Any:
    """`value`, or the array that it holds, if it is an `nnx.Variable` or another object with
    `__jax_array__`.
    """
    if isinstance(value, (jax.Array, np.ndarray)) or not hasattr(type(value), "__jax_array__"):
        return value
    return value.__jax_array__()


def is_key(value: Any) -> TypeGuard[jax.Array]:
    """Whether a value is a typed key, or an array of them."""
    return isinstance(value, jax.Array) and _issubdtype(value.dtype, jax.dtypes.prng_key)


def is_real(dtype: Any) -> bool:
    """Whether a dtype is one of floating numbers or integers. NumPy takes differences of dates for
    integers.
    """
    return bool(
        jnp.issubdtype(dtype, jnp.floating)
        or (jnp.issubdtype(dtype, jnp.integer) and np.dtype(dtype).kind != "m")
    )


def check_array(value: Any, name: str, of: str = "numbers", caller: str = "") -> jax.Array:
    """The argument as an array of numbers or booleans, if it is one or holds them. `of` and
    `caller` are for the message.
    """
    value = unwrapped(value)
    check_unmasked(value, name)
    array = value
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        array = _converted(value)
    if array is None or not (
        array.dtype == bool
        or is_real(array.dtype)
        or jnp.issubdtype(array.dtype, jnp.complexfloating)
    ):
        rule = (
            f"{caller} takes an array {shown(name)} of {of}"
            if caller
            else f"{shown(name)} must be an array of {of}"
        )
        raise TypeError(f"{rule}, got {quoted(value)}")
    check_dtype_of_jax(array, name)
    return cast(jax.Array, array)


def check_dtype_of_jax(array: Any, name: str) -> None:
    """Checks that JAX has the dtype of an array of NumPy: a compiled function that has seen an
    array of this shape would take the bytes for those of a dtype that it has.
    """
    if not _is_of_jax(array.dtype):
        raise TypeError(
            f"{shown(name)} has dtype {array.dtype}, which JAX does not have. Convert it, as in"
            f" {shown(name)}.astype(np.{_NEAREST[array.dtype.kind]})."
        )


def check_unmasked(value: Any, name: str) -> None:
    """Checks that the argument is no array of NumPy with masked entries: JAX would take what stands
    below the mask.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        name = shown(name)
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost. Pass {name}.filled(np.nan), or"
            f" the data, {name}.data, and say what counts: ~{name}.mask."
        )


def check_inexact(x: Any, caller: str, name: str = "x") -> jax.Array:
    """The argument as an array of floating or complex numbers."""
    if (isinstance(x, jax.Array) or type(x) is np.ndarray) and _can_drop(x.dtype):  # nearly always
        return cast(jax.Array, x)
    x = unwrapped(x)
    if is_key(x):
        name = shown(name)
        order = f"The key comes first, and then the array: {caller}(key, {name}, rate)."
        raise TypeError(f"{name} is a key, of dtype {x.dtype}. {order}")
    x = check_array(x, name, "floating or complex numbers", caller)
    name = shown(name)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{caller} scales what it keeps, and cannot do so with {name} of dtype {x.dtype}."
            f" Convert it first, as in {name}.astype(jnp.float32), or put the dropout after the"
            " embedding."
        )
    if not _has_zero(x.dtype):
        raise TypeError(
            f"{caller} cannot drop from {name} of dtype {x.dtype}, which has no 0. Convert it, as"
            f" in {name}.astype(jnp.bfloat16)."
        )
    return x


def check_real(x: Any, caller: str, name: str = "x", why: str = "") -> jax.Array:
    """The argument as an array of floating numbers. `why` says why they cannot be complex, and what
    to do.
    """
    x = check_inexact(x, caller, name)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{caller} takes real {shown(name)}, got dtype {x.dtype}{why}")
    return x


def check_ids(ids: Any, caller: str, name: str = "ids") -> jax.Array:
    """The argument as an array of integers."""
    ids = check_array(ids, name, "integers", caller)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"{caller} takes integers, but {shown(name)} is an array of dtype {ids.dtype}. For"
            " vectors there is jaxdrop.dropout."
        )
    return ids


def check_shape(value: jax.Array, name: str, shape: tuple[int, ...], like: str) -> jax.Array:
    """The argument, if it has this shape. `like` says whose it is."""
    if value.shape != shape:
        raise ValueError(f"{shown(name)} must have {like} {shape}, got {tuple(value.shape)}")
    return value


def check_float_dtype(dtype: Any, name: str) -> None:
    """Checks that the argument is a dtype of floating or complex numbers, or None for that of
    JAX.
    """
    try:
        found = (
            None
            if isinstance(dtype, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))
            else np.dtype(dtype)
        )
    except Exception:  # whatever an attribute `dtype` does
        found = None
    if found is None or not jnp.issubdtype(found, jnp.inexact):
        raise TypeError(
            f"{shown(name)} must be a dtype of floating numbers, such as jnp.float32, got"
            f" {quoted(dtype)}"
        )


def check_features(
    inputs: Any, caller: str, features: int | None = None, name: str = "inputs"
) -> jax.Array:
    """The argument as an array of floating or complex numbers with a last axis, of the length
    `features` if that is given.
    """
    inputs = check_inexact(inputs, caller, name)
    if not inputs.ndim or features not in (None, inputs.shape[-1]):
        length = "features" if features is None else f"{features} features"
        raise ValueError(
            f"{caller} takes {shown(name)} of shape (..., {length}), got shape"
            f" {tuple(inputs.shape)}"
        )
    return inputs


def known(x: Any) -> bool:
    """Whether the values of an array can be looked at: not traced, and all on this process."""
    return not isinstance(x, jax.core.Tracer) and (
        not isinstance(x, jax.Array) or x.is_fully_addressable
    )


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to the shape `to`."""
    try:
        return jnp.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def can_be_array(value: Any) -> bool:
    """Whether a value is one that can hold numbers: a number, a list of them, or what NumPy knows
    as an array.
    """
    if isinstance(value, (str, bytes)):
        return False
    return isinstance(value, (numbers.Number, Sequence)) or hasattr(type(value), "__array__")


def _converted(value: Any) -> Any:
    """Lists of numbers, and what gives NumPy an array, as an array; None of anything else."""
    if not can_be_array(value):
        return None
    try:
        return jnp.asarray(value)
    except Exception:  # whatever a foreign object raises
        return None


@functools.cache
def _can_drop(dtype: Any) -> bool:
    """Whether arrays of this dtype can be scaled, and can hold the 0 of what is dropped."""
    return bool(jnp.issubdtype(dtype, jnp.inexact)) and _has_zero(dtype) and _is_of_jax(dtype)


@functools.cache
def _is_of_jax(dtype: Any) -> bool:
    """Not so of the other byte order, and of long doubles."""
    if _issubdtype(dtype, jax.dtypes.extended):
        return True
    try:
        jax.eval_shape(lambda x: x, np.zeros((), dtype))
    except TypeError:
        return False
    return True


@functools.cache
def _has_zero(dtype: np.dtype[Any]) -> bool:
    """Not so of float8_e8m0fnu, a dtype of powers of two, in which 0 becomes NaN."""
    return bool(np.asarray(0, dtype) == 0)
