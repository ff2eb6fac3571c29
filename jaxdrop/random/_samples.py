"""The keys of S Monte Carlo samples. `jaxdrop.mc.keys` is their public face."""

from __future__ import annotations

import functools
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop import _checks
from jaxdrop.random import _key_types, _lattices
from jaxdrop.random._keys import fast


def independent_keys(key: jax.Array, num: int) -> jax.Array:
    """`fold_in(key, 0), ..., fold_in(key, num - 1)`, of the generator of `key`."""
    return jax.vmap(functools.partial(jax.random.fold_in, _not_a_sample(key)))(jnp.arange(num))


def stratified_keys(key: jax.Array, num: int) -> jax.Array:
    """Keys of `num` samples that divide the unit interval among them, position by position. See
    `jaxdrop.mc.keys`.
    """
    if num > _lattices.MOST:
        raise ValueError(
            f"num_samples: stratified sampling takes at most {_lattices.MOST} samples, got"
            f" {_checks.quoted(num)}. Draw them in groups with a key each, or independently."
        )
    base = jnp.broadcast_to(fast(_not_a_sample(key)), (num,))
    return _extend(base, _key_types.STRATIFIED, _lattices.points(num))


def antithetic_keys(key: jax.Array, num: int) -> jax.Array:
    """Keys of `num` samples. Each sample at an odd place mirrors the sample before it. See
    `jaxdrop.mc.keys`.
    """
    base = jnp.repeat(independent_keys(fast(_not_a_sample(key)), (num + 1) // 2), 2)[:num]
    mirrored = jnp.arange(num) % 2 == 1
    return _extend(
        base, _key_types.ANTITHETIC, jnp.where(mirrored, np.uint32(0xFFFFFFFF), np.uint32(0))
    )


def _not_a_sample(key: jax.Array) -> jax.Array:
    key = _checks.check_key(key, "keys", always=True)
    if _key_types.is_sample(key):
        raise ValueError(
            "key already is the key of one Monte Carlo sample; start from jaxdrop.key or"
            " jax.random.key"
        )
    return key


def _extend(keys: jax.Array, impl: Hashable, words: ArrayLike) -> jax.Array:
    return jax.random.wrap_key_data(jnp.column_stack([jax.random.key_data(keys), words]), impl=impl)
