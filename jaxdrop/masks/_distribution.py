"""The distribution of a mask at a rate: the threshold below which bits are kept, and the scale of
kept values.
"""

from __future__ import annotations

import functools
import numbers
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _numerics
from jaxdrop._checks import Rate

T = TypeVar("T")

_GRID = 2**23
# From this keep probability on, 1 / (1 - rate) is off by less than 2**-19 because of the grid, and
# gives Flax's very values.
_FINE = 2.0**-4


class Distribution(NamedTuple):
    """The distribution of a mask.

    Attributes:
      threshold: the number of kept values among 2**23, uint32; of the shape of the rate.
      scale: the factor of kept entries, a real number; of the shape of the rate.
    """

    threshold: jax.Array | np.ndarray
    scale: jax.Array | np.ndarray


def is_number(rate: Rate, value: int) -> bool:
    """Whether a rate is one number that is known when the function is traced, and equal to `value`.
    At 0 and 1 nothing need be drawn.

    Args:
      rate: a rate, traced or not, of any shape.
      value: 0 or 1.

    Returns:
      A Python bool; False for a traced rate, and for a rate with axes.
    """
    if type(rate) is float:
        return rate == value
    if (
        isinstance(rate, jax.core.Tracer)
        or not isinstance(rate, (numbers.Real, jax.Array, np.ndarray))
        or np.ndim(rate)
    ):
        return False
    if jnp.issubdtype(getattr(rate, "dtype", np.dtype(float)), jax.dtypes.extended):
        return False
    # In NumPy: inside `jit`, JAX traces a comparison even of an array whose value is known.
    return bool(np.asarray(rate) == value)


def distribution(rate: float | jax.Array, dtype: Any = jnp.float32) -> Distribution:
    """The distribution of a mask at a rate: threshold `T = ceil((1 - rate) 2**23)` and scale
    `1 / (1 - rate)`.

    The keep probability is `T / 2**23` exactly. Above a rate of 15/16 the scale is the exact
    inverse of the keep probability; below, the scale is that of `1 - rate` itself, which agrees
    with the inverse to 2e-6. At rate 1 nothing is kept and the scale is 0. At rate NaN, which
    stands for an impossible traced rate, everything is kept and the scale is NaN.

    Args:
      rate: a float, or a floating array, in [0, 1] or NaN.
      dtype: the dtype of the array to be scaled. The scale is real, and float32 at least.

    Returns:
      The threshold and the scale, both of the shape of `rate`: NumPy's numbers for a float.
    """
    if isinstance(rate, float):
        return _known_distribution(rate, dtype)
    return _distribution(1 - rate.astype(jnp.finfo(_numerics.compute_dtype(dtype)).dtype), jnp)


def unit_scale(rate: float | jax.Array, dtype: Any = jnp.float32) -> jax.Array | np.ndarray:
    """The scale of a mask that does not rescale kept entries: 1, and NaN for an impossible rate.

    Args:
      rate: as in `distribution`.
      dtype: as in `distribution`.

    Returns:
      A real array of the shape of `rate`.
    """
    real = jnp.finfo(_numerics.compute_dtype(dtype)).dtype
    if isinstance(rate, float):
        return np.asarray(1, real)
    return jnp.where(jnp.isnan(rate), _nan(real), np.asarray(1, real))


def threshold(rate: float | jax.Array) -> jax.Array | np.ndarray:
    """The threshold of `distribution`, but 0 at rate NaN: it serves results that cannot be NaN,
    such as ids and masks, of which an impossible traced rate then keeps nothing.

    Args:
      rate: as in `distribution`.

    Returns:
      A uint32 array of the shape of `rate`.
    """
    kept = distribution(rate).threshold
    return kept if isinstance(rate, float) else jnp.where(jnp.isnan(rate), jnp.uint32(0), kept)


def nan_if_impossible(x: T, rate: float | jax.Array) -> T:
    """`x`, with NaN in place of its values if the rate is NaN, which stands for an impossible
    traced rate. It serves functions that do not multiply by the scale of `distribution`, which
    would bring the NaN along.

    Args:
      x: a pytree of arrays. Those of integers stay as they are.
      rate: as in `distribution`.

    Returns:
      A pytree like `x`.
    """
    if not isinstance(rate, jax.core.Tracer):
        return x

    def times_unit(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        factor = _numerics.expand(jnp.asarray(unit_scale(rate, leaf.dtype)), leaf.ndim)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            # By parts, because the complex product of an infinity with 1 is NaN.
            return lax.complex(leaf.real * factor, leaf.imag * factor)
        return leaf * factor.astype(leaf.dtype)

    return jax.tree.map(times_unit, x)


def _nan(dtype: Any) -> np.ndarray:
    """NaN as a constant of this dtype. Converting a NaN would be an operation that returns NaN, and
    `jax_debug_nans` stops at those.
    """
    return np.asarray(np.nan, dtype)


@functools.lru_cache(maxsize=1024)
def _known_distribution(rate: float, dtype: Any) -> Distribution:
    """The distribution at a known rate, cached, because its dozen NumPy calls take longer than
    an eager call of a jitted function.
    """
    found = _distribution(
        np.asarray(1.0 - rate, jnp.finfo(_numerics.compute_dtype(dtype)).dtype), np
    )
    for number in found:
        np.asarray(number).setflags(write=False)  # all callers share the cached arrays
    return found


def _distribution(keep_probability: Any, xp: Any) -> Distribution:
    threshold = xp.ceil(keep_probability.astype(np.float32) * np.float32(_GRID))
    threshold = xp.where(xp.isnan(threshold), np.float32(_GRID), threshold)
    exact = (threshold * np.float32(1 / _GRID)).astype(keep_probability.dtype)
    divisor = xp.where(keep_probability < _FINE, exact, keep_probability)
    none = threshold == 0
    zero, one = xp.zeros_like(keep_probability), xp.ones_like(keep_probability)
    scale = xp.where(none, zero, 1 / xp.where(none, one, divisor))
    return Distribution(threshold.astype(np.uint32), scale)
