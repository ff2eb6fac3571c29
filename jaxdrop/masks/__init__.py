"""From a rate to a keep mask.

An entry is kept where its 32 random bits, taken as one of 2**23 equally likely values, fall below a
threshold. That is the grid of `jax.random.bernoulli` in float32, so that the mask of a threefry key
is the one that `flax.linen.Dropout` draws.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import random
from jaxdrop._checks import Rate as Rate
from jaxdrop._checks import axis_numbers as axis_numbers
from jaxdrop._checks import broadcasts as broadcasts
from jaxdrop._checks import check_broadcast_dims as check_broadcast_dims
from jaxdrop._checks import check_number as check_number
from jaxdrop._checks import check_one_rate as check_one_rate
from jaxdrop._checks import check_rate as check_rate
from jaxdrop._checks import check_rate_shape as check_rate_shape
from jaxdrop._checks import check_spec as check_spec
from jaxdrop.random._positions import Coordinate, coordinate
from jaxdrop.random._words import at_most

T = TypeVar("T")

_GRID = 2**23
# From this keep probability on, 1 / (1 - rate) is off by less than 2**-19 because of the grid, and
# gives Flax's very values.
_FINE = 2.0**-4
# From this number of results on, that share an entry of a mask, it pays to store the mask.
_MANY = 8


class Law(NamedTuple):
    """How many of the 2**23 values are kept (uint32), and what the kept entries are multiplied
    by.
    """

    threshold: jax.Array | np.ndarray
    scale: jax.Array | np.ndarray


class Block(NamedTuple):
    """Where a mask stands in the whole one: what `random.bits` takes."""

    shape: tuple[int, ...]
    origin: list[jax.Array | int] | None
    extent: tuple[int, ...]
    sharding: NamedSharding | None


def is_number(rate: Rate, value: int) -> bool:
    """Whether the rate is known, without axes, and equal to `value`. At 0 and 1 there is nothing to
    draw.
    """
    if type(rate) is float:
        return rate == value
    if (
        isinstance(rate, jax.core.Tracer)
        or not isinstance(rate, (numbers.Real, jax.Array, np.ndarray))
        or np.ndim(rate)
    ):
        return False
    if jnp.issubdtype(getattr(rate, "dtype", np.dtype(float)), jax.dtypes.extended):
        return False
    # In NumPy: inside `jit`, JAX traces a comparison even of an array whose value is known.
    return bool(np.asarray(rate) == value)


def law(rate: float | jax.Array, dtype: Any = jnp.float32) -> Law:
    """The mask's law at a rate: threshold `T = ceil((1 - rate) 2**23)` and scale `1 / (1 - rate)`,
    both of the shape of `rate`.

    The keep probability is `T / 2**23` exactly. Above a rate of 15/16 the scale is its exact
    inverse; below, where the two agree to 2e-6, it is that of `1 - rate` itself. At rate 1 nothing
    is kept and the scale is 0. At rate NaN, which stands for an impossible one, everything is kept
    and the scale is NaN.

    Args:
      rate: from `check_rate`.
      dtype: of what is to be scaled; the scale is real, and float32 at least.
    """
    if isinstance(rate, float):
        return _known_law(rate, dtype)
    return _law(1 - rate.astype(jnp.finfo(wide(dtype)).dtype), jnp)


def unit(rate: float | jax.Array, dtype: Any = jnp.float32) -> jax.Array | np.ndarray:
    """The scale of what is kept as it is: 1, and NaN where a traced rate is impossible; of the
    shape of `rate`.
    """
    real = jnp.finfo(wide(dtype)).dtype
    if isinstance(rate, float):
        return np.ones((), real)
    return jnp.where(jnp.isnan(rate), _nan(real), np.ones((), real))


def threshold(rate: float | jax.Array) -> jax.Array | np.ndarray:
    """That of `law`, for what cannot be NaN, such as ids and masks: where a traced rate is
    impossible nothing is kept.
    """
    kept = law(rate).threshold
    return kept if isinstance(rate, float) else jnp.where(jnp.isnan(rate), jnp.uint32(0), kept)


def possible(x: T, rate: float | jax.Array) -> T:
    """`x`, a pytree of arrays, and NaN where a traced rate is impossible: for what is not
    multiplied by the law's scale.
    """
    if not isinstance(rate, jax.core.Tracer):
        return x

    def times_unit(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        factor = expand(jnp.asarray(unit(rate, leaf.dtype)), leaf.ndim)
        if jnp.issubdtype(
            leaf.dtype, jnp.complexfloating
        ):  # whose product with 1 is NaN at infinities
            return lax.complex(leaf.real * factor, leaf.imag * factor)
        return leaf * factor.astype(leaf.dtype)

    return jax.tree.map(times_unit, x)


def _nan(dtype: Any) -> np.ndarray:
    """NaN as a constant of this dtype: to convert it would be an operation, at which
    `jax_debug_nans` stops.
    """
    return np.asarray(np.nan, dtype)


def wide(dtype: Any) -> np.dtype[Any]:
    """The dtype to scale in: `dtype`, or float32 for the short floats, whose mean would suffer from
    a rounded scale.
    """
    dtype = np.dtype(dtype)
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


@functools.lru_cache(maxsize=1024)
def _known_law(rate: float, dtype: Any) -> Law:
    """The law of a known rate, formed once: a dozen NumPy calls take longer than an eager
    dispatch.
    """
    found = _law(np.asarray(1.0 - rate, jnp.finfo(wide(dtype)).dtype), np)
    for number in found:
        np.asarray(number).setflags(write=False)  # for all callers share it
    return found


def _law(keep: Any, xp: Any) -> Law:
    threshold = xp.ceil(keep.astype(np.float32) * np.float32(_GRID))
    threshold = xp.where(xp.isnan(threshold), np.float32(_GRID), threshold)
    exact = (threshold * np.float32(1 / _GRID)).astype(keep.dtype)
    divisor = xp.where(keep < _FINE, exact, keep)
    none = threshold == 0
    scale = xp.where(none, xp.zeros_like(keep), 1 / xp.where(none, xp.ones_like(keep), divisor))
    return Law(threshold.astype(np.uint32), scale)


def mapped_axes(spec: PartitionSpec | None, axes: Sequence[int]) -> tuple[tuple[str, ...], int]:
    """The names of the mapped axes that divide these axes of the whole array, and the number of
    parts that this makes.
    """
    entries = [spec[axis] for axis in axes if axis < len(spec)] if spec else []
    names = tuple(
        name
        for entry in entries
        if entry
        for name in ([entry] if isinstance(entry, str) else entry)
    )
    return names, random.axis_place(names, "spec")[1] if names else 1


def keep(
    key: jax.Array,
    like: jax.Array,
    threshold: jax.Array,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """The keep mask of an array: bool, of the shape of `like` with length 1 along the axes in
    `broadcast_dims`.

    Args:
      key: a single key.
      like: the array, of which shape and layout are used.
      threshold: from `law`; of a shape that broadcasts to the mask's.
      broadcast_dims: axes along which all entries share their mask.
      spec: inside `shard_map` or `pmap`, the layout of the whole array of which `like` is this
        device's part.
    """
    mask = below(draw(key, like, broadcast_dims=broadcast_dims, spec=spec), threshold)
    few = at_most(math.prod(like.shape[axis] for axis in broadcast_dims), _MANY - 1)
    return mask if few else once(mask)


def below(bits: jax.Array, threshold: jax.Array) -> jax.Array:
    """Which of the 32-bit words stand for one of the kept values, whose number is from `law`."""
    return (bits >> np.uint32(9)) < expand(threshold, bits.ndim)


def last_kept(threshold: jax.Array | np.ndarray) -> jax.Array:
    """The largest of the 32-bit words that `below` takes, one comparison instead of a shift and
    one; of rate 1 word 511.
    """
    return (jnp.maximum(jnp.asarray(threshold), np.uint32(1)) << np.uint32(9)) - np.uint32(1)


def once(mask: jax.Array) -> jax.Array:
    """`mask`, a boolean array, as it is, for where an entry serves many results: the compiler forms
    it once, and stores it.

    XLA fuses a mask into what uses it and forms it anew for each result, which for the bits of
    threefry takes longer than all else. It does not do so across an operation that counts as
    expensive, such as a square root, and that of 0 or 1 changes nothing. (XLA for CPU may remove an
    optimization barrier before it fuses.) A comparison of integers, not of floats, lets it
    vectorize loops over few channels.
    """
    return lax.sqrt(mask.astype(jnp.float32)).astype(jnp.int32) > 0


def draw(
    key: jax.Array,
    like: jax.Array | jax.ShapeDtypeStruct,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """The 32 random bits of each mask entry; arguments and shape as in `keep`."""
    return random.bits(key, **block(like, broadcast_dims=broadcast_dims, spec=spec)._asdict())


def block(
    like: jax.Array | jax.ShapeDtypeStruct,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
) -> Block:
    """The part of the whole mask that belongs to `like`; arguments as in `keep`."""
    shape = tuple(1 if axis in broadcast_dims else length for axis, length in enumerate(like.shape))
    origin, extent = _place(shape, broadcast_dims, spec)
    return Block(shape, origin, extent, _explicit(like, broadcast_dims))


def coordinates(
    like: jax.Array, *, broadcast_dims: tuple[int, ...] = (), spec: PartitionSpec | None = None
) -> tuple[list[Coordinate], tuple[int, ...]]:
    """Where the mask's entries stand in the whole one: what `random.bits_at` takes; arguments as in
    `keep`.

    Returns:
      For each axis the coordinates along it, of length 1 along all others; and the shape of the
      whole mask.
    """
    place = block(like, broadcast_dims=broadcast_dims, spec=spec)
    ndim = len(place.shape)
    found = []
    for axis, length in enumerate(place.shape):
        alone = None
        if place.sharding is not None:
            names = [*place.sharding.spec, *[None] * ndim]
            alone = NamedSharding(
                place.sharding.mesh,
                PartitionSpec(
                    *(name if at == axis else None for at, name in enumerate(names[:ndim]))
                ),
            )
        shape = tuple(length if at == axis else 1 for at in range(ndim))
        origin = 0 if place.origin is None else place.origin[axis]
        found.append(coordinate(shape, axis, origin, place.extent[axis], alone))
    return found, place.extent


def scaled(keep: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
    """`x * scale` where `keep` is true and 0 elsewhere whatever `x` holds, formed in float32 at
    least; of the dtype of `x`.
    """
    kind = wide(x.dtype)
    product = x.astype(kind) * expand(scale, x.ndim).astype(kind)
    return jnp.where(keep, product, jnp.zeros((), kind)).astype(x.dtype)


@jax.custom_jvp
def rounded(x: jax.Array) -> jax.Array:
    """`x` itself, as a real number of its dtype: the compiler forms no operation before it together
    with one behind it.

    A minimum that never binds. Without it a product and a sum may be rounded once or twice, and
    factors regrouped, in one program and not in another: the same key would give other bits under
    another layout. Its derivative is 1 without a minimum, whose own would be two more arrays.
    """
    return jnp.minimum(x, jnp.finfo(x.dtype).max)


rounded.defjvp(lambda primals, tangents: (rounded(*primals), *tangents))


def expand(x: jax.Array, ndim: int) -> jax.Array:
    """`x` with leading axes of length 1, up to `ndim` axes; a scalar stays one."""
    return lax.expand_dims(x, range(ndim - x.ndim)) if x.ndim else x


def _place(
    shape: tuple[int, ...], broadcast_dims: tuple[int, ...], spec: PartitionSpec | None
) -> tuple[list[jax.Array | int] | None, tuple[int, ...]]:
    """Which block of the whole array this device holds, and the whole array's shape."""
    if spec is None:
        return None, shape
    origin: list[jax.Array | int] = [0] * len(shape)
    extent = list(shape)
    for axis, names in enumerate(spec):
        place, parts = random.axis_place(names, "spec") if names else (0, 1)
        if axis not in broadcast_dims:
            origin[axis] = place
            extent[axis] *= parts
    return (None if all(isinstance(start, int) for start in origin) else origin), tuple(extent)


def _explicit(
    like: jax.Array | jax.ShapeDtypeStruct, broadcast_dims: tuple[int, ...]
) -> NamedSharding | None:
    """The layout of the mask, where the mesh wants it said."""
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    spec = (None if axis in broadcast_dims else names for axis, names in enumerate(sharding.spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
