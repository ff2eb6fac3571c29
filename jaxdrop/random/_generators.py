"""Counter-based generators: (key words, position) -> 32 random bits, as plain uint32 arithmetic.

Nothing here loops, stores or knows about JAX keys, so XLA fuses every generator into whatever uses
its bits.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxdrop.random._positions import SHIFT, Positions
from jaxdrop.random._words import WORD

Words = tuple[jax.Array, jax.Array]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry(key: Words, count: tuple[jax.Array, jax.Array]) -> Words:
    """Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy
    as 1, 2, 3", SC 2011).

    `jax.random` runs the same function; on CPU it is lowered to a loop there, which cannot be
    fused.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    a, b = count[0] + schedule[0], count[1] + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation)))
        a = a + schedule[(block + 1) % 3]
        b = b + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return a, b


def spread(key: Words, lane: int) -> Words:
    """Two words that share nothing visible with the key's own, which may be as plain as (0, 1): a
    three-round Feistel network.

    Different keys give different pairs. Lanes give unrelated pairs.
    """
    left, right = key
    for step in range(3):
        constant = np.uint32((3 * lane + step + 1) * 0x9E3779B9 % WORD)
        left, right = (
            right,
            left ^ _mix(right ^ (right >> np.uint32(SHIFT)), np.uint32(0), constant)[1],
        )
    return left, right


def hash_bits(words: Words, positions: Positions) -> jax.Array:
    """A keyed random function of the position: 32 bits from 15 integer operations.

    With `f, s = words`, the mixer is a permutation of the positions for each key,

        t = (x ^ (x >> 17)) * 0xED5AD4BB,            where  x = position ^ f
        u = (t ^ (t >> 11) ^ f) * 0xAC4C1B51 + s
        v = (u ^ (u >> 15)) * 0x31848BAB

    and `(v ^ (v >> 14)) + t` is not: `t` is fed forward from the first product to the result. A
    permutation would give each word once in 2**32 positions, where random words repeat: the first
    2**18 of them would hold no two equal words, where eight pairs are expected, and the number of
    kept entries would vary too little from key to key. `s` joins behind `t`, so that the words
    which all positions together give are others for each key. `f` joins twice, so that the streams
    of two keys with equal `s` are not the same stream from another position on.

    The constants are those of triple32 (Wellons, hash-prospector, 2018), whose avalanche bias is at
    the floor of what can be measured over all 2**32 inputs. `words` must be `spread`: two keys
    whose words differ in one bit have streams that resemble each other.
    """
    fed, mixed = _fed_and_mixed(words, positions)
    return mixed + fed


def _fed_and_mixed(words: Words, positions: Positions) -> tuple[jax.Array, jax.Array]:
    """The word `t` that `hash_bits` feeds forward, and `v ^ (v >> 14)`."""
    first, second = words
    if positions.high is not None:
        first = first ^ (positions.high * np.uint32(0x9E3779B1))
        second = second + positions.high * np.uint32(0x85EBCA77)
    # (low ^ first) ^ ((low ^ first) >> 17), with the key's part apart: it is one scalar for the
    # whole array, and a GPU joins two exclusive ors in one instruction. The column, `inner`, joins
    # last, so that everything before it can be computed once for each row.
    shift = np.uint32(SHIFT)
    outer, inner = positions.outer, positions.inner
    x = outer ^ (outer >> shift) ^ (first ^ (first >> shift))
    if inner is not None:
        x = x ^ inner
    return _mix(x, first, second)


def _mix(
    x: jax.Array, first: jax.Array | np.uint32, second: jax.Array | np.uint32
) -> tuple[jax.Array, jax.Array]:
    """Three products, `x` having been shifted once; the first product, and the last one shifted.

    `second` joins behind the second product: behind the first, it would only shift a counter, and
    the streams of two keys would overlap.
    """
    moved = x * np.uint32(0xED5AD4BB)
    x = (moved ^ (moved >> np.uint32(11)) ^ first) * np.uint32(0xAC4C1B51) + second
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB)
    return moved, x ^ (x >> np.uint32(14))


class LatticePoint(NamedTuple):
    """The place of one of S samples on a lattice, as uint32 scalars. The head of `_lattices.py`
    says why samples stand on lattices.

    Attributes:
      prime: the number of points p of its lattice, below 2**16.
      inverse: of p, modulo 2**32.
      high, low: `t / p` for the point's index t, `high / 2**32 + low / 2**48`.
      mirror: 0, or 2**32 - 1 in a lattice whose offset mirrors that of the other.
    """

    prime: jax.Array
    inverse: jax.Array
    high: jax.Array
    low: jax.Array
    mirror: jax.Array


def lattice_bits(
    words: Words, salt: jax.Array, point: LatticePoint, positions: Positions
) -> jax.Array:
    """`frac(b + a t / p)` as a word, with b in [0, 1) and a in {1, ..., p - 1} drawn for each
    position.

    Args:
      words: spread words, for the positions.
      salt: another word of the key's.
      point: which point of which lattice.
      positions: the positions.
    """
    fed, mixed = _fed_and_mixed(words, positions)
    offset = (mixed + fed) ^ point.mirror
    # p times this is `offset` modulo 2**32: b stands at `offset / 2**32` of its interval of length
    # 1 / p.
    b = offset * point.inverse
    # `a` needs bits of its own: were it a function of the offset alone, so would be the result, and
    # some words would come twice as often as others. `mixed` is independent of the offset, because
    # `fed` is, and it is there already. One key's share of an interval is right to 1e-5, over keys
    # exactly.
    draw = (mixed ^ (offset >> np.uint32(15))) * np.uint32(0x2C1B3C6D) + salt
    draw = ((draw ^ (draw >> np.uint32(12))) * np.uint32(0x297A2D39)) >> np.uint32(16)
    a = np.uint32(1) + ((draw * (point.prime - np.uint32(1))) >> np.uint32(16))
    return b + a * point.high + ((a * point.low) >> np.uint32(16))
