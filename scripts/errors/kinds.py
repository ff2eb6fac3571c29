"""What an argument may be. A value that fits is no mistake, and is not counted as one."""

from __future__ import annotations

import dataclasses
import fractions
import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec


@dataclasses.dataclass(frozen=True)
class Kind:
    """`fits(value, valid)`: whether `value` is right in the place of `valid`. `traced`: whether a
    traced value is right.
    """

    fits: Callable[[Any, Any], bool]
    traced: bool = False

    def or_none(self) -> Kind:
        """The same, and None."""
        return Kind(lambda value, valid: value is None or self.fits(value, valid), self.traced)


def numeric(value: Any) -> np.ndarray[Any, Any] | None:
    """`value` as an array of numbers; None of anything that is not."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or value is None or _is_key(value):
        return None
    if not isinstance(value, (numbers.Number, Sequence, np.ndarray, jax.Array, np.generic)):
        return None
    if isinstance(value, (int, fractions.Fraction)) and not isinstance(value, bool):
        value = (
            _as_float(value)
            if isinstance(value, fractions.Fraction) or abs(value) >= 2**63
            else value
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool else None


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def array(
    kinds: str,
    *,
    shape: str = "any",
    low: float = -math.inf,
    high: float = math.inf,
    whole: bool = False,
) -> Kind:
    """An array. `kinds`: f(loat), c(omplex), i(nteger), b(ool). `shape`: any; or same, last (axis),
    broadcast: of the right one.

    Bounds hold where values are known; of arrays without bounds NaN and infinities are fine. Lists
    of numbers are arrays.
    """

    def fits(value: Any, valid: Any) -> bool:
        found = numeric(value)
        if found is None or _kind(found) not in kinds:
            return False
        if shape == "same" and found.shape != np.shape(valid):
            return False
        if shape == "last" and (not found.ndim or found.shape[-1] != np.shape(valid)[-1]):
            return False
        if shape == "broadcast" and not _broadcasts(found.shape, np.shape(valid)):
            return False
        if not (math.isfinite(low) or math.isfinite(high)):
            return True
        return bool(np.all((found >= low) & (found <= high))) if _kind(found) in "fi" else True

    return Kind(fits, traced=not whole)


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    least: bool = True,
    most: bool = True,
    axes: bool = False,
) -> Kind:
    """A real number, also in an array without axes; `axes`: whether arrays may be fine. Ends count
    if `least`, `most`.
    """

    def fits(value: Any, valid: Any) -> bool:
        found = numeric(value)
        if found is None or isinstance(value, Sequence) or _kind(found) not in "fi":
            return False
        if found.ndim and not axes:
            return False
        above = found >= low if least else found > low
        return bool(
            np.all(
                above & (found <= high if most else found < high) & np.isfinite(found.astype(float))
            )
        )

    return Kind(fits, traced=True)


def known(kind: Kind) -> Kind:
    """The same, but not traced."""
    return dataclasses.replace(kind, traced=False)


def integer(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A known integer from `low` to `high`."""

    def fits(value: Any, valid: Any) -> bool:
        if isinstance(value, (bool, np.bool_)) or (
            isinstance(value, (jax.Array, np.ndarray)) and value.dtype == bool
        ):
            return False
        try:
            return low <= operator.index(value) <= high
        except TypeError:
            return False

    return Kind(fits)


def integers(low: int, high: int, *, count: int | None = None) -> Kind:
    """Several known integers, in a sequence or an array."""

    def fits(value: Any, valid: Any) -> bool:
        if isinstance(value, (str, bytes, Mapping)) or not np.iterable(value) or _is_key(value):
            return False
        try:
            entries = list(value)
        except TypeError:
            return False
        return (count is None or len(entries) == count) and all(
            integer(low, high).fits(entry, 0) for entry in entries
        )

    return Kind(fits)


def axis(ndim: int) -> Kind:
    """The number of one of `ndim` axes."""
    return integer(-ndim, ndim - 1)


def choice(*names: Any) -> Kind:
    """One of the names."""
    return Kind(lambda value, valid: isinstance(value, str) and value in names)


def instance(*types: type) -> Kind:
    """An object of one of these classes."""
    return Kind(lambda value, valid: isinstance(value, types))


def pair(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Two numbers, the least first."""

    def fits(value: Any, valid: Any) -> bool:
        found = numeric(value)
        if found is None or found.shape != (2,) or _kind(found) not in "fi":
            return False
        return bool(low <= found[0] <= found[1] <= high and np.isfinite(found).all())

    return Kind(fits)


def _kind(found: np.ndarray[Any, Any]) -> str:
    if jnp.issubdtype(found.dtype, jnp.floating):
        return "f"
    return {"u": "i"}.get(found.dtype.kind, found.dtype.kind)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_one_key(value: Any, valid: Any) -> bool:
    if _is_key(value):
        return value.ndim == 0
    return (
        isinstance(value, (jax.Array, np.ndarray))
        and value.dtype == np.uint32
        and value.shape in ((2,), (4,))
    )


def _is_flag(value: Any, valid: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (
        isinstance(value, (jax.Array, np.ndarray)) and value.dtype == bool and value.ndim == 0
    )


def _is_spec(value: Any, valid: Any) -> bool:
    return value is None or (isinstance(value, (PartitionSpec, tuple, list)) and not any(value))


FLAG = Kind(_is_flag)
KEY = Kind(_is_one_key, traced=True)
KEYS = Kind(lambda value, valid: _is_key(value) and value.ndim == 1, traced=True)
SPEC = Kind(_is_spec)
TEXT = instance(str)
CALLABLE = Kind(lambda value, valid: callable(value))
ANYTHING = Kind(lambda value, valid: True, traced=True)
PARAMETER = Kind(
    lambda v, valid: number().fits(v, valid) or array("f", shape="broadcast").fits(v, valid),
    traced=True,
)
RATE = number(0, 1, axes=True)
ONE_RATE = number(0, 1)
RNGS = Kind(lambda value, valid: value is None or isinstance(value, (nnx.Rngs, nnx.RngStream)))
SOURCE = Kind(
    lambda value, valid: RNGS.fits(value, valid) or _is_one_key(value, valid), traced=True
)
