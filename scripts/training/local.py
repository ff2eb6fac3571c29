"""What a model has to know where its arrays are one device's part of the batch: inside `shard_map`
and `pmap`.
"""

from __future__ import annotations

from flax import nnx
from jax.sharding import PartitionSpec


def localize(model: nnx.Module, axis: str) -> None:
    """Makes a model draw its part of the masks of the whole batch, and take BatchNorm's statistics
    over the whole batch.
    """
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "spec"):
            module.spec = PartitionSpec(axis)
        if isinstance(module, nnx.BatchNorm):
            module.axis_name = axis
