"""Where arrays lie on a mesh: the names of their axes, and the mesh axes that divide each name.

Models name the axes of their activations (`flax.linen.with_logical_constraint`), this module those
of their parameters. `RULES` maps both to the mesh, so that another layout is another table.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

import jax
from flax import linen
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rules: TypeAlias = tuple[tuple[str, str | tuple[str, ...]], ...]

MESH_AXES = ("data", "fsdp", "tensor", "sequence")
"""The batch is divided by the first two, parameters by `fsdp`, each layer's units and heads by
`tensor`, and tokens by `sequence`; between two branches also by `tensor`."""

RULES: Rules = (
    ("batch", ("data", "fsdp")),
    ("length", "sequence"),
    ("residual", ("sequence", "tensor")),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocabulary", "tensor"),
)


def within(parallel: str, axis: str | None) -> Rules:
    """The rules inside `shard_map` over `axis`, where that axis is divided already, or inside
    `pmap`, where there is no mesh.
    """
    if axis is None:
        return RULES
    if parallel == "pmap":
        return ()
    left = ((name, (axes,) if isinstance(axes, str) else axes) for name, axes in RULES)
    return tuple((name, tuple(other for other in axes if other != axis)) for name, axes in left)


# Megatron's layout: the first of two matrices is divided by its outputs, the second by its inputs,
# and one sum follows them. The names are those of the last axes of the array.
_PARAMETERS: dict[str, tuple[str | None, ...]] = {
    r"attention/(query|key|value)/kernel": ("embed", "heads", None),
    r"attention/(query|key|value)/bias": ("heads", None),
    r"attention/out/kernel": ("heads", None, "embed"),
    r"up/kernel": ("embed", "mlp"),
    r"up/bias": ("mlp",),
    r"down/kernel": ("mlp", "embed"),
    r"(tokens|positions)/embedding": (None, "embed"),
    r"head/kernel": ("embed", "vocabulary"),
    r"head/bias": ("vocabulary",),
    r"hidden/\d+/linear/kernel": ("embed", "mlp"),
    r"hidden/\d+/linear/bias": ("mlp",),
    # Recurrent matrices would be gathered once for each token.
    r"rnn/.*": (),
}


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def layout(params: Any, mesh: Mesh) -> Any:
    """The sharding of each parameter. An axis that the devices cannot divide evenly stays whole."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        spec = linen.logical_to_mesh_axes(_axes(name(path), leaf.shape, mesh), RULES)
        axes = [
            axis if size % _devices(mesh, axis) == 0 else None
            for size, axis in zip(leaf.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map_with_path(one, params)


def name(path: Any) -> str:
    """The name of a parameter, such as `blocks/up/kernel`, in a model's state or a checkpoint."""
    entries = [str(getattr(entry, "key", getattr(entry, "idx", ""))) for entry in path]
    return "/".join(entry for entry in entries if entry not in ("", "value"))


def _axes(name: str, shape: tuple[int, ...], mesh: Mesh) -> list[str | None]:
    """The names of a parameter's axes. Of a kernel or table that is not listed, the longest axis
    that can be divided is `embed`.
    """
    for pattern, names in _PARAMETERS.items():
        if re.search(f"(^|/){pattern}(/|$)", name):
            return [*[None] * (len(shape) - len(names)), *names]
    axes: list[str | None] = [None] * len(shape)
    if re.search(r"(^|/)(kernel|embedding)(/|$)", name):
        parts = _devices(mesh, "fsdp")
        axes[max(range(len(shape)), key=lambda axis: (shape[axis] % parts == 0, shape[axis]))] = (
            "embed"
        )
    return axes


def _devices(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
    axes = (axis,) if isinstance(axis, str) else axis or ()
    return math.prod(mesh.shape[name] for name in axes)
