"""The hash of this library in NumPy: its definition, from which it can be written in any language.

All numbers are words of 32 bits, and arithmetic is modulo 2**32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]


def bits(key: tuple[int, int], positions: npt.ArrayLike) -> Words:
    """The bits of a key, of two words, at positions below 2**64: row-major indices of entries."""
    first, second = spread(key)
    index = np.asarray(positions, np.uint64)
    high, low = (index >> np.uint64(32)).astype(np.uint32), index.astype(np.uint32)
    first = first ^ high * np.uint32(0x9E3779B1)
    second = second + high * np.uint32(0x85EBCA77)
    t, mixed = mix(low ^ first, first, second)
    return mixed + t


def spread(key: tuple[int, int]) -> tuple[Words, Words]:
    """Two words for the positions, from those of a key."""
    left, right = np.array(key, np.uint32).reshape(2, 1)
    for step in (1, 2, 3):
        left, right = (
            right,
            left ^ mix(right, np.uint32(0), np.uint32(step * 0x9E3779B9 % 2**32))[1],
        )
    return left, right


def mix(x: Words, first: Words | np.uint32, second: Words | np.uint32) -> tuple[Words, Words]:
    """The first product of the mixer, and its result."""
    t = (x ^ x >> 17) * np.uint32(0xED5AD4BB)
    x = (t ^ t >> 11 ^ first) * np.uint32(0xAC4C1B51) + second
    x = (x ^ x >> 15) * np.uint32(0x31848BAB)
    return t, x ^ x >> 14
