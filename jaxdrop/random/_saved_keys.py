"""Keys as plain arrays, for formats that store arrays alone: `flax.serialization`, `np.savez`,
arguments of `jax.export`.

    words = jaxdrop.random.unwrap_keys(state)
    state = jaxdrop.random.wrap_keys(words, state)

A program that reads the words in a later run takes for the second `state` one of the same
structure, such as the state of a new model.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def unwrap_keys(tree: Any) -> Any:
    """`tree` with `jax.random.key_data(key)` in place of each typed key, or array of typed keys.

    Args:
      tree: any pytree, such as a key, or the `nnx.state` of a model.

    Returns:
      A pytree of the same structure, with uint32 arrays in place of keys, and the other leaves
      unchanged.
    """
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def wrap_keys(tree: Any, like: Any) -> Any:
    """`tree` with a key wherever `like` has one: the inverse of `unwrap_keys`.

    It restores the arrays of `unwrap_keys`, whichever format stored them. Where `tree` holds keys
    already, such as keys that were pickled by another version of this library, it gives them the
    key type that `like` has.

    Orbax stores keys by itself, with the name of their generator. Where JAX does not know that name
    ("unrecognized PRNG implementation"), read the words of the keys as NumPy arrays:

        words = jaxdrop.random.unwrap_keys(state)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), words)
        restored = ocp.PyTreeCheckpointer().restore(path, item=words, restore_args=as_numpy)
        state = jaxdrop.random.wrap_keys(restored, state)

    Args:
      tree: a pytree with uint32 arrays, or keys, in place of keys.
      like: a pytree of the same structure, whose keys have the generator and the shape that the
        result is to have. Its values do not count: abstract keys, of `jax.eval_shape` or
        `nnx.eval_shape`, will do.

    Returns:
      A pytree of the same structure, with keys where `like` has keys, and the other leaves of
      `tree` unchanged.

    Raises:
      ValueError: the trees differ in structure, or an array does not hold the words of such keys.
    """
    return jax.tree_util.tree_map_with_path(_wrap, tree, like)


def _wrap(path: tuple[Any, ...], leaf: Any, like: Any) -> Any:
    if not _is_key(like):
        return leaf
    words = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    implementation, expected = _described(like)
    if np.shape(words) != expected.shape or getattr(words, "dtype", None) != np.uint32:
        found = (
            f"{words.dtype}{list(np.shape(words))}"
            if hasattr(words, "dtype")
            else f"{type(words).__name__} {words!r}"
        )
        raise ValueError(
            f"{jax.tree_util.keystr(path) or 'tree'} must hold the words of"
            f" {like.dtype}{list(like.shape)}, which are uint32{list(expected.shape)}, got {found}"
        )
    return jax.random.wrap_key_data(jnp.asarray(words), impl=implementation)


def _described(like: Any) -> tuple[Hashable, jax.ShapeDtypeStruct]:
    """The implementation of keys, and the shape of their words; the keys may be a
    `jax.ShapeDtypeStruct`.
    """
    found = []

    def words(keys: jax.Array) -> jax.Array:
        found.append(jax.random.key_impl(keys))
        return jax.random.key_data(keys)

    shape = jax.eval_shape(words, like)
    return found[0], shape


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
