"""The place of a device's part of a mask in the whole mask."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import _mapped_axes
from jaxdrop.masks._parts import Part
from jaxdrop.random import Coordinate
from jaxdrop.random._positions import coordinate, grid


class Block(NamedTuple):
    """The place of a part of a mask in the whole mask: the arguments of `jaxdrop.random.bits`.

    Attributes:
      shape: the shape of the part.
      origin: the place of the part along each axis, counted in parts; None if it is zero.
      global_shape: the shape of the whole mask.
      sharding: the layout of the part, on a mesh with explicit axes.
    """

    shape: tuple[int, ...]
    origin: list[jax.Array | int] | None
    global_shape: tuple[int, ...]
    sharding: NamedSharding | None


def block(
    like: jax.Array | jax.ShapeDtypeStruct,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
) -> Block:
    """The part of a mask that belongs to an array.

    Args:
      like: as in `keep_mask`.
      broadcast_dims: as in `keep_mask`.
      spec: as in `keep_mask`.

    Returns:
      The place of the part in the whole mask.

    Raises:
      ValueError: `spec` names an axis that is not a mapped axis.
    """
    shape = tuple(1 if axis in broadcast_dims else length for axis, length in enumerate(like.shape))
    origin, global_shape = _origin_and_global_shape(shape, broadcast_dims, spec)
    return Block(shape, origin, global_shape, _explicit_sharding(like, broadcast_dims))


def coordinates(
    like: jax.Array | jax.ShapeDtypeStruct,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
    part: Part | None = None,
) -> tuple[list[Coordinate], tuple[int, ...]]:
    """The coordinates of the entries of a mask in the whole mask: the arguments of
    `jaxdrop.random.bits_at`.

    Args:
      like: as in `keep_mask`.
      broadcast_dims: as in `keep_mask`.
      spec: as in `keep_mask`.
      part: as in `keep_mask`.

    Returns:
      For each axis the coordinates along it, of length 1 along the other axes (those along the axis
      of a part also have the axes of its offset); and the shape of the whole mask.

    Raises:
      ValueError: `spec` names an axis that is not a mapped axis.
    """
    place = block(like, broadcast_dims=broadcast_dims, spec=spec)
    ndim = len(place.shape)
    whole = list(place.global_shape)
    found = []
    for axis, length in enumerate(place.shape):
        sharding = None
        if place.sharding is not None:
            names = [*place.sharding.spec, *[None] * ndim][:ndim]
            alone = (name if at == axis else None for at, name in enumerate(names))
            sharding = NamedSharding(place.sharding.mesh, PartitionSpec(*alone))
        shape = tuple(length if at == axis else 1 for at in range(ndim))
        origin = 0 if place.origin is None else place.origin[axis]
        found.append(coordinate(shape, axis, origin, whole[axis], sharding))
    if part is not None and part.axis not in broadcast_dims:
        found[part.axis] = _moved(found[part.axis], part, ndim)
        whole[part.axis] = part.length
    return found, tuple(whole)


def _moved(place: Coordinate, part: Part, ndim: int) -> Coordinate:
    """The coordinates along the axis of a part, in the whole."""
    offset = jnp.asarray(part.offset).astype(jnp.uint32)
    offset = offset.reshape(*offset.shape, *(1,) * (ndim - offset.ndim))
    # The axis of a part has at most 2**31 - 1 entries: a high word, of a symbolic length, is 0.
    return (place[1] if isinstance(place, tuple) else place) + offset


def positions(
    like: jax.Array, *, broadcast_dims: tuple[int, ...] = (), spec: PartitionSpec | None = None
) -> tuple[Coordinate, int]:
    """The row-major positions of the entries of a mask in the whole mask. A function that draws
    several numbers for each entry takes them as the coordinates along one axis.

    Args:
      like: as in `keep_mask`.
      broadcast_dims: as in `keep_mask`.
      spec: as in `keep_mask`.

    Returns:
      The positions, of the shape of the mask; and the number of entries of the whole mask.

    Raises:
      ValueError: `spec` names an axis that is not a mapped axis.
    """
    place = block(like, broadcast_dims=broadcast_dims, spec=spec)
    found = grid(**place._asdict())
    whole = found.low if found.high is None else (found.high, found.low)
    return whole, math.prod(place.global_shape)


def _origin_and_global_shape(
    shape: tuple[int, ...], broadcast_dims: tuple[int, ...], spec: PartitionSpec | None
) -> tuple[list[jax.Array | int] | None, tuple[int, ...]]:
    """The place of this device's part of shape `shape` in the whole mask, and the whole shape."""
    if spec is None:
        return None, shape
    origin: list[jax.Array | int] = [0] * len(shape)
    global_shape = list(shape)
    for axis, names in enumerate(spec):
        index, size = _mapped_axes.index_and_size(names, "spec") if names else (0, 1)
        if axis not in broadcast_dims:
            origin[axis] = index
            global_shape[axis] *= size
    known = all(isinstance(start, int) for start in origin)
    return None if known else origin, tuple(global_shape)


def _explicit_sharding(
    like: jax.Array | jax.ShapeDtypeStruct, broadcast_dims: tuple[int, ...]
) -> NamedSharding | None:
    """The layout of the mask of `like` on a mesh with explicit axes; None on other meshes."""
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    spec = (None if axis in broadcast_dims else names for axis, names in enumerate(sharding.spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
