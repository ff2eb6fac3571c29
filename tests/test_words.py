"""Numbers of two words, and the positions made of them, against Python's integers."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export

from jaxdrop import _lengths
from jaxdrop.random import _positions, _words

WORD = _words.WORD
EDGES = [0, 1, 2, 0xFFFF, 0x10000, 0x10001, 2**31 - 1, 2**31, WORD - 2, WORD - 1]

word = st.integers(0, WORD - 1) | st.sampled_from(EDGES)
words = st.lists(word, min_size=8, max_size=8)
long = st.integers(0, WORD**2 - 1) | st.sampled_from([WORD - 1, WORD, WORD + 1, WORD**2 - 1])


def _array(values: list[int]) -> jnp.ndarray:
    return jnp.asarray(np.array(values, np.uint32))


def _pair(values: list[int]) -> tuple[jnp.ndarray, jnp.ndarray]:
    return _array([value // WORD for value in values]), _array([value % WORD for value in values])


def _numbers(pair: tuple[jnp.ndarray, jnp.ndarray]) -> list[int]:
    assert pair[0].dtype == pair[1].dtype == jnp.uint32
    high, low = (np.asarray(part, np.uint64).tolist() for part in pair)
    return [h * WORD + x for h, x in zip(high, low, strict=True)]


@given(words, words)
def test_multiply_high(a: list[int], b: list[int]) -> None:
    assert _words.multiply_high(_array(a), _array(b)).tolist() == [
        x * y // WORD for x, y in zip(a, b, strict=True)
    ]


@given(words, long)
def test_multiply_wide(a: list[int], b: int) -> None:
    assert _numbers(_words.multiply_wide(_array(a), b)) == [x * b % WORD**2 for x in a]


@pytest.mark.parametrize("x64", [False, True])
def test_words_of_an_array(x64: bool) -> None:
    """What a symbolic length is: of 64 bits, if JAX has them."""
    with jax.enable_x64(x64):
        numbers = [edge for edge in (*EDGES, 3 * WORD + 7) if x64 or edge < 2**31]
        values = jnp.asarray(np.array(numbers, np.int64 if x64 else np.int32))
        assert _numbers(_words.words_of(values)) == numbers


@given(st.lists(long, min_size=8, max_size=8), st.lists(long, min_size=8, max_size=8))
def test_add_wide(a: list[int], b: list[int]) -> None:
    assert _numbers(_words.add_wide(_pair(a), _pair(b))) == [
        (x + y) % WORD**2 for x, y in zip(a, b, strict=True)
    ]


def test_a_symbolic_length_is_long_unless_its_constraints_say_otherwise() -> None:
    (b,) = export.symbolic_shape("b")
    (short,) = export.symbolic_shape("b", constraints=["b <= 1024"])
    assert not _lengths.at_most(b, WORD)
    assert _lengths.at_most(8 * short, WORD)
    assert not _lengths.is_known(short)


@st.composite
def entries(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """A global shape of up to 2**64 entries, and the coordinates of four of them."""
    global_shape: list[int] = []
    room = WORD**2
    for _ in range(draw(st.integers(0, 4))):
        most = max(1, 2 ** draw(st.integers(0, room.bit_length() - 1)))
        global_shape.append(draw(st.integers(1, most) | st.just(most)))
        room //= global_shape[-1]
    places = [
        tuple(draw(st.integers(0, length - 1) | st.just(length - 1)) for length in global_shape)
        for _ in range(4)
    ]
    return tuple(global_shape), places


@given(entries())
def test_positions_are_row_major(case: tuple[tuple[int, ...], list[tuple[int, ...]]]) -> None:
    global_shape, places = case
    axes = [list(axis) for axis in zip(*places, strict=True)]
    coordinates = [
        _pair(axis) if length > WORD else _array(axis)
        for axis, length in zip(axes, global_shape, strict=True)
    ]
    found = _positions.linear(coordinates, global_shape)
    high, low = found.high, jnp.broadcast_to(found.low, (4,))
    assert (high is None) == (math.prod(global_shape) <= WORD)
    if found.inner is not None:  # what makes it stand apart, for `hash_bits`
        assert not np.any((found.outer & found.inner) | (found.inner >> _positions.SHIFT))
    high = jnp.zeros_like(low) if high is None else jnp.broadcast_to(high, (4,))
    strides = [math.prod(global_shape[axis + 1 :]) for axis in range(len(global_shape))]
    assert _numbers((high, low)) == [
        sum(c * s for c, s in zip(place, strides, strict=True)) for place in places
    ]


def test_the_last_of_2_to_the_64_positions() -> None:
    last = [_array([WORD - 1])] * 2
    found = _positions.linear(last, (WORD, WORD))
    assert _numbers((found.high, found.low)) == [WORD**2 - 1]


def test_the_column_in_a_row_stands_apart_where_no_shift_reaches_it() -> None:
    """Then most of the first step of a generator is done once for each row."""
    row, column = (jax.ShapeDtypeStruct(shape, jnp.uint32) for shape in ((8, 1), (1, 8)))
    for length, apart in ((8, True), (2**17, True), (2**18, False), (12, False)):
        found = jax.eval_shape(
            functools.partial(_positions.linear, global_shape=(2**10, length)), (row, column)
        )
        assert (found.inner is not None) == apart, length
        assert not apart or (found.outer.shape, found.inner.shape) == ((8, 1), (1, 8))


def test_too_many_positions() -> None:
    with pytest.raises(ValueError, match=r"more than 2\*\*64 entries"):
        _positions.grid((1, 1), global_shape=(2**40, 2**25))
