"""Counter-based generators: (key words, position) -> 32 random bits, as plain uint32 arithmetic.

Nothing here loops, stores or knows about JAX keys, so XLA fuses every generator into whatever uses its bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop._positions import Positions
from jaxdrop._words import WORD, multiply_high

Words = tuple[jax.Array, jax.Array]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry(key: Words, count: tuple[jax.Array, jax.Array]) -> Words:
    """Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    `jax.random` runs the same function; on CPU it is lowered to a loop there, which cannot be fused.
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
    """Two words that share nothing visible with the key's own, which may be as plain as (0, 1): a three-round Feistel network.

    Different keys give different pairs. Lanes give unrelated pairs.
    """
    left, right = key
    for step in range(3):
        constant = np.uint32((3 * lane + step + 1) * 0x9E3779B9 % WORD)
        left, right = right, left ^ _triple32(right, constant)
    return left, right


def hash_bits(words: Words, positions: Positions) -> jax.Array:
    """A keyed hash of the position: 32 bits from 14 integer operations.

    One word of the key moves the position, the other enters in the middle of the mixer. `words` must be `spread`: two keys whose
    words differ in a bit only permute each other's positions.
    """
    first, second = words
    if positions.high is not None:
        first = first ^ (positions.high * np.uint32(0x9E3779B1))
        second = second + positions.high * np.uint32(0x85EBCA77)
    return _triple32(positions.low ^ first, second)


def _triple32(x: jax.Array, middle: jax.Array | np.uint32) -> jax.Array:
    """A permutation of the words for each `middle`.

    The constants are those of triple32 (Wellons, hash-prospector, 2018), whose avalanche bias is at the floor of what can be
    measured over all 2**32 inputs. `middle` joins after the second of its three products: after the first it would only shift a
    counter, and the streams of two keys would overlap.
    """
    x = (x ^ (x >> np.uint32(17))) * np.uint32(0xED5AD4BB)
    x = (x ^ (x >> np.uint32(11))) * np.uint32(0xAC4C1B51) + middle
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB)
    return x ^ (x >> np.uint32(14))


_SHUFFLE_ROUNDS = 8


def stratified_bits(lanes: tuple[Words, Words, Words], index: jax.Array, count: jax.Array, positions: Positions) -> jax.Array:
    """The bits of sample `index` out of `count`: over all samples, one value in each of `count` equal strata.

    At each position the samples visit the strata in an order of its own: a swap-or-not shuffle (Hoang, Morris & Rogaway,
    CRYPTO 2012, arXiv:1208.1176), which permutes any number of elements without a table, then a rotation that makes each single
    sample uniform. Inside its stratum a value is uniform.

    Args:
      lanes: spread words: two lanes for the positions, one for the shuffle's round keys.
      index: uint32 scalar in [0, count).
      count: uint32 scalar in [1, 65535].
      positions: the positions.
    """
    steps = jnp.arange(_SHUFFLE_ROUNDS, dtype=jnp.uint32)
    pivots = multiply_high(hash_bits(lanes[2], Positions(None, steps)), count)
    # Under vmap over samples, XLA would form all this again for every entry.
    lanes, pivots = lax.optimization_barrier((lanes, pivots))
    coin = hash_bits(lanes[0], positions)
    value = hash_bits(lanes[1], positions)
    stratum = index
    for step in range(_SHUFFLE_ROUNDS):
        pivot = pivots[step]
        partner = pivot - stratum
        partner = jnp.where(stratum > pivot, partner + count, partner)  # modulo count
        name = jnp.maximum(stratum, partner)  # both members of a pair must toss the same coin
        toss = (name * np.uint32(0x9E3779B1 + 2 * step)) ^ coin
        toss = (toss ^ (toss >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
        stratum = jnp.where(toss >> np.uint32(31) == 0, stratum, partner)
    stratum = stratum + multiply_high(value, count)
    stratum = jnp.where(stratum < count, stratum, stratum - count)
    # 2**32 / count = step + fraction / 2**16, in integers: the strata's edges are right to two parts in 2**32.
    step_size = np.uint32(0xFFFFFFFF) // count
    fraction = ((np.uint32(0) - step_size * count) << np.uint32(16)) // count
    edge = stratum * step_size + ((stratum * fraction) >> np.uint32(16))
    return edge + multiply_high(value * count, step_size)
