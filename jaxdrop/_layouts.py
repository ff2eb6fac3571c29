"""Layouts of arrays on a mesh with explicit axes, where JAX raises an error for an operation whose
result could be divided in several ways.

On meshes with automatic axes, and without a mesh, these functions change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, reshard

Names = tuple[str, ...]


def mesh_of(*arrays: Any) -> AbstractMesh | None:
    """The mesh with explicit axes over which one of the arrays is laid out, or None."""
    meshes: Iterable[AbstractMesh] = (jax.typeof(x).sharding.mesh for x in arrays)
    return next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)


def axes(x: jax.Array) -> list[Names]:
    """The mesh axes that divide each axis of `x`."""
    entries = jax.typeof(x).sharding.spec
    return [names(entry) for entry in (*entries, *[None] * (x.ndim - len(entries)))]


def names(entry: Any) -> Names:
    """An entry of a `PartitionSpec` as a tuple of mesh axes."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def spec(*entries: Names) -> PartitionSpec:
    """The layout that divides each axis by these mesh axes."""
    return PartitionSpec(*(entry or None for entry in entries))


def joined(*layouts: list[Names]) -> list[Names]:
    """One layout from several: each axis is divided as in the first layout that divides it, unless
    these mesh axes divide another axis already.
    """
    found, *others = ([*layout] for layout in layouts)
    used = {name for entry in found for name in entry}
    for other in others:
        for axis, entry in enumerate(other):
            if not found[axis] and used.isdisjoint(entry):
                found[axis] = entry
                used.update(entry)
    return found


def alike(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays of one shape with one layout. Call it under `jit`, which moves arrays of a single
    device to the mesh.
    """
    mesh = mesh_of(*arrays)
    if mesh is None:
        return list(arrays)
    layout = joined(*map(axes, arrays))
    return [placed(x, mesh, layout) for x in arrays]


def placed(x: jax.Array, mesh: AbstractMesh | None, layout: list[Names]) -> jax.Array:
    """`x` with this layout on the mesh, or `x` itself without a mesh."""
    return x if mesh is None else reshard(x, NamedSharding(mesh, spec(*layout)))
