"""Where this device stands along the mapped axes of `shard_map`, `pmap` and `vmap`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks


def index_and_size(
    axis_names: str | Sequence[str], name: str = "axis_names"
) -> tuple[jax.Array, int]:
    """`lax.axis_index` and `lax.axis_size` of mapped axes, the first name being the slowest.

    Args:
      axis_names: one name, or several.
      name: the argument that names the axes, for messages.

    Raises:
      TypeError: not names.
      ValueError: a name is not that of a mapped axis.
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


def names_and_size(spec: PartitionSpec | None, axes: Sequence[int]) -> tuple[tuple[str, ...], int]:
    """The names of the mapped axes that divide some axes of an array, and the number of parts.

    Args:
      spec: the layout of the whole array.
      axes: the axes of the array that are asked about.
    """
    entries = [spec[axis] for axis in axes if axis < len(spec)] if spec else []
    names = tuple(
        name
        for entry in entries
        if entry
        for name in ([entry] if isinstance(entry, str) else entry)
    )
    return names, index_and_size(names, "spec")[1] if names else 1
