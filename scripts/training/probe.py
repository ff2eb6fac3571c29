"""A model with nothing to learn, whose loss is a checksum of its masks.

`scripts/train.py --model masks` logs one number a step. Runs with the same seed log the same
numbers if, and in practice only if, they draw the same masks, whatever the mesh, the number of
processes and how often they were resumed. Sums of whole numbers below 2**24 are exact in float32,
in any order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import jaxdrop.nnx
from training.data import Array


class Probe(nnx.Module):
    """Drops entries, channels and examples of `(batch, height, width, 1)`, entries in a loop whose
    steps are computed again.
    """

    def __init__(self) -> None:
        self.unused = nnx.Param(jnp.zeros(()))
        self.dropout = jaxdrop.nnx.Dropout(0.5)
        self.channels = jaxdrop.nnx.SpatialDropout(0.5)
        self.paths = jaxdrop.nnx.DropPath(0.5)

    def __call__(
        self, images: jax.Array, rngs: nnx.Rngs | None = None, *, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """Sums over what is left of each example, `(batch, 1)`."""
        del strength  # the scales stay powers of two
        places = 1 + jnp.arange(64, dtype=images.dtype) % 8
        x = (16 * images).reshape(len(images), 1, -1, 1)[:, :, :64] * places[: images[0].size, None]
        total = (
            self.dropout(x, rngs=rngs)
            + 3 * self.channels(x, rngs=rngs)
            + 5 * self.paths(x, rngs=rngs)
        )

        def add(total: jax.Array, key: jax.Array | None) -> tuple[jax.Array, None]:
            return total + self.dropout(x, rngs=key, deterministic=key is None), None

        keys = None if rngs is None else jax.random.split(rngs.dropout(), 2)
        total, _ = lax.scan(jax.checkpoint(add, prevent_cse=False), total, keys, length=2)
        return total.sum((1, 2)) + 0 * self.unused


def checksum(logits: jax.Array, labels: Array) -> jax.Array:
    """The sum of each example. The mean over a power of two of them is exact."""
    del labels
    return logits[:, 0]
