"""The quality of the hash generator, in the orders in which dropout uses it and in every way in
which two masks may be close.

Keys are fixed. Were they drawn anew, ideal bits would fail this file with a probability below 1e-4:
each of its fewer than 100 p-values is held against 1e-6. Known bad generators have to fall below
that, so that the checks are known to work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import random
from jaxdrop.random import _generators
from jaxdrop.random._positions import Positions
from scripts.batteries.orders import ORDERS
from tests import statistics
from tests.compilation import OPTIMIZED

pytestmark = pytest.mark.sweep

LEVEL = 1e-6

WORD = 2**32


def _keys(numbers: jax.Array) -> jax.Array:
    return jax.vmap(jaxdrop.key)(numbers)


def _folded(numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda number: jax.random.fold_in(jaxdrop.key(10), number))(numbers)


def _bits(keys: jax.Array, length: int) -> np.ndarray:
    """The first bits of each key, of shape (keys, length)."""
    return np.asarray(jax.jit(jax.vmap(lambda key: random.bits(key, (length,))))(keys))


def _keep(bits: np.ndarray) -> np.ndarray:
    return bits < np.uint32(2**31)


def _words(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, WORD, shape, dtype=np.uint32)


def _order(name: str) -> dict[str, float]:
    bits = np.asarray(
        jax.jit(lambda *place: ORDERS[name](*place))(jnp.uint32(0), jnp.uint32(0))
    )  # a lambda, to trace anew when patched
    return statistics.battery(bits.ravel()[: 2**20])


def _neighbouring_keys(make: Callable[[jax.Array], jax.Array]) -> dict[str, float]:
    """Keys of the numbers 0, 1, 2, ...: how their bits change from one to the next, and what the
    masks of any two share.
    """
    bits = _bits(make(jnp.arange(2048)), 4096)
    return {
        "flips": statistics.flips((bits[1:] ^ bits[:-1]).reshape(1, -1)),
        "rows": statistics.rows(_keep(bits[:, :512])),
        "collisions": statistics.collisions(bits),
        "gaps from key to key": statistics.gaps(bits.T),
        "maxima from key to key": statistics.maxima(bits.T),
    }


def _raw_words() -> dict[str, float]:
    """Keys that differ in one bit of one raw word."""
    impl = jax.random.key_impl(jaxdrop.key(0))
    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)[:, None]
    near = (_words(0, 16, 2).view(np.uint64).T ^ bit).reshape(-1, 1).view(np.uint32)
    bits = _bits(jax.random.wrap_key_data(near, impl=impl), 4096).reshape(64, 16, 4096)
    changes = bits[:-1] ^ bits[1:]
    return {
        "flips": statistics.flips(changes.reshape(63, -1)),
        "collisions": statistics.collisions(bits),
    }


def _positions() -> dict[str, float]:
    """Positions that differ in one of their 64 bits, and blocks whose positions differ in the high
    word alone.
    """
    draw = jax.jit(lambda high, low: random.bits_at(jaxdrop.key(11), (high, low), (WORD, WORD)))
    high, low = _words(1, 1, 4096), _words(2, 1, 4096)
    bit = np.uint32(1) << np.arange(32, dtype=np.uint32)[:, None]
    blocks = np.asarray(
        draw(np.arange(2048, dtype=np.uint32)[:, None], np.arange(4096, dtype=np.uint32)[None])
    )
    return {
        "flips of high": statistics.flips(
            np.asarray(draw(high ^ bit, low)) ^ np.asarray(draw(high, low))
        ),
        "flips of low": statistics.flips(
            np.asarray(draw(high, low ^ bit)) ^ np.asarray(draw(high, low))
        ),
        "rows of blocks": statistics.rows(_keep(blocks[:, :512])),
        "collisions of blocks": statistics.collisions(blocks),
    }


def _rows(length: int) -> dict[str, float]:
    """The masks of the rows of one array, and of its columns."""
    key = jaxdrop.key(length)
    along = random.bits(key, (2048, 256), global_shape=(2048, length))
    down = random.bits(key, (256, 1024), global_shape=(2048, max(length, 1024))).T
    return {
        name: statistics.rows(_keep(np.asarray(bits)))
        for name, bits in (("rows", along), ("columns", down))
    }


def _plane(length: int) -> dict[str, float]:
    """A mask against itself, shifted along both axes by any number of entries up to half its
    size.
    """
    bits = np.asarray(
        random.bits(jaxdrop.key(length + 1), (512, 512), global_shape=(2**16, length))
    )
    return {
        str(rate): statistics.shifts((bits >= rate * WORD) - (1 - rate), rate * (1 - rate))
        for rate in (0.1, 0.5)
    }


def _repetitions() -> dict[str, float]:
    """How often words repeat in streams of 2**18, 2**20 and 2**22, and their spacings."""
    draw = jax.jit(lambda key, length: random.bits(key, (length,)), static_argnums=1)
    streams = {n: [np.asarray(draw(jaxdrop.key(20 + i), 2**n)) for i in range(100)] for n in (18,)}
    streams[20] = [np.asarray(draw(jaxdrop.key(200 + i), 2**20)) for i in range(16)]
    streams[22] = [np.asarray(draw(jaxdrop.key(300), 2**22))]
    samples = [jaxdrop.mc.keys(jaxdrop.key(400 + i), 10)[3] for i in range(4)]
    found = {
        f"collisions of {len(each)} streams of 2**{n}": statistics.total_collisions(each)
        for n, each in streams.items()
    }
    found["collisions of stratified samples"] = statistics.total_collisions(
        [np.asarray(draw(key, 2**20)) for key in samples]
    )
    years = np.concatenate([stream.reshape(-1, 2**12) for stream in streams[18]])
    return {**found, "spacings": statistics.birthday_spacings(years)}


@functools.partial(jax.jit, static_argnums=(1, 2), compiler_options=OPTIMIZED)
def _counts(key: jax.Array, blocks: int, length: int) -> jax.Array:
    """How many entries a mask keeps in each column of an array of so many blocks, at rates 0.9, 0.5
    and 0.1: (3, length). A sum over a loop, since XLA vectorizes no sum along an axis.
    """

    def add(index: jax.Array, counts: list[jax.Array]) -> list[jax.Array]:
        bits = random.bits(key, (1, length), origin=(index, 0), global_shape=(blocks, length))[0]
        kept = [bits < np.uint32(part * WORD) for part in KEPT]
        return [count + one.astype(jnp.uint32) for count, one in zip(counts, kept, strict=True)]

    counts = jax.lax.fori_loop(0, blocks, add, [jnp.zeros(length, jnp.uint32)] * len(KEPT))
    return jnp.stack(counts)


KEPT = (0.1, 0.5, 0.9)


def _number_kept() -> dict[str, float]:
    """The number that a mask keeps, over 2**22 positions of many keys."""
    keys = jax.random.split(jaxdrop.key(21), 32)
    counts = np.stack([np.asarray(_counts(key, 2**8, 2**14), np.int64).sum(1) for key in keys])
    return {
        f"at {1 - part:.1f}": statistics.binomial_counts(counts[:, index], 2**22, part)
        for index, part in enumerate(KEPT)
    }


def _equal_second_words() -> dict[str, float]:
    """Two keys whose second spread words agree, the one's positions moved to the other's."""
    first, other, second = _words(3, 3, 64, 1)
    low = _words(4, 1, 4096)
    draw = jax.jit(lambda *args: _generators.hash_bits(args[:2], Positions(None, args[2])))
    bits, others = draw(first, second, low), draw(other, second, low ^ first ^ other)
    return {
        "flips": statistics.flips(np.asarray(bits ^ others).reshape(1, -1)),
        "collisions": statistics.collisions(np.stack([bits, others])),
        "masks": statistics.rows(_keep(np.concatenate([bits, others])[:, :512])),
    }


CHECKS: dict[str, Callable[[], dict[str, float]]] = {
    **{f"order {name}": lambda name=name: _order(name) for name in ORDERS if name != "pairs"},
    "seeds": lambda: _neighbouring_keys(_keys),
    "fold_in": lambda: _neighbouring_keys(_folded),
    "raw words": _raw_words,
    "positions": _positions,
    "repetitions": _repetitions,
    "number kept": _number_kept,
    "equal second words": _equal_second_words,
    **{
        f"rows of {length}": lambda length=length: _rows(length)
        for length in (256, 1000, 2**16, 2**24)
    },
    **{
        f"plane of {length}": lambda length=length: _plane(length)
        for length in (512, 1000, 2**16, 2**20)
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_looks_random(name: str) -> None:
    odd = {part: p for part, p in CHECKS[name]().items() if p < LEVEL}
    assert not odd


Words = tuple[jax.Array, jax.Array]

_hash_bits = _generators.hash_bits


def _one_round(words: Words, positions: Positions) -> jax.Array:
    x = (positions.low ^ words[0]) + words[1]
    return (x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D)


def _one_word(words: Words, positions: Positions) -> jax.Array:
    return _permutation((words[0] + words[1], jnp.uint32(0)), positions)


def _low_position(words: Words, positions: Positions) -> jax.Array:
    return _hash_bits(words, Positions(None, positions.low))


def _period(words: Words, positions: Positions) -> jax.Array:
    return _hash_bits(words, Positions(positions.high, positions.low % np.uint32(2**16)))


def _unspread(key: Words, lane: int) -> Words:
    return key


def _permutation(words: Words, positions: Positions) -> jax.Array:
    return _generators._mix(_shifted(words, positions), np.uint32(0), words[1])[1]


def _first_word_once(words: Words, positions: Positions) -> jax.Array:
    moved, mixed = _generators._mix(_shifted(words, positions), np.uint32(0), words[1])
    return mixed + moved


def _fed_from_the_second_product(words: Words, positions: Positions) -> jax.Array:
    """Two products, as hashes of 32 bits that are in use have them."""
    x = _shifted(words, positions) * np.uint32(0xED5AD4BB)
    y = (x ^ (x >> np.uint32(15))) * np.uint32(0xAC4C1B51) + words[1]
    return (y ^ (y >> np.uint32(14))) + x


def _direction_of_the_offset(
    words: Words, salt: jax.Array, point: _generators.LatticePoint, positions: Positions
) -> jax.Array:
    """A lattice whose direction is a function of the offset: some words come twice as often."""
    offset = _hash_bits(words, positions)
    draw = (offset ^ (offset >> np.uint32(15))) * np.uint32(0x2C1B3C6D) + salt
    draw = ((draw ^ (draw >> np.uint32(12))) * np.uint32(0x297A2D39)) >> np.uint32(16)
    a = np.uint32(1) + ((draw * (point.prime - np.uint32(1))) >> np.uint32(16))
    return offset * point.inverse + a * point.high + ((a * point.low) >> np.uint32(16))


def _shifted(words: Words, positions: Positions) -> jax.Array:
    x = positions.low ^ words[0]
    return x ^ (x >> np.uint32(17))


BAD: dict[str, tuple[dict[str, Callable[..., object]], list[str]]] = {
    "one round": (
        {"hash_bits": _one_round},
        [f"order {order}" for order in ORDERS if order not in ("masks", "stratified", "pairs")]
        + ["positions", "rows of 256", "plane of 512", "plane of 65536"],
    ),
    "no spread": ({"spread": _unspread}, ["raw words"]),
    "no spread, one word": (
        {"spread": _unspread, "hash_bits": _one_word},
        ["order seeds", "seeds", "raw words"],
    ),
    "permutation": ({"hash_bits": _permutation}, ["repetitions"]),
    "direction of the offset": ({"lattice_bits": _direction_of_the_offset}, ["repetitions"]),
    "first word once": ({"hash_bits": _first_word_once}, ["equal second words"]),
    "two products": ({"hash_bits": _fed_from_the_second_product}, ["order stream"]),
    "low position": ({"hash_bits": _low_position}, ["positions", "rows of 16777216"]),
    "period": (
        {"hash_bits": _period},
        ["order stream", "order transposed", "rows of 65536", "plane of 65536", "plane of 512"],
    ),
}


@pytest.mark.parametrize(
    ("bad", "name"), [(bad, name) for bad, (_, names) in BAD.items() for name in names]
)
def test_notices_a_bad_generator(monkeypatch: pytest.MonkeyPatch, bad: str, name: str) -> None:
    _counts.clear_cache()
    for part, replacement in BAD[bad][0].items():
        monkeypatch.setattr(_generators, part, replacement)
    p = CHECKS[name]()
    print(bad, name, p)
    assert min(p.values()) < LEVEL


def test_notices_a_congruential_generator() -> None:
    values = np.cumprod(np.full(2**20, 1664525, np.uint32), dtype=np.uint32)
    p = statistics.battery(values.astype(np.uint8))
    print(p)
    assert max(p.values()) < LEVEL
