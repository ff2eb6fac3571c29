"""The words of jaxdrop's generator in the orders in which dropout uses it, drawn by JAX.

`orders.h` draws the same words in C, many times as fast: the batteries read that, once it is found
to agree with this. Each order is a function of (seed, number of a chunk of `CHUNK` words).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxdrop
from jaxdrop import random
from jaxdrop.random import _words

CHUNK = 2**22
SITE, ROW = 4096, 768

Order = Callable[[jax.Array, jax.Array], jax.Array]


def _stream(seed: jax.Array, index: jax.Array) -> jax.Array:
    """One long stream, past 2**32 entries."""
    return _chunk(jaxdrop.key(seed), index)


def _short_keys(seed: jax.Array, index: jax.Array) -> jax.Array:
    """A fresh derived key every 4096 entries."""
    return jax.vmap(lambda key: random.bits(key, (SITE,)))(_fresh(seed, index, CHUNK // SITE))


def _fold_in(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Entry by entry over the keys fold_in(k, 0), fold_in(k, 1), ..., fold_in(k, 8191)."""
    return _interleaved(_fresh(seed, 0, 8192), index)


def _seeds(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Entry by entry over the seeds 0, 1, ..., 65535."""
    return _interleaved(
        jax.vmap(jaxdrop.key)(seed * 65536 + jnp.arange(65536, dtype=jnp.uint32)), index
    )


def _transposed(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Down the columns of arrays of 65536 x 65536, a key for each."""
    columns = CHUNK >> 16
    (key,) = _fresh(seed, index // (2**16 // columns), 1)
    place = 0, index % (2**16 // columns)
    return random.bits(key, (2**16, columns), origin=place, global_shape=(2**16, 2**16)).T


def _rows(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of 768 entries, each of the key of a training step."""
    step, column = divmod(index * (CHUNK % ROW), ROW)  # index * CHUNK may exceed 2**32
    steps = index * (CHUNK // ROW) + step + jnp.arange(CHUNK // ROW + 2, dtype=jnp.uint32)
    rows = jax.vmap(lambda step: random.bits(jaxdrop.step_key(jaxdrop.key(seed), step), (ROW,)))(
        steps
    )
    return jax.lax.dynamic_slice(rows.ravel(), (column,), (CHUNK,))


def _low_bits(seed: jax.Array, index: jax.Array) -> jax.Array:
    """The low 8 of each entry's 32 bits."""
    return _chunk(jaxdrop.key(seed), index, 4 * CHUNK).astype(jnp.uint8)


def _high_bits(seed: jax.Array, index: jax.Array) -> jax.Array:
    """The 8 bits that an 8-bit draw gets."""
    return _chunk(jaxdrop.key(seed), index, 4 * CHUNK, bit_width=8)


def _masks(seed: jax.Array, index: jax.Array) -> jax.Array:
    """The keep masks of rate 0.5 of sites of 4096 entries, a key for each, an entry a bit."""
    keep = jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones(SITE), 0.5) > 0)(
        _fresh(seed, index, 32 * CHUNK // SITE)
    )
    return jnp.packbits(keep, bitorder="little")


def _stratified(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Sample 3 of 10, a stratified set, as one stream."""
    return _chunk(jaxdrop.mc.keys(jaxdrop.key(seed), 10)[3], index)


def _pairs(seed: jax.Array, index: jax.Array) -> jax.Array:
    """Samples 3 and 11 of 17: which of the 17 intervals of length 1/17 the one falls into, and
    which of the other 16 the other. Of the 272 numbers that this makes, those below 256, as bytes.

    A fresh key every 4096 entries, and 69 keys for each 2**18 bytes, a few more than these take.
    """
    bytes_, keys = 2**18, 69

    def pair(key: jax.Array) -> jax.Array:
        samples = jaxdrop.mc.keys(key, 17)[jnp.array([3, 11])]
        bits = jax.vmap(lambda key: random.bits(key, (SITE,)))(samples)
        one, other = _words.multiply_high(bits, jnp.uint32(17))
        return 16 * one + other - (other > one).astype(jnp.uint32)

    def block(keys: jax.Array) -> jax.Array:
        numbers = jax.vmap(pair)(keys).ravel()
        (taken,) = jnp.nonzero(numbers < 256, size=bytes_)
        return numbers[taken].astype(jnp.uint8)

    blocks = 4 * CHUNK // bytes_
    fresh = _fresh(seed, index, blocks * keys).reshape(blocks, keys)
    return jax.lax.map(block, fresh)


def _fresh(seed: jax.Array, index: jax.Array | int, number: int) -> jax.Array:
    """Chunk `index` of the keys fold_in(k, 0), fold_in(k, 1), ..., `number` in a chunk."""
    numbers = index * number + jnp.arange(number, dtype=jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, jaxdrop.key(seed)))(numbers)


def _interleaved(keys: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: _chunk(key, index, CHUNK // len(keys)), out_axes=1)(keys)


def _chunk(key: jax.Array, index: jax.Array, length: int = CHUNK, bit_width: int = 32) -> jax.Array:
    return random.bits(
        key, (1, length), bit_width=bit_width, origin=(index, 0), global_shape=(2**24, length)
    )[0]


ORDERS: dict[str, Order] = {
    "stream": _stream,
    "short-keys": _short_keys,
    "fold-in": _fold_in,
    "seeds": _seeds,
    "transposed": _transposed,
    "rows": _rows,
    "low-bits": _low_bits,
    "high-bits": _high_bits,
    "masks": _masks,
    "stratified": _stratified,
    "pairs": _pairs,
}
