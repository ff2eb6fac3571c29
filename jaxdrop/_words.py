"""Arithmetic on 32-bit words, for numbers that need two of them.

JAX has no 64-bit integers unless a global flag is set, so a position in an array of more than 2**32 entries is a pair (high
word, low word), and products are formed from 16-bit halves: shifts, additions and 32-bit products are what every backend
vectorises.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

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


def multiply_wide(a: jax.Array, b: int) -> tuple[jax.Array, jax.Array]:
    """`a b mod 2**64` as (high, low), for a uint32 array and a Python integer below 2**64."""
    high, low = divmod(b, WORD)
    return multiply_high(a, np.uint32(low)) + a * np.uint32(high), a * np.uint32(low)


def add_wide(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """`a + b mod 2**64` of two (high, low) pairs."""
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(jnp.uint32), low
