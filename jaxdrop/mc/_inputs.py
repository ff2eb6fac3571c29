"""Checks that the statistics share: of dtypes and shapes always, and of values if they are known,
mostly outside `jit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, _numerics

ArrayLike: TypeAlias = jax.Array | np.ndarray[Any, Any]
Number: TypeAlias = float | ArrayLike


def floating(caller: str, name: str, x: ArrayLike) -> jax.Array:
    """`x` as an array of real floating numbers, float32 at least; anything else is a TypeError."""
    x = array(x, caller, f"{name} of floating numbers")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{caller} takes floating {name}, got {x.dtype}. Convert them, as in"
            f" {name}.astype(jnp.float32)."
        )
    x = jnp.asarray(x)
    return x.astype(_numerics.compute_dtype(x.dtype))


def samples(caller: str, name: str, x: ArrayLike, shape: str = "(S, ...)") -> jax.Array:
    """`x` as floating samples along the first axis, at least one. `shape` names the axes, for the
    message.
    """
    x = floating(caller, name, x)
    if x.ndim < (2 if "C" in shape else 1) or not x.shape[0]:
        raise ValueError(f"{name} must have shape {shape} with at least one sample, got {x.shape}")
    return x


def nan_unless(condition: jax.Array, x: jax.Array) -> jax.Array:
    """`x` where the condition holds, and NaN elsewhere: for traced values, of which an impossible
    one cannot raise an error.
    """
    return jnp.where(condition, x, jnp.nan)


def probable(probs: jax.Array) -> jax.Array:
    """Probabilities along the last axis, NaN where they are negative or do not sum to 1."""
    return nan_unless(are_probabilities(probs)[..., None], probs)


def bernoulli(name: str, probs: jax.Array) -> None:
    """Checks, where they are known, that probabilities of single events lie in [0, 1]."""
    if not holds(lambda x: (x >= 0) & (x <= 1), probs):
        raise ValueError(
            f"{name} must lie in [0, 1], but they are {range_of(probs)}.{nan_or_logits(probs)}"
        )


def reals(caller: str, **arrays: Number) -> list[jax.Array]:
    """Real numbers of any dtype as arrays of one floating dtype: float64 if one of them has it,
    otherwise float32.
    """
    found = {name: array(x, caller, f"{name} of real numbers") for name, x in arrays.items()}
    for name, x in found.items():
        if not (
            jnp.issubdtype(x.dtype, jnp.floating)
            or jnp.issubdtype(x.dtype, jnp.integer)
            or x.dtype == jnp.bool_
        ):
            raise TypeError(f"{caller} takes real {name}, got {x.dtype}")
    wide = any(x.dtype == np.float64 for x in found.values())
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)
    # Converted before they become arrays of JAX, which would cut integers to 32 bits.
    return [jnp.asarray(x.astype(dtype)) for x in found.values()]


def setting(caller: str, name: str, x: Number) -> jax.Array:
    """As `reals`, of one argument; booleans are a TypeError."""
    if isinstance(x, bool) or getattr(x, "dtype", None) == np.bool_:
        raise TypeError(f"{caller} takes real {name}, got {_checks.quoted(x)}")
    return reals(caller, **{name: x})[0]


def single(caller: str, name: str, x: Number) -> jax.Array:
    """As `setting`; an array with axes is a ValueError."""
    found = setting(caller, name, x)
    if found.ndim:
        raise ValueError(f"{name} must be a single number, got an array of shape {found.shape}")
    return found


def alike(caller: str, **arrays: Number) -> list[jax.Array]:
    """As `reals`; all have the same shape, which is not empty."""
    found = reals(caller, **arrays)
    if len({x.shape for x in found}) > 1 or not found[0].size:
        shapes = ", ".join(
            f"{name} of shape {x.shape}" for name, x in zip(arrays, found, strict=True)
        )
        raise ValueError(
            f"{caller} takes arrays of one shape, with at least one entry, got {shapes}"
        )
    return found


def entries(
    caller: str, where: ArrayLike | None, **arrays: Number
) -> tuple[list[jax.Array], jax.Array | None]:
    """As `alike`, and the argument `where`. NaN at an entry that counts is a ValueError, if the
    values are known.
    """
    found = alike(caller, **arrays)
    selected = selection(where, found[0].shape)
    for name, x in zip(arrays, found, strict=True):
        not_nan(caller, name, x, selected)
    return found, selected


def judged(
    caller: str, where: ArrayLike | None, errors: Number, uncertainty: Number
) -> tuple[list[jax.Array], jax.Array | None]:
    """As `entries`, of errors and an uncertainty, which are told apart by their order alone."""
    if getattr(uncertainty, "dtype", None) == np.bool_:
        raise TypeError(
            f"{caller} takes numbers as uncertainty, got booleans. The order of the arguments is"
            f" {caller}(errors, uncertainty)."
        )
    return entries(caller, where, errors=errors, uncertainty=uncertainty)


def not_nan(caller: str, name: str, x: jax.Array, where: jax.Array | None = None) -> None:
    """Checks that `x` holds no NaN, at the entries where `where` is true."""
    if not holds(lambda x: ~np.isnan(x), x, where):
        number = np.isnan(np.asarray(x)).sum()
        raise ValueError(
            f"{caller} takes {name} without NaN, got {number} in {x.size} entries. Those that do"
            f" not count: pass where=..., such as where=~jnp.isnan({name})."
        )


def is_known(x: Any) -> bool:
    """Whether the values of `x` are known here: not traced, and not on other processes."""
    return not (
        isinstance(x, jax.core.Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable)
    )


def known(x: Any) -> np.ndarray[Any, Any] | None:
    """The values of `x`; None if they are not known here."""
    return np.asarray(x) if is_known(x) else None


def holds(
    condition: Callable[[np.ndarray[Any, Any]], Any], x: Number, where: ArrayLike | None = None
) -> bool:
    """Whether `condition` is true of `x` (of its entries at `where`), and true if this is not
    known.

    In NumPy, so that constants are checked inside `jit` too, and nothing is compiled for it.
    """
    values, kept = known(x), known(True if where is None else where)
    if values is None or kept is None:
        return True
    with np.errstate(all="ignore"):
        return bool(np.all(condition(values) | ~kept))


def selection(where: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array | None:
    """The argument `where` of a statistic, as booleans of `shape`; None if it is None."""
    if where is None:
        return None
    given = array(where, "where", "of booleans", "where")
    if given.dtype != jnp.bool_:
        raise TypeError(
            f"where must be boolean, true for the entries that count, got {given.dtype}. Compare,"
            " as in where=labels != 255."
        )
    try:
        selected = jnp.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"where of shape {given.shape} does not broadcast to the entries, of shape {shape}"
        ) from None
    if (kept := known(selected)) is not None and not kept.any():
        raise ValueError("where must leave at least one entry, but it is false everywhere")
    return selected


def positive(
    name: str,
    x: Number,
    *,
    zero: bool = False,
    infinity: bool = False,
    where: ArrayLike | None = None,
) -> None:
    """Checks, where `x` is known, that all of it lies above 0 (or is 0) and is finite (or
    infinite).
    """
    if not holds(
        lambda x: (x >= 0 if zero else x > 0) & (x <= np.inf if infinity else x < np.inf), x, where
    ):
        allowed = f"{'[' if zero else '('}0, infinity{']' if infinity else ')'}"
        raise ValueError(f"{name} must lie in {allowed}, got {range_of(x)}")


def fraction(name: str, x: Number, *, whole: bool = False) -> None:
    """Checks, where `x` is known, that all of it lies between 0 and 1, both left out, or 1 too if
    `whole`.
    """
    if not holds(lambda x: is_fraction(x, whole), x):
        raise ValueError(f"{name} must lie in (0, 1{']' if whole else ')'}, got {range_of(x)}")


def is_fraction(x: Any, whole: bool) -> Any:
    """Whether each entry lies between 0 and 1, both left out, or 1 too if `whole`."""
    return (x > 0) & ((x <= 1) if whole else (x < 1))


def are_probabilities(probs: Any) -> Any:
    """Whether the entries along the last axis, of NumPy or JAX, are not negative and sum to 1."""
    # By the minimum: XLA simplifies `exp(x) >= 0` to true, and would then evaluate `all` of a
    # constant array while it compiles.
    return (probs.min(-1) >= 0) & (abs(probs.sum(-1) - 1) <= 1e-2)


def probabilities(name: str, probs: ArrayLike) -> None:
    """Checks, where they are known, that the entries along the last axis are not negative and sum
    to 1.
    """
    if not holds(are_probabilities, probs):
        raise ValueError(
            f"{name} must not be negative and must sum to 1 along the last axis, but they are"
            f" {range_of(probs)} and their sums {range_of(np.asarray(probs).sum(-1))}."
            f"{nan_or_logits(probs, ' Probabilities are their softmax.')}"
        )


def nan_or_logits(given: Number, advice: str = "") -> str:
    """What was probably given in place of probabilities, for a message."""
    number = np.isnan(np.asarray(given)).sum()
    if number:
        return f" {number} of {np.size(given)} entries are NaN: leave them out."
    return f" Are they logits?{advice}"


def range_of(x: Number) -> str:
    """The number `x`, or the least and the largest one, for a message."""
    found = np.asarray(x)
    return f"{found}" if found.ndim == 0 else f"{_short(found.min())} to {_short(found.max())}"


def _short(number: Any) -> str:
    """Six digits; all of them where six would make 0 or 1 of another number."""
    text = f"{number:g}"
    return text if text not in ("-0", "0", "1") or float(text) == number else str(number)


def array(x: Any, caller: str, name: str, argument: str = "") -> jax.Array | np.ndarray[Any, Any]:
    """`x` as an array of numbers or booleans; anything else is a TypeError. `name` says in the
    message which array is meant. Its first word is the argument, unless `argument` is given.

    Values that are no JAX array become a NumPy array, which keeps all bits of integers for the
    checks.
    """
    found: jax.Array | np.ndarray[Any, Any]
    x = _checks.unwrapped(x)
    _checks.check_unmasked(x, argument or name.split()[0])
    try:
        found = (
            x if isinstance(x, jax.Array) else np.asarray(x if _checks.can_be_array(x) else None)
        )
    except jax.errors.TracerArrayConversionError:  # a list of traced numbers
        found = jnp.asarray(x)
    except Exception:  # whatever a foreign object raises
        found = np.empty(0, object)
    if not (jnp.issubdtype(found.dtype, jnp.number) or found.dtype == np.bool_):
        field = ". Pass one of its fields, such as .mean" if dataclasses.is_dataclass(x) else ""
        raise TypeError(f"{caller} takes an array {name}, got {_checks.quoted(x)}{field}")
    return found.astype(np.float64) if found.dtype == np.longdouble else found
