"""The bits of a key at positions of an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding

from jaxdrop import _checks
from jaxdrop.random import _generators, _key_types
from jaxdrop.random._positions import Coordinate, Positions, grid, linear


@_checks.hinted
def bits(
    key: jax.Array,
    shape: Sequence[int],
    *,
    bit_width: int = 32,
    origin: Sequence[jax.Array | int] | None = None,
    global_shape: Sequence[int] | None = None,
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Uniform random bits for a block of an array, each a function of (key, position in the whole
    array).

    Args:
      key: a single key.
      shape: the shape of the block.
      bit_width: 8, 16, 32 or 64 (64 only with `jax_enable_x64`).
      origin: the place of the block along each axis, counted in blocks: 3 on an axis of length 8
        starts at coordinate 24. Zero by default.
      global_shape: the shape of the whole array; `shape` by default.
      sharding: the layout of the result, for meshes with explicit axes.

    Returns:
      An unsigned integer array of `shape`: the block of `bits(key, global_shape)` at `origin`. With
      a threefry key `bits(key, shape)` is `jax.random.bits(key, shape)`, bit for bit.

    Raises:
      TypeError: no key, or an argument of another type.
      ValueError: an array of keys, a shape that is none, or a width that is none of the four.
      NotImplementedError: a part is asked for of a generator that can only draw whole arrays.
    """
    key = _checks.check_key(key, "bits", always=True)
    _check_width(bit_width)
    shape = _check_shape(shape, "shape")
    if global_shape is not None:
        global_shape = _check_shape(global_shape, "global_shape", len(shape))
    if origin is not None and not (isinstance(origin, Sequence) and len(origin) == len(shape)):
        raise TypeError(
            f"origin must be {len(shape)} integers, one for each axis, got {_checks.quoted(origin)}"
        )
    if not (sharding is None or isinstance(sharding, NamedSharding)):
        raise TypeError(
            f"sharding must be a jax.sharding.NamedSharding, got {_checks.quoted(sharding)}"
        )
    if _has_random_access(key):
        key_word = jax.random.key_data(key)[0]
        positions = grid(
            shape, origin=origin, global_shape=global_shape, sharding=sharding, key_word=key_word
        )
        return _bits(key, positions, bit_width)
    if origin is not None or (global_shape is not None and tuple(global_shape) != tuple(shape)):
        raise _no_random_access(key)
    return jax.random.bits(key, tuple(shape), _key_types.DTYPES[bit_width], out_sharding=sharding)


@_checks.hinted
def bits_at(
    key: jax.Array,
    coordinates: Sequence[Coordinate],
    global_shape: Sequence[int],
    *,
    bit_width: int = 32,
) -> jax.Array:
    """The bits of any set of entries of an array: those entries of `bits(key, global_shape)`.

    Args:
      key: a single key, of a generator with random access.
      coordinates: for each axis of the whole array an integer array of coordinates along it; they
        broadcast against each other. Coordinates along an axis of more than 2**32 entries are
        (high word, low word) pairs.
      global_shape: the shape of the whole array.
      bit_width: 8, 16, 32 or 64 (64 only with `jax_enable_x64`).

    Returns:
      An unsigned integer array of the coordinates' common shape.

    Raises:
      TypeError: no key, or an argument of another type.
      ValueError: an array of keys, or not one coordinate array for each axis.
      NotImplementedError: the key's generator can only draw whole arrays.
    """
    key = _checks.check_key(key, "bits_at", always=True)
    _check_width(bit_width)
    global_shape = _check_shape(global_shape, "global_shape")
    if not isinstance(coordinates, Sequence) or isinstance(coordinates, str):
        raise TypeError(
            "coordinates must be a sequence of integer arrays, one for each axis, got"
            f" {_checks.quoted(coordinates)}"
        )
    if len(coordinates) != len(global_shape):
        raise ValueError(
            f"coordinates must be one array for each axis of global_shape={global_shape}, got"
            f" {len(coordinates)}"
        )
    for array in jax.tree.leaves(tuple(coordinates)):
        _checks.check_ids(array, "bits_at", "coordinates")
    if not _has_random_access(key):
        raise _no_random_access(key)
    words = jax.tree.map(
        lambda coordinate: jnp.asarray(coordinate).astype(jnp.uint32), tuple(coordinates)
    )
    bits = _bits(key, linear(words, global_shape, key_word=jax.random.key_data(key)[0]), bit_width)
    shape = jnp.broadcast_shapes(*(jnp.shape(word) for word in jax.tree.leaves(words)))
    # Along an axis of length 1 there is one place, and no coordinate to compute with.
    return bits if bits.shape == shape else jnp.broadcast_to(bits, shape)


def _bits(key: jax.Array, positions: Positions, bit_width: int) -> jax.Array:
    data = jax.random.key_data(key)
    own = _key_types.of(key)
    if own is not None:
        return own.bits(data, positions, bit_width)
    high, low = _threefry(data, positions)
    if bit_width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(_key_types.DTYPES[bit_width])


def words_and_draw(key: jax.Array) -> tuple[jax.Array, _key_types.Bits32]:
    """The words of a key, and the function from (words, positions) to 32 bits, for kernels of
    Pallas, which take arrays but no keys.
    """
    own = _key_types.of(key)
    return jax.random.key_data(key), _threefry32 if own is None else own.bits32


def _threefry(data: jax.Array, positions: Positions) -> tuple[jax.Array, jax.Array]:
    place = (
        jnp.zeros_like(positions.low) if positions.high is None else positions.high,
        positions.low,
    )
    return _generators.threefry((data[0], data[1]), place)


def _threefry32(data: jax.Array, positions: Positions) -> jax.Array:
    high, low = _threefry(data, positions)
    return high ^ low


def _check_shape(shape: Any, name: str, ndim: int | None = None) -> tuple[int, ...]:
    """The lengths of an array's axes; those of an exported program may be symbols."""
    known = (
        [length for length in shape if not export.is_symbolic_dim(length)]
        if isinstance(shape, (tuple, list))
        else shape
    )
    if any(length < 0 for length in _checks.check_integers(known, name)) or (
        ndim is not None and len(shape) != ndim
    ):
        axes = "" if ndim is None else f", {ndim} of them"
        raise ValueError(f"{name} must be lengths of at least 0{axes}, got {_checks.quoted(shape)}")
    return tuple(shape)


def _check_width(bit_width: int) -> None:
    if _checks.check_integer(bit_width, "bit_width") not in _key_types.DTYPES:
        raise ValueError(f"bit_width must be 8, 16, 32 or 64, got {_checks.quoted(bit_width)}")
    if bit_width == 64 and jax.dtypes.canonicalize_dtype(np.uint64) != np.uint64:
        raise ValueError(
            "bit_width=64 needs 64-bit integers: set jax_enable_x64, or draw two 32-bit words"
        )


def _has_random_access(key: jax.Array) -> bool:
    if _key_types.of(key) is not None:
        return True
    # Without this flag, on by default since JAX 0.5, threefry's bits depend on the size of the
    # whole array.
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    return jax.random.key_impl(key) == "threefry2x32" and partitionable


def _no_random_access(key: jax.Array) -> NotImplementedError:
    return NotImplementedError(
        f"a {jax.random.key_impl(key)} key draws whole arrays only: part of an array's bits cannot"
        " be asked for alone. Use jaxdrop.random.fast(key), jaxdrop.key(seed) or a threefry key"
        " (with jax_threefry_partitionable on), or leave out the layout and give each device a key"
        " of its own: jaxdrop.random.fold_in_axes(key, axis_names)."
    )
