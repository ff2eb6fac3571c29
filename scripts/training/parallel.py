"""Meshes, where batches lie on them, and the three ways to divide the work of a gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from flax import linen
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from training.data import Examples
from training.layouts import MESH_AXES, RULES

P = PartitionSpec
BATCH = linen.logical_to_mesh_axes(("batch",), RULES)[0]
Parallel: TypeAlias = Literal["jit", "shard_map", "pmap"]
Gradients: TypeAlias = Callable[..., tuple[Any, Any, dict[str, jax.Array]]]


def make_mesh(text: str | None, devices: Sequence[Any]) -> Mesh:
    """A mesh with the axes `layouts.MESH_AXES`, from a text such as `fsdp=4,tensor=2`; by default
    all devices divide the batch.
    """
    sizes = dict.fromkeys(MESH_AXES, 1)
    if text is None:
        sizes["data"] = len(devices)
    else:
        named = "|".join(MESH_AXES)
        parts = [
            re.fullmatch(rf"\s*({named})\s*=\s*([1-9]\d*)\s*", part) for part in text.split(",")
        ]
        for written, part in zip(text.split(","), parts, strict=True):
            if part is None:
                raise SystemExit(
                    f"--mesh {text}: {written!r} is none of"
                    f" {', '.join(f'{axis}=N' for axis in MESH_AXES)}"
                )
        given = [part[1] for part in parts if part is not None]
        if twice := sorted({axis for axis in given if given.count(axis) > 1}):
            raise SystemExit(f"--mesh {text}: {twice[0]} stands there twice")
        sizes |= {part[1]: int(part[2]) for part in parts if part is not None}
    if math.prod(sizes.values()) != len(devices):
        raise SystemExit(
            f"--mesh {text}: {' x '.join(str(size) for size in sizes.values() if size > 1) or 1} is"
            f" not the number of devices, {len(devices)} ({devices[0].platform}). On CPU,"
            " XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of them."
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)


class Placement:
    """How batches of `(micro_batches, examples, ...)` come from this process onto the devices."""

    def __init__(self, mesh: Mesh, size: int, micro_batches: int, parallel: Parallel) -> None:
        parts = math.prod(mesh.shape[axis] for axis in BATCH)
        if size // micro_batches % parts:
            raise SystemExit(
                f"--batch {size}: its {micro_batches} micro-batches of {size // micro_batches}"
                f" examples cannot be divided among {parts} devices (the axes"
                f" {' and '.join(BATCH)} of --mesh)"
            )
        self.shape = micro_batches, size // micro_batches
        self.parts = parts
        self.sharding = NamedSharding(mesh, P(None, BATCH))
        self.parallel = parallel
        self.devices = mesh.size

    @property
    def rows(self) -> list[int]:
        """The rows of a micro-batch that this process loads."""
        parts = self.sharding.addressable_devices_indices_map(self.shape).values()
        return sorted(
            {
                row
                for part in parts
                if part is not None
                for row in range(*part[1].indices(self.shape[1]))
            }
        )

    def __call__(self, batch: Examples) -> Examples:
        def one(leaf: Any) -> Any:
            if self.parallel == "pmap":
                parts = leaf.reshape(leaf.shape[0], self.devices, -1, *leaf.shape[2:])
                return np.moveaxis(parts, 1, 0)
            return jax.make_array_from_process_local_data(
                self.sharding, leaf, (*self.shape, *leaf.shape[2:])
            )

        return Examples(*map(one, batch))

    def shapes(self, example: Examples) -> Any:
        """Stands for a batch of examples like this one, to compile for."""

        def one(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                (*self.shape, *leaf.shape), leaf.dtype, sharding=self.sharding
            )

        return Examples(*map(one, example))  # type: ignore[arg-type]

    def rows_of(self, part: Any) -> Any:
        """Arrays of which this process holds its rows of a micro-batch, as parts of the whole."""
        sharding = NamedSharding(self.sharding.mesh, P(BATCH))

        def one(leaf: Any) -> jax.Array:
            shape = (self.shape[1], *leaf.shape[1:])
            return jax.make_array_from_process_local_data(sharding, leaf, shape)

        return jax.tree.map(one, part)

    @property
    def everywhere(self) -> NamedSharding:
        """Each device holds all of it."""
        return NamedSharding(self.sharding.mesh, P())


# -- dividing the work


def divide(gradients: Gradients, mesh: Mesh, parallel: Parallel) -> Gradients:
    """`gradients(params, stats, batch, step, strength, axis=None)` over all devices, with the same
    result in all three ways.

    Under `jit` the compiler divides it. In the others each device has a part of the batch in its
    hands, draws its part of the masks (see `localize`), and the parts' gradients are averaged.
    """
    if parallel == "jit":
        return gradients

    def local(batch: Examples, others: tuple[Any, ...]) -> tuple[Any, Any, dict[str, jax.Array]]:
        params, stats, step, strength = others
        return lax.pmean(gradients(params, stats, batch, step, strength, axis="data"), "data")

    if parallel == "shard_map":
        # The other axes stay with the compiler.
        specs = {"in_specs": (P(None, "data"), P()), "out_specs": P()}
        mapped = jax.shard_map(local, mesh=mesh, **specs, axis_names={"data"}, check_vma=False)
    elif jax.process_count() > 1 or mesh.size > mesh.shape["data"]:
        raise SystemExit(
            "--parallel pmap: is for one process and --mesh data=N. Take jit or shard_map."
        )
    else:
        # One argument for all that is not divided: by itself, empty statistics would put `in_axes`
        # out of step (JAX 0.10, 0.12).
        mapped = jax.pmap(
            local,
            axis_name="data",
            in_axes=(0, None),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )
    return lambda params, stats, batch, step, strength: mapped(
        batch, (params, stats, step, strength)
    )
