"""The key of a step: a function of (key, step, micro-batch, replica) that keeps its parts apart."""

from __future__ import annotations

import itertools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxdrop import step_key
from tests.catalogue import KEY, KEYS

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


def words(key: jax.Array) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@each_key
def test_no_two_keys_are_the_same(key: jax.Array) -> None:
    """Nor is one that which Flax derives, from the small numbers. By chance, with a probability of
    1e-15.
    """
    indices = [None, 0, 1, 2**32 - 1]
    keys = [
        step_key(key, step, micro_batch=micro_batch, replica=replica)
        for step, micro_batch, replica in itertools.product(indices[1:], indices, indices)
    ]
    flax = [jax.random.fold_in(key, index) for index in range(5)]
    assert len({words(jnp.asarray(key)) for key in [key, *flax, *keys]}) == 6 + len(keys)


@each_key
def test_traced_and_known_indices_give_the_same_key(key: jax.Array) -> None:
    expected = words(step_key(key, 7, micro_batch=1, replica=2))

    @jax.jit
    @chex.assert_max_traces(1)
    def traced(key: jax.Array, step: Any, micro_batch: Any, replica: Any) -> jax.Array:
        return step_key(key, step, micro_batch=micro_batch, replica=replica)

    chex.clear_trace_counter()
    assert words(traced(key, 7, 1, 2)) == expected
    assert words(traced(key, 8, 1, 2)) != expected
    for dtype in (np.int32, np.uint8, np.int64):
        assert (
            words(step_key(key, dtype(7), micro_batch=np.asarray(1), replica=jnp.uint32(2)))
            == expected
        )


def test_the_formula() -> None:
    def named(key: jax.Array, name: bytes, index: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, int.from_bytes(name, "big")), index)

    expected = named(named(named(KEY, b"step", 3), b"micr", 1), b"repl", 2)
    assert words(step_key(KEY, 3, micro_batch=1, replica=2)) == words(expected)


def test_the_kind_of_key_stays() -> None:
    for key in KEYS.values():
        assert jax.random.key_impl(step_key(key, 0)) == jax.random.key_impl(key)


def test_vmap_over_steps_is_a_loop_over_steps() -> None:
    keys = jax.vmap(step_key, in_axes=(None, 0))(KEY, jnp.arange(4))
    assert [words(key) for key in keys] == [words(step_key(KEY, step)) for step in range(4)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, 0), ValueError, "step_key needs a key"),
        ((0, 0), TypeError, "key must be a JAX PRNG key"),
        ((jax.random.split(KEY), 0), ValueError, "array of keys"),
        ((KEY, -1), ValueError, "step must be in [0, 2**32), got -1"),
        ((KEY, 2**32), ValueError, "step must be in [0, 2**32), got 4294967296"),
        ((KEY, jnp.int32(-1)), ValueError, "step must be in [0, 2**32), got -1"),
        ((KEY, np.int8(-1)), ValueError, "step must be in [0, 2**32), got -1"),
        ((KEY, np.asarray(2**40)), ValueError, "step must be in [0, 2**32), got 1099511627776"),
        (
            (KEY, 10**30),
            ValueError,
            "step must be in [0, 2**32), got 1000000000000000000000000000000",
        ),
        ((KEY, jnp.float32(1)), TypeError, "got float32 1.0"),
        ((KEY, KEY), TypeError, "got a key"),
        (
            (KEY, 1.0),
            TypeError,
            "step must be an integer, or an array of one integer counted from 0, got 1.0",
        ),
        ((KEY, True), TypeError, "got True"),
        ((KEY, None), TypeError, "got None"),
        ((KEY, np.float32(1)), TypeError, "step must be an integer"),
        ((KEY, np.arange(2)), TypeError, "got an array of int64[2]"),
    ],
)
def test_bad_input(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        step_key(*arguments)


def test_a_known_array_is_checked_under_jit_and_a_traced_one_by_checkify() -> None:
    known = jnp.int32(-1)
    with pytest.raises(ValueError, match=r"step must be in .* got -1"):
        jax.jit(lambda step: step_key(KEY, known))(0)
    checked = jax.jit(
        checkify.checkify(lambda step: step_key(KEY, step), errors=checkify.all_checks)
    )
    for step, message in (
        (jnp.int32(-2), "step must be in [0, 2**32), got -2"),
        (jnp.int32(2), None),
        (jnp.int32(0), None),
    ):
        assert (
            message in (checked(step)[0].get() or "") if message else checked(step)[0].get() is None
        )


def test_bad_parts_are_named() -> None:
    with pytest.raises(ValueError, match=r"micro_batch must be in \[0, 2\*\*32\), got -1"):
        step_key(KEY, 0, micro_batch=-1)
    with pytest.raises(TypeError, match="replica must be an integer"):
        step_key(KEY, 0, replica="a")  # type: ignore[arg-type]
