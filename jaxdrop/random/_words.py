"""Arithmetic on 32-bit words, for numbers that need two of them.

JAX has no 64-bit integers unless a global flag is set, so a position in an array of more than 2**32
entries is a pair (high word, low word), and products are formed from 16-bit halves by shifts,
additions and 32-bit products, which every backend vectorizes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop._lengths import is_known

Wide = tuple[jax.Array, jax.Array]
"""The high and the low word of numbers below 2**64."""

WORD = 2**32

_HALF = np.uint32(0xFFFF)
_16 = np.uint32(16)


def multiply_high(a: jax.Array, b: jax.Array | np.uint32) -> jax.Array:
    """`floor(a b / 2**32)` of two uint32 arrays: the high word of their product."""
    a0, a1 = a & _HALF, a >> _16
    b0, b1 = b & _HALF, b >> _16
    middle = a1 * b0 + ((a0 * b0) >> _16)
    other = a0 * b1 + (middle & _HALF)
    return a1 * b1 + (middle >> _16) + (other >> _16)


def multiply_wide(a: jax.Array, b: int | Wide) -> Wide:
    """`a b mod 2**64` as (high, low), for a uint32 array and a number below 2**64, given as such or
    as its two words.
    """
    high, low = words_of(b)
    return multiply_high(a, low) + a * high, a * low


def add_wide(a: Wide, b: Wide) -> Wide:
    """`a + b mod 2**64` of two (high, low) pairs."""
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(jnp.uint32), low


def words_of(number: Any) -> tuple[Any, Any]:
    """(high, low) of a number below 2**64: NumPy's numbers, or arrays for a symbolic length of
    `jax.export`.
    """
    if isinstance(number, tuple):
        return number
    if is_known(number):
        high, low = divmod(number, WORD)
        return np.uint32(high), np.uint32(low)
    # Of 64 bits if jax_enable_x64 is set. Otherwise JAX takes no length to exceed 31 bits.
    value = jnp.asarray(number)
    high = value >> 32 if value.dtype.itemsize > 4 else jnp.zeros_like(value)
    return high.astype(jnp.uint32), value.astype(jnp.uint32)


def times(a: Any, b: int) -> Any:
    """`a b`, as a Python integer if both are known, and otherwise `mod 2**64` as (high, low)."""
    if not isinstance(a, tuple) and is_known(a) and is_known(b):
        return a * b
    (high, low), (more, word) = words_of(a), words_of(b)
    return multiply_high(low, word) + high * word + low * more, low * word
