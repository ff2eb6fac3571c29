"""Which devices a call of attention is traced for: its blocks and kernels depend on them."""

from __future__ import annotations

import math

import jax


def platform() -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: of the devices of the current mesh, or else of this process.

    They differ where a program is compiled ahead of time, for devices that another machine has:
    `with jax.set_mesh(mesh): jax.jit(step).lower(...)` with a mesh of a
    `jax.experimental.topologies` description.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def devices() -> int:
    """How many devices of the current mesh an array may be divided among, 1 without a mesh. Along
    an axis of a `shard_map`, each has an array of its own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(size for name, size in mesh.shape.items() if name not in mesh.manual_axes)
