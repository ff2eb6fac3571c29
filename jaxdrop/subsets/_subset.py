"""A subset of the members of an axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax

from jaxdrop import _checks, _layouts
from jaxdrop.subsets._moves import GATHERS, SCATTERS, Move


class Subset(NamedTuple):
    """Which members of an axis are kept.

    The axis has `groups * members * block_size` entries; `block_size` is 1 except with the pattern
    `'block'`, whose members are blocks of consecutive entries. Leading axes of the arrays below, if
    there are any, number several subsets: use these with `jax.vmap`.

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

    def gather(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """The kept entries of `x` along `axis`, which becomes k / n as long. Nothing is scaled.

        The transpose of `gather` is `scatter`, in reverse mode too. Forward mode and higher
        derivatives exist.
        """
        return self._move(x, axis, self.ranks.shape[-1], GATHERS)

    def scatter(self, y: jax.Array, axis: int = 0) -> jax.Array:
        """The inverse of `gather`, with zeros in the places of dropped entries."""
        return self._move(y, axis, self.indices.shape[-1], SCATTERS)

    def _move(self, x: jax.Array, axis: int, count: int, moves: tuple[Move, Move]) -> jax.Array:
        """Moves the members that stand along an axis of `x`, `count` in each group."""
        if self.ranks.ndim != 2:
            raise ValueError(
                f"these are subsets of shape {self.ranks.shape[:-2]}, each of which gathers and"
                " scatters by itself: jax.vmap(lambda kept, x: kept.gather(x))(subsets, x)."
            )
        axis = _checks.check_axis(axis, "axis", x.ndim)
        groups, length = self.ranks.shape[0], x.shape[axis]
        if length % (groups * count):
            raise ValueError(
                f"x has {length} entries along axis {axis}, which are not {groups} groups of"
                f" {count} members."
            )
        arrays = self._laid_out(x, axis)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        members = x.reshape(*before, groups, count, length // (groups * count), *after)
        move = moves[self.starts is not None]
        if groups == 1:
            members, *arrays = (lax.squeeze(members, (axis,)), *(each[0] for each in arrays))
            moved = move(axis, members, *arrays)
        else:
            along = (axis, *(0 for _ in arrays))
            moved = jax.vmap(functools.partial(move, axis), along, axis)(members, *arrays)
        return moved.reshape(*before, -1, *after)

    def _laid_out(self, x: jax.Array, axis: int) -> list[jax.Array]:
        """The arrays of this subset. On a mesh with explicit axes, groups are divided over devices
        as `axis` of `x` is.
        """
        arrays = [each for each in self if each is not None]
        mesh = _layouts.mesh_of(x)
        if mesh is None:
            return arrays
        names = _layouts.axes(x)[axis]
        check_groups(self.ranks.shape[0], [mesh.shape[name] for name in names], names)
        return [_layouts.placed(each, mesh, [names, *[()] * (each.ndim - 1)]) for each in arrays]


def check_groups(groups: int, devices: Sequence[int], names: Sequence[str]) -> None:
    """Checks that each device holds whole groups."""
    parts = math.prod(devices)
    if groups % parts:
        raise ValueError(
            f"groups={groups} cannot be divided over the {parts} devices of {tuple(names)}. Each"
            f" device must hold whole groups: let groups be a multiple of {parts}."
        )
