"""Keys and bits. The only file that draws randomness.

A bit is a function of (key, position in the whole array) and of nothing else, so any part of an
array's bits can be asked for alone, on any device, and is the same part. The key decides the
generator:

=============================  =====================================================================
key                            generator
=============================  =====================================================================
`jaxdrop.key(0)`               a keyed hash of the position, 13 integer operations an entry
`jaxdrop.mc.keys(key, S)`      the same hash, stratified (or mirrored) over S samples
`jax.random.key(0)`            threefry: the bits of `jax.random.bits`, computed inline, so that
                               they fuse with what uses them
`jax.random.PRNGKey(0)`        legacy raw keys: as JAX takes them, which is as threefry unless
                               `jax_default_prng_impl` is set
rbg, unsafe_rbg, philox, ...   their own `jax.random.bits`; such a stream has no random access, see
                               `fast`
=============================  =====================================================================

`jax.random.uniform`, `normal`, `split`, Flax's `make_rng` and `nnx.Rngs` all take this library's
keys. `import jaxdrop` registers the generators with JAX, so that `jax.random.key(0,
impl="jaxdrop")` makes such a key and Orbax restores one. (JAX takes only its own generators for the
`jax_default_prng_impl` setting, and as arguments of functions that `jax.export` writes.) What
stores arrays alone, such as `flax.serialization`, takes typed keys of no generator. Both take
`unwrap_keys(tree)`, and `wrap_keys` gives the keys back.

`scripts/check_random.py` puts the hash through dieharder in the orders in which dropout uses it.
Its selection of tests on one long stream: 51 passed, 1 weak, 0 failed. Tests 2, 8, 15, 101 and 205
on seeds, keys folded in, short streams of derived keys, a transposed walk, the low bits, and masks:
34 passed, 2 weak, 0 failed. One sample of a stratified set, with more of its tests on it: 49
passed, 3 weak, 0 failed.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike, DTypeLike

from jaxdrop import _checks
from jaxdrop.random import _generators, _key_types, _lattices
from jaxdrop.random._positions import Coordinate, Positions, grid, linear
from jaxdrop.random._saved_keys import unwrap_keys as unwrap_keys
from jaxdrop.random._saved_keys import wrap_keys as wrap_keys

# -- making and checking keys


@_checks.hinted
def key(seed: int | jax.Array) -> jax.Array:
    """A typed JAX key of this library's generator, from an integer seed. It goes wherever a
    `jax.random.key(seed)` goes.

    Checkpoints: the key of a step is best not saved, but formed from the seed and the step
    (`jaxdrop.step_key`). A model whose `nnx.Rngs` hold a key is saved and restored as it is, by
    Orbax and by pickle, in programs that import jaxdrop. Formats that store arrays alone, such as
    `flax.serialization`, take `jaxdrop.random.unwrap_keys(state)`, and `wrap_keys(restored, state)`
    gives the keys back. The same goes for Orbax where a future JAX does not let generators be
    registered ("unrecognized PRNG implementation"); `wrap_keys` shows how to restore what was saved
    already.

    Args:
      seed: an integer of 64 bits, negative ones included, or an array of one integer, which may be
        traced. The words of the key are those of `jax.random.key(seed)`: without `jax_enable_x64`
        only the lower 32 bits count. A function that `jax.export` is to serialize takes the seed as
        its argument, and makes the key: in a file, JAX takes keys of its own generators only.

    Raises:
      TypeError: the seed is no integer.
      ValueError: it has more than 64 bits.
    """
    return jax.random.key(_seed(seed), impl=_key_types.HASH)


def _seed(seed: Any) -> Any:
    """A seed as `jax.random.key` takes it."""
    seed = _checks.unwrapped(seed)
    if _checks.is_key(seed):
        raise TypeError(
            "seed must be an integer, got a key. jaxdrop.random.fast(key) makes a key of this"
            " library from it."
        )
    if isinstance(seed, (jax.Array, np.ndarray, np.generic)):
        if not (jnp.issubdtype(seed.dtype, jnp.integer) and seed.ndim == 0):
            raise TypeError(
                f"seed must be an integer, or an array of one integer, got {_checks.quoted(seed)}"
            )
        return seed
    number = _checks.check_integer(seed, "seed", "an integer, or an array of one integer")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"seed must lie in [-2**63, 2**63), got {_checks.quoted(number)}")
    return number


@_checks.hinted
def fast(key: jax.Array) -> jax.Array:
    """The key of this library's generator that belongs to `key`; a key array of the same shape for
    a key array.

    Takes keys of every JAX implementation, and legacy raw keys. The new key's stream has nothing in
    common with that of `key`. A key that already is of this library comes back as it is.
    """
    key = _typed(key, "fast")
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
    """Inside `shard_map`, `pmap` or `vmap` with an `axis_name`: another key for every index along
    the named axes.

    For whoever just wants different masks on different devices. To draw the masks of the whole
    array instead, the same under every layout, leave the key alone and pass `spec` to the function
    that drops.

    Raises:
      ValueError: a name is not that of a mapped axis.
    """
    index, _ = axis_place(axis_names)
    return jax.random.fold_in(checked(key, "fold_in_axes", always=True), index)


def axis_place(axis_names: str | Sequence[str], name: str = "axis_names") -> tuple[jax.Array, int]:
    """The index of this device along mapped axes, the first name being the slowest, and the number
    of indices.

    `name` is that of the argument that names the axes, for messages.
    """
    name = _checks.shown(name)
    names = (axis_names,) if isinstance(axis_names, str) else axis_names
    if not isinstance(names, (tuple, list)) or not all(isinstance(axis, str) for axis in names):
        raise TypeError(
            f"{name} must be the name of a mapped axis, or several, got"
            f" {_checks.quoted(axis_names)}"
        )
    try:
        return lax.axis_index(tuple(names)), lax.axis_size(tuple(names))
    except NameError:
        raise ValueError(
            f"{name} names {axis_names!r}, which is not a mapped axis here. Axis names count only"
            " inside jax.shard_map, jax.pmap or jax.vmap(..., axis_name=...). Under plain jax.jit"
            " an array is the whole array, also when it is sharded: leave the axis out."
        ) from None


def single(key: jax.Array | None, caller: str) -> jax.Array:
    """The one key that `caller` is about to draw from, checked and typed, and used up in the eyes
    of `jax_debug_key_reuse`.
    """
    typed = checked(key, caller)
    if jax.config.jax_debug_key_reuse:  # type: ignore[attr-defined]
        jax.random.bits(typed, (), jnp.uint8)
    return typed


def checked(
    key: jax.Array | np.ndarray | None, caller: str, name: str = "key", *, always: bool = False
) -> jax.Array:
    """Checks that `key` is one key, and returns it as a typed key (legacy raw keys become threefry
    keys).

    `caller` and `name`, that of the argument, are for messages, and so is whether the caller needs
    a key `always`.

    Raises:
      TypeError: not a key at all.
      ValueError: no key, or an array of keys.
    """
    if key is None and always:
        raise ValueError(
            f"{caller} needs a key, but {_checks.shown(name)} is None. Pass one, such as"
            " jaxdrop.key(seed)."
        )
    if key is None:
        raise ValueError(
            f"{caller} is stochastic here and needs a key, but {_checks.shown(name)} is None."
            " Either\n1. pass one: jaxdrop.key(seed), jax.random.key(seed), or a fold_in or split"
            " of such a key;\n2. pass deterministic=True, for evaluation;\n3. pass rate=0."
        )
    typed = _typed(key, caller, name)
    if typed.ndim:
        raise ValueError(
            f"{caller} takes a single key, but {_checks.shown(name)} is an array of keys of shape"
            f" {typed.shape}. Use jax.vmap to run over keys, or index it."
        )
    return typed


def _typed(key: Any, caller: str, name: str = "key") -> jax.Array:
    key = _checks.unwrapped(key)
    if _checks.is_key(key):
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.ndim >= 1:
        try:
            return jax.random.wrap_key_data(
                jnp.asarray(key)
            )  # of the generator that jax_default_prng_impl names
        except TypeError:
            if key.shape[-1] == 2:
                return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    name = _checks.shown(name)
    if type(key).__name__ in ("Rngs", "RngStream") and not isinstance(key, (jax.Array, np.ndarray)):
        take = "rngs.dropout()" if type(key).__name__ == "Rngs" else "stream()"
        raise TypeError(
            f"{name} is an {type(key).__name__} of Flax, from which keys are taken:"
            f" {caller}({take}, ...)."
        )
    order = f"{caller}(key, ...)" if name == "key" else ""
    raise TypeError(
        f"{name} must be a JAX PRNG key, such as jaxdrop.key(0) or jax.random.key(0), but it is"
        f" {_checks.quoted(key)}." + (f" Keys come first: {order}." if order else "")
    )


# -- drawing


@_checks.hinted
def bits(
    key: jax.Array,
    shape: Sequence[int],
    *,
    bit_width: int = 32,
    origin: Sequence[jax.Array | int] | None = None,
    extent: Sequence[int] | None = None,
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Uniform random bits for a block of an array.

    Args:
      key: a single key.
      shape: the block's shape.
      bit_width: 8, 16, 32 or 64 (64 only with `jax_enable_x64`).
      origin: where the block stands along each axis, counted in blocks; zero by default.
      extent: the shape of the whole array; `shape` by default.
      sharding: the layout of the result, for meshes with explicit axes.

    Returns:
      An unsigned integer array of `shape`. With `origin` and `extent` left out and a threefry key
      this is `jax.random.bits(key, shape)`, bit for bit; with them it is that part of the whole
      array's bits.

    Raises:
      NotImplementedError: a part is asked for of a generator that can only draw whole arrays.
    """
    key = checked(key, "bits", always=True)
    _check_width(bit_width)
    shape = _check_shape(shape, "shape")
    extent = None if extent is None else _check_shape(extent, "extent", len(shape))
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
        positions = grid(shape, origin=origin, extent=extent, sharding=sharding, key_word=key_word)
        return _bits(key, positions, bit_width)
    if origin is not None or (extent is not None and tuple(extent) != tuple(shape)):
        raise _no_random_access(key)
    return jax.random.bits(key, tuple(shape), _key_types.DTYPES[bit_width], out_sharding=sharding)


@_checks.hinted
def bits_at(
    key: jax.Array, coordinates: Sequence[Coordinate], extent: Sequence[int], *, bit_width: int = 32
) -> jax.Array:
    """The bits of any set of entries of an array of shape `extent`, equal to those entries of
    `bits(key, extent)`.

    Args:
      key: a single key, of a generator with random access.
      coordinates: one integer array an axis of the whole array; they broadcast against each other.
        Coordinates along an axis of more than 2**32 entries are (high word, low word) pairs.
      extent: the shape of the whole array.
      bit_width: 8, 16, 32 or 64 (64 only with `jax_enable_x64`).

    Returns:
      An unsigned integer array of the coordinates' common shape.

    Raises:
      NotImplementedError: the key's generator can only draw whole arrays.
      ValueError: not one coordinate array for each axis.
    """
    key = checked(key, "bits_at", always=True)
    _check_width(bit_width)
    extent = _check_shape(extent, "extent")
    if not isinstance(coordinates, Sequence) or isinstance(coordinates, str):
        raise TypeError(
            "coordinates must be a sequence of integer arrays, one for each axis, got"
            f" {_checks.quoted(coordinates)}"
        )
    if len(coordinates) != len(extent):
        raise ValueError(
            f"coordinates must be one array for each axis of extent={extent}, got"
            f" {len(coordinates)}"
        )
    for array in jax.tree.leaves(tuple(coordinates)):
        _checks.check_ids(array, "bits_at", "coordinates")
    if not _has_random_access(key):
        raise _no_random_access(key)
    words = jax.tree.map(
        lambda coordinate: jnp.asarray(coordinate).astype(jnp.uint32), tuple(coordinates)
    )
    return _bits(key, linear(words, extent, key_word=jax.random.key_data(key)[0]), bit_width)


def uniform(bits: jax.Array) -> jax.Array:
    """float32 values in [0, 1) on a grid of 2**-23, from 32-bit words: those of
    `jax.random.uniform`.
    """
    mantissa = (bits >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(mantissa, jnp.float32) - np.float32(1)


def normal(bits: jax.Array) -> jax.Array:
    """Standard normal float32 values from 32-bit words: those of `jax.random.normal`."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    symmetric = jnp.maximum(uniform(bits) * (np.float32(1) - low) + low, low)
    return np.float32(np.sqrt(2)) * lax.erf_inv(symmetric)


def gumbel(bits: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Standard Gumbel values, `-log(-log(u))`, from 32-bit words, of which the upper tail has all
    32 bits.
    """
    above = (bits.astype(dtype) + 0.5) * 2.0**-32  # 1 - u
    return -jnp.log(-jnp.log1p(-above))


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
    """The words of a key, and the function from words and positions to 32 bits: for kernels, which
    take no keys.
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
    if min(_checks.check_integers(known, name), default=0) < 0 or (
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
    return jax.random.key_impl(key) == "threefry2x32" and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]


def _no_random_access(key: jax.Array) -> NotImplementedError:
    return NotImplementedError(
        f"a {jax.random.key_impl(key)} key draws whole arrays only: part of an array's bits cannot"
        " be asked for alone. Use jaxdrop.random.fast(key), jaxdrop.key(seed) or a threefry key"
        " (with jax_threefry_partitionable on), or leave out the layout and give each device a key"
        " of its own: jaxdrop.random.fold_in_axes(key, axis_names)."
    )


# -- the keys of S samples


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
    """Keys of `num` samples of which each odd one mirrors the one before it. See
    `jaxdrop.mc.keys`.
    """
    base = jnp.repeat(independent_keys(fast(_not_a_sample(key)), (num + 1) // 2), 2)[:num]
    mirrored = jnp.arange(num) % 2 == 1
    return _extend(
        base, _key_types.ANTITHETIC, jnp.where(mirrored, np.uint32(0xFFFFFFFF), np.uint32(0))
    )


def _not_a_sample(key: jax.Array) -> jax.Array:
    key = checked(key, "keys", always=True)
    if _key_types.is_sample(key):
        raise ValueError(
            f"{key} already is the key of one Monte Carlo sample; start from jaxdrop.key or"
            " jax.random.key"
        )
    return key


def _extend(keys: jax.Array, impl: Hashable, words: ArrayLike) -> jax.Array:
    return jax.random.wrap_key_data(jnp.column_stack([jax.random.key_data(keys), words]), impl=impl)
