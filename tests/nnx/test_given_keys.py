"""Keys that are derived all at once are those that `nnx.Rngs` derives one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
import jaxdrop.nnx

COUNT = 4
LAYERS = [jaxdrop.nnx.Dropout(0.5), nnx.Dropout(0.5), jaxdrop.nnx.DropPath(0.5)]


def derived(key: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(COUNT))


def drawn(rngs: nnx.Rngs) -> list[jax.Array]:
    x = jnp.ones((4, 8))
    return [layer(x, rngs=rngs) for layer in LAYERS]


@pytest.mark.parametrize("make", [jaxdrop.key, jax.random.key])
def test_the_masks_are_those_of_rngs(make: object) -> None:
    one_by_one = jax.jit(lambda key: drawn(nnx.Rngs(key)))
    at_once = jax.jit(lambda key: drawn(jaxdrop.nnx.rngs_from_keys(derived(key))))
    key = make(3)  # type: ignore[operator]
    jax.tree.map(np.testing.assert_array_equal, at_once(key), one_by_one(key))
    program = jax.make_jaxpr(at_once)(key)
    assert str(program).count("random_fold_in") == 1
    assert str(jax.make_jaxpr(one_by_one)(key)).count("random_fold_in") == len(LAYERS)


def test_there_are_no_more_keys_than_given() -> None:
    rngs = jaxdrop.nnx.rngs_from_keys(derived(jaxdrop.key(0)))
    for _ in range(COUNT):
        rngs.dropout()
    with pytest.raises(ValueError, match="was given 4 keys, and this is the call for one more"):
        rngs.params()


def test_forks_and_lanes_are_streams_of_flax() -> None:
    key = jaxdrop.key(0)
    expected = nnx.Rngs(key)
    fork = jaxdrop.nnx.rngs_from_keys(derived(key)).fork()
    flax = expected.fork()
    for _ in range(2):
        assert jnp.all(jax.random.key_data(fork.dropout()) == jax.random.key_data(flax.dropout()))

    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def two(rngs: nnx.Rngs) -> jax.Array:
        return jax.random.key_data(rngs.dropout())

    lanes = two(jaxdrop.nnx.rngs_from_keys(derived(key)))
    np.testing.assert_array_equal(lanes, two(nnx.Rngs(key)))
    assert np.any(lanes[0] != lanes[1])


def test_what_is_left_of_the_keys_goes_where_the_stream_goes() -> None:
    @nnx.jit
    def taken(rngs: nnx.Rngs) -> jax.Array:
        return jax.random.key_data(rngs.dropout())

    keys = derived(jaxdrop.key(0))
    rngs = jaxdrop.nnx.rngs_from_keys(keys)
    found = jnp.stack([taken(rngs), jax.random.key_data(nnx.clone(rngs).dropout()), taken(rngs)])
    np.testing.assert_array_equal(found, jax.random.key_data(keys)[jnp.array([0, 1, 1])])


def test_a_loop_that_would_take_one_key_again_and_again_is_an_error() -> None:
    @nnx.scan(in_axes=(nnx.Carry,), out_axes=(nnx.Carry, 0), length=COUNT)
    def layers(rngs: nnx.Rngs) -> tuple[nnx.Rngs, jax.Array]:
        return rngs, jax.random.key_data(rngs.dropout())

    with pytest.raises(TypeError, match=r"key<fry>\[4\]"):
        layers(jaxdrop.nnx.rngs_from_keys(derived(jax.random.key(0))))


def test_lanes_are_no_given_keys() -> None:
    """Nor those of a stream of which some keys are taken: an index would be past the end."""
    for taken in range(COUNT):
        rngs = jaxdrop.nnx.rngs_from_keys(derived(jaxdrop.key(0)))
        for _ in range(taken):
            rngs.dropout()
        with nnx.split_rngs(rngs, splits=2), pytest.raises(ValueError, match="a single key"):
            rngs.dropout()
    rngs = jaxdrop.nnx.rngs_from_keys(derived(jaxdrop.key(0)))
    with pytest.raises(ValueError, match="a single key"):
        rngs.default.split(2)()


def test_keys_must_be_an_array_of_keys() -> None:
    with pytest.raises(ValueError, match=r"one axis, got the shape \(\)"):
        jaxdrop.nnx.rngs_from_keys(jaxdrop.key(0))
    with pytest.raises(TypeError, match="keys must be a JAX PRNG key"):
        jaxdrop.nnx.rngs_from_keys(jnp.ones(3))
