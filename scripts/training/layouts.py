"""Where parameters lie on a mesh with the axes `data` and `model`."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Megatron's layout: the first of two matrices is divided by its outputs, the second by its inputs,
# and one sum follows them. The names are those of the axes that divide the last axes of the array;
# 'data' counts only with `--fsdp`.
_LAYOUTS: dict[str, tuple[str | None, ...]] = {
    r"attention/(query|key|value)/kernel": ("data", "model", None),
    r"attention/(query|key|value)/bias": ("model", None),
    r"attention/out/kernel": ("model", None, "data"),
    r"up/kernel": ("data", "model"),
    r"up/bias": ("model",),
    r"down/kernel": ("model", "data"),
    r"tokens/embedding": (None, "data"),
    r"head/kernel": ("data", "model"),
    r"hidden/\d+/linear/kernel": ("data", "model"),
    r"hidden/\d+/linear/bias": ("model",),
}


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def layout(params: Any, mesh: Mesh, *, fsdp: bool) -> Any:
    """The sharding of each parameter, by its name and shape."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(entry, "key", getattr(entry, "idx", ""))) for entry in path)
        names = next(
            (names for pattern, names in _LAYOUTS.items() if re.search(f"{pattern}(/|$)", name)), ()
        )
        axes: list[str | None] = [*[None] * (leaf.ndim - len(names)), *names]
        for place, axis in enumerate(axes):
            if axis is not None and (
                leaf.shape[place] % mesh.shape[axis] or (axis == "data" and not fsdp)
            ):
                axes[place] = None
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map_with_path(one, params)
