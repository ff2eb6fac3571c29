"""Making keys: from a seed, from a key of another generator, for each index of a mapped axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import _checks, _mapped_axes
from jaxdrop.random import _generators, _key_types

key_dtype = jax.eval_shape(lambda: jax.random.key(0, impl=_key_types.HASH)).dtype
"""The dtype of the keys that `key` makes, as does `jax.random.key(seed, dtype=key_dtype)`."""


@_checks.hinted
def key(seed: int | jax.Array) -> jax.Array:
    """A typed JAX key of this library's generator, from an integer seed. Every function that takes
    a `jax.random.key(seed)` takes it too.

    Checkpoints: a training run need not save a key, if it forms the key of each step from the seed
    and the step (`jaxdrop.step_key`). A model whose `nnx.Rngs` hold a key is saved and restored by
    Orbax and by pickle without further steps, in programs that import jaxdrop. Formats that store
    arrays alone, such as `flax.serialization`, take `jaxdrop.random.unwrap_keys(state)`, and
    `wrap_keys(restored, state)` gives the keys back. These two also serve Orbax, should a future
    JAX not let generators be registered ("unrecognized PRNG implementation"); `wrap_keys` shows how
    to restore keys that Orbax saved already.

    Args:
      seed: an integer of 64 bits, negative ones included, or an array of one integer, which may be
        traced. The words of the key are those of `jax.random.key(seed)`: without `jax_enable_x64`
        only the lower 32 bits count. A function that `jax.export` is to serialize takes the seed as
        its argument, and makes the key: in a file, JAX takes keys of its own generators only.

    Returns:
      A typed key of shape ().

    Raises:
      TypeError: the seed is no integer.
      ValueError: it has more than 64 bits.
    """
    return jax.random.key(_seed(seed), impl=_key_types.HASH)


def _seed(seed: Any) -> int | jax.Array:
    """A seed as `jax.random.key` takes it."""
    if _checks.is_key(seed):
        raise TypeError(
            "seed must be an integer, got a key. jaxdrop.random.fast(key) makes a key of this"
            " library from it."
        )
    number = _checks.check_integer_or_array(seed, "seed")
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        raise ValueError(f"seed must lie in [-2**63, 2**63), got {_checks.quoted(number)}")
    return number


@_checks.hinted
def fast(key: jax.Array) -> jax.Array:
    """A key of this library's generator, as a function of `key`. It draws bits that are unrelated
    to those of `key`.

    Args:
      key: a key of any JAX generator, or an array of keys; legacy raw keys too.

    Returns:
      A typed key for each key, in an array of the same shape. A key that already is of this library
      comes back unchanged.

    Raises:
      TypeError: not a key.
    """
    key = _checks.check_keys(key, "fast")
    if _key_types.of(key) is not None:
        return key
    data = jax.random.key_data(key)
    words = jnp.uint32(0x66617374), jnp.full(key.shape, data.shape[-1], jnp.uint32)  # "fast"
    for start in range(0, data.shape[-1], 2):
        pair = data[..., start], data[..., min(start + 1, data.shape[-1] - 1)]
        words = _generators.threefry(pair, words)
    return jax.random.wrap_key_data(jnp.stack(words, axis=-1), impl=_key_types.HASH)


@_checks.hinted
def fold_in_axes(key: jax.Array, axis_names: str | Sequence[str]) -> jax.Array:
    """`jax.random.fold_in(key, jax.lax.axis_index(axis_names))`: inside `shard_map`, `pmap` or
    `vmap` with an `axis_name`, another key for every index along the named axes.

    It serves programs that want different masks on different devices. To draw the masks of the
    whole array instead, which are the same under every layout, pass the same key on all devices and
    give `spec` to the function that drops.

    Args:
      key: a single key.
      axis_names: the name of a mapped axis, or several; the first is the slowest.

    Returns:
      A key of the same kind.

    Raises:
      TypeError: no key, or names that are no strings.
      ValueError: a name is not that of a mapped axis, or an array of keys.
    """
    index, _ = _mapped_axes.index_and_size(axis_names)
    return jax.random.fold_in(_checks.check_key(key, "fold_in_axes", always=True), index)
