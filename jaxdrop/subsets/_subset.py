"""A subset of the members of an axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks, _layouts, _numerics, masks
from jaxdrop.subsets._moves import GATHERS, SCATTERS, Move


class Subset(NamedTuple):
    """Which members of an axis are kept.

    The axis has `groups * members * block_size` entries; `block_size` is 1 except with the pattern
    `'block'`, whose members are blocks of consecutive entries. Several subsets may be in one: their
    arrays below have further axes in front, and they move entries of arrays with the same first
    axes.

    Attributes:
      indices: int32 `(..., groups, kept)`: the kept members of each group, numbered within the
        group, in ascending order.
      ranks: int32 `(..., groups, members)`: the place of each member in `indices`; `kept` for a
        member that is dropped.
      starts: int32 `(..., groups)`: where the slice of each group starts, of the pattern `'slice'`.
    """

    indices: jax.Array
    ranks: jax.Array
    starts: jax.Array | None = None

    @property
    def scale(self) -> float:
        """The factor n / k of kept members."""
        return self.ranks.shape[-1] / self.indices.shape[-1]

    def places(self, x: jax.Array, axis: int) -> jax.Array:
        """int32 `(..., kept entries)`: the kept entries along an axis of `x`."""
        *rows, groups, members = self.ranks.shape
        length = x.shape[axis]
        size = _block(length, axis, groups, members)
        shape = (*self.indices.shape, size)
        group = members * lax.broadcasted_iota(jnp.int32, shape, len(rows))
        within = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
        places = (group + self.indices[..., None]) * size + within
        return places.reshape(*rows, -1)

    def scaled(self, x: jax.Array) -> jax.Array:
        """`x` times n / k, a product that is formed in float32 at least. Of the dtype of `x`."""
        wide = _numerics.compute_dtype(x.dtype)
        return (x.astype(wide) * jnp.asarray(self.scale, wide)).astype(x.dtype)

    def gather(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """The kept entries of `x` along `axis`, which becomes k / n as long. Nothing is scaled.

        The transpose of `gather` is `scatter`, in reverse mode too. Forward mode and higher
        derivatives exist.
        """
        return self._move(x, axis, self.ranks.shape[-1], GATHERS)

    def scatter(self, y: jax.Array, axis: int = 0) -> jax.Array:
        """The inverse of `gather`, with zeros in the places of dropped entries."""
        return self._move(y, axis, self.indices.shape[-1], SCATTERS)

    def replace(self, x: jax.Array, y: jax.Array, axis: int = 0) -> jax.Array:
        """`x` with the entries of `y` in the places of kept ones: `scatter`, with those of `x` in
        the places of dropped entries.
        """
        there = self.scatter(jnp.ones_like(y, bool), axis)
        there, spread, x = _layouts.alike(there, self.scatter(y, axis), x)
        return jnp.where(there, spread, x)

    def _move(self, x: jax.Array, axis: int, count: int, moves: tuple[Move, Move]) -> jax.Array:
        """Moves the members that stand along an axis of `x`, `count` in each group."""
        axis = _checks.check_axis(axis, "axis", x.ndim)
        *rows, groups, _ = self.ranks.shape
        lead, length = len(rows), x.shape[axis]
        if axis < lead or x.shape[:lead] != (*rows,):
            raise ValueError(
                f"these are subsets of shape {(*rows,)}, one for each entry of the first axes of x,"
                f" but x has shape {tuple(x.shape)} and axis={axis}. Subsets of one axis of the"
                " same x: jax.vmap(lambda kept: kept.gather(x))(subsets)."
            )
        size = _block(length, axis, groups, count)
        arrays = self._laid_out(x, axis)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        members = x.reshape(*before, groups, count, size, *after)
        if _layouts.mesh_of(*arrays) is not None:
            # Both branches have the values of `members`. The purpose of the select is a type: under
            # `vmap` over keys that are divided over an explicit mesh, ranks are divided over the
            # mapped axis, and so must `members` be.
            axes = [*range(lead, axis), *range(axis + 2, members.ndim)]
            there = lax.expand_dims(arrays[1][..., :1] >= 0, axes)
            members = jnp.where(there, members, lax.stop_gradient(members))
        move = functools.partial(moves[self.starts is not None], axis - lead)
        if groups == 1:
            members, *arrays = (
                lax.squeeze(each, (at,))
                for each, at in zip((members, *arrays), (axis, *[lead] * len(arrays)), strict=True)
            )
        else:
            move = jax.vmap(move, (axis - lead, *[0] * len(arrays)), axis - lead)
        for _ in rows:
            move = jax.vmap(move)
        return move(members, *arrays).reshape(*before, -1, *after)

    def _laid_out(self, x: jax.Array, axis: int) -> list[jax.Array]:
        """The arrays of this subset. On a mesh with explicit axes they are divided over devices as
        the first axes of `x` are, and `axis`.
        """
        arrays = [each for each in self if each is not None]
        mesh = _layouts.mesh_of(x)
        if mesh is None:
            return arrays
        *rows, groups, _ = self.ranks.shape
        layout = _layouts.axes(x)
        names = layout[axis]
        check_groups(groups, [mesh.shape[name] for name in names], names)
        layout = [*layout[: len(rows)], names]
        return [
            _layouts.placed(each, mesh, [*layout, *[()] * (each.ndim - len(layout))])
            for each in arrays
        ]


def _block(length: int, axis: int, groups: int, count: int) -> int:
    """How many entries along an axis belong to each of `count` members of each group."""
    if length % (groups * count):
        raise ValueError(
            f"x has {length} entries along axis {axis}, which are not {groups} groups of {count}"
            " members."
        )
    return length // (groups * count)


def dropped(kept: Subset, x: jax.Array, axis: int) -> jax.Array:
    """`kept.scatter(kept.scaled(kept.gather(x, axis)), axis)`, by a mask: nothing moves.

    Args:
      kept: which entries are kept.
      x: an array.
      axis: the axis of `x` along which they lie.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: as `Subset.gather`.
    """
    axis = _checks.check_axis(axis, "axis", x.ndim)
    *rows, groups, members = kept.ranks.shape
    block = _block(x.shape[axis], axis, groups, members)
    keep = (kept.ranks < kept.indices.shape[-1])[..., None]
    keep = jnp.broadcast_to(keep, (*rows, groups, members, block)).reshape(*rows, -1)
    keep = lax.expand_dims(keep, [*range(len(rows), axis), *range(axis + 1, x.ndim)])
    return masks.scaled(keep, x, jnp.asarray(kept.scale))


def check_groups(groups: int, devices: Sequence[int], names: Sequence[str]) -> None:
    """Checks that each device holds whole groups."""
    parts = math.prod(devices)
    if groups % parts:
        raise ValueError(
            f"groups={groups} cannot be divided over the {parts} devices of {tuple(names)}. Each"
            f" device must hold whole groups: let groups be a multiple of {parts}."
        )
