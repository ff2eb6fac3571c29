"""What is known of a value of a program in which dropout is random."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

Array = Any


UNKNOWN = float("nan")
"""Stands for the number of values that a word can take, where that number is not known."""


@dataclasses.dataclass
class Hidden:
    """A key, or random words: a value that depends on the key.

    Attributes:
      shape, dtype: those of the value.
      name: a number that equal values share.
      count: how many values a word can take, each equally likely.
      set_bits: the constant that was joined to the words by `or`, as when a float is made of them.
      value: its value for one key, if masks are drawn; usually it is never computed.
      order: the axis along which the values are 0, 1, 2... in random order, each order equally
        likely; None if they are not.
    """

    shape: tuple[int, ...]
    dtype: Any
    name: int
    count: float = UNKNOWN
    set_bits: int | None = None
    value: Array = None
    order: int | None = None


@dataclasses.dataclass
class Uniform:
    """`low + (high - low) u` with u uniform in [0, 1), independent in each entry.

    Attributes:
      shape: that of the value.
      name: a number that equal values share.
      low, high: numbers, or arrays of the shape of the value.
      value: its value for one key, if masks are drawn.
    """

    shape: tuple[int, ...]
    name: int
    low: Array
    high: Array
    value: Array = None


@dataclasses.dataclass
class Coin:
    """Random booleans, independent, or exactly so many along an axis.

    Attributes:
      name: a number that equal coins share.
      true: the probability of each, an array of their shape.
      root: the coins as they were drawn, before entries were moved or repeated.
      number: how many coins the program draws before; None of coins that it does not draw.
      used: whether an array of numbers depends on them.
      value: the booleans for one key, if masks are drawn.
      fixed: the axis along which a fixed number are true, all sets of so many equally likely; None
        if they are independent.
    """

    name: int
    true: Array
    root: Coin | None = None
    number: int | None = None
    used: bool = False
    value: Array = None
    fixed: int | None = None

    def apart(self, parts: Array) -> Array:
        """Independent parts, one for each entry along the last axes, as coins covary: each of two
        coins, of which a fixed number of n are true, has the correlation `-1 / (n - 1)` with the
        other.
        """
        if self.fixed is None:
            return parts
        axis = self.fixed - self.true.ndim
        return (parts - parts.mean(axis, keepdims=True)) * self.spread

    @property
    def spread(self) -> float:
        """What scales the parts, less their mean, to the variance of a coin."""
        number = 0 if self.fixed is None else self.true.shape[self.fixed]
        return math.sqrt(number / (number - 1)) if number > 1 else 1.0


@dataclasses.dataclass
class Nodes:
    """A random variable for each entry, as K values with weights.

    Attributes:
      name: a number that equal variables share.
      weights: of shape (K,).
      standard: the values, less their mean and over their standard deviation, of shape (K,).
      origin: the value that it stands for, matched in its moments; None if it is a draw.
    """

    name: int
    weights: np.ndarray
    standard: np.ndarray
    origin: Moments | None = None


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of one value.

    Attributes:
      name: a number that equal functions share.
      of: the value.
    """

    name: int
    of: Moments


@dataclasses.dataclass
class Points:
    """An elementwise function of one random variable for each entry.

    Attributes:
      base: the variable.
      values: the function at each value of the variable, which are False and True for coins; of
        shape (K, *shape).
      moments: the mean and variance, once they were needed, or if a closed form gave them.
      tag: where it comes from.
      functions: the function by its name, where it has one: of the variable, and of values that are
        linear in it.
    """

    base: Coin | Nodes
    values: Array
    moments: Moments | None = None
    tag: Tag | None = None
    functions: tuple[Function, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    @property
    def dtype(self) -> Any:
        return self.values.dtype


@dataclasses.dataclass
class Moments:
    """A random array of which mean and variance of each entry are known, taken to be normal. A
    boolean is 0 or 1.

    Attributes:
      mean, variance: of each entry.
      points: the same at the nodes of a normal variable, once they were needed.
      tag: where it comes from.
    """

    mean: Array
    variance: Array
    points: Points | None = None
    tag: Tag | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    @property
    def dtype(self) -> Any:
        return self.mean.dtype


@dataclasses.dataclass(frozen=True)
class Tag:
    """Where a value comes from, as far as a later operation asks for it.

    Attributes:
      kind: "exp" or "max", of `source`; or "sum", of `source` along `axes`.
      axes: that of the source, along which one value serves.
      instead: where another number was put in place of a sum, as booleans, and these numbers.
    """

    kind: str
    source: Any
    axes: tuple[int, ...] = ()
    instead: tuple[Array, Array] | None = None


Random = Hidden | Uniform | Points | Moments


def is_random(value: Any) -> bool:
    """Whether a value of the interpreter is no array."""
    return isinstance(value, Random)


# Exact for polynomials of degree 15. At a corner, such as that of a ReLU, the mean is off by up to
# .04 of the standard deviation, above or below, depending on where between two nodes it lies.
_AT, _WEIGHTS = np.polynomial.hermite_e.hermegauss(8)
_DRAWN = 256


def normal_nodes(name: int, origin: Moments) -> Nodes:
    """A normal variable with the moments of a value."""
    return Nodes(name, _WEIGHTS / _WEIGHTS.sum(), _AT, origin)


def uniform_nodes(name: int) -> tuple[Nodes, np.ndarray]:
    """A variable uniform in [0, 1), and its values: the middles of equal intervals."""
    at = (np.arange(_DRAWN) + 0.5) / _DRAWN
    standard = (at - at.mean()) / at.std()
    return Nodes(name, np.full(_DRAWN, 1 / _DRAWN), standard), at


def real(x: Array) -> Array:
    """An array in the dtype in which moments are computed: float32 at least."""
    return jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))


def along_entries(vector: np.ndarray, like: Array) -> Array:
    """A vector of K numbers as an array that broadcasts to (K, *shape)."""
    return jnp.asarray(vector, like.dtype).reshape((-1,) + (1,) * (like.ndim - 1))
