"""A residual network in Flax NNX, with BatchNorm, DropBlock, drop path, and dropout before the last
layer.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import with_logical_constraint as constrain

import jaxdrop
import jaxdrop.nnx


class Block(nnx.Module):
    """Two convolutions with a residual sum, whose branch loses blocks of pixels, and now and then
    all of itself.
    """

    def __init__(
        self, channels: int, block_rate: float, path_rate: float, *, rngs: nnx.Rngs
    ) -> None:
        self.first = nnx.Conv(channels, channels, (3, 3), use_bias=False, rngs=rngs)
        self.first_norm = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(channels, channels, (3, 3), use_bias=False, rngs=rngs)
        self.second_norm = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.drop_block = jaxdrop.nnx.DropBlock(block_rate, block_size=3)
        self.drop_path = jaxdrop.nnx.DropPath(path_rate)

    def __call__(
        self, x: jax.Array, strength: float | jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        # DropBlock comes behind BatchNorm, whose running averages therefore are of whole images.
        y = nnx.relu(self.first_norm(self.first(x)))
        y = self.drop_block(y, rate=strength * self.drop_block.rate, rngs=rngs)
        y = self.second_norm(self.second(y))
        return nnx.relu(x + self.drop_path(y, rate=strength * self.drop_path.rate, rngs=rngs))


class CNN(nnx.Module):
    """Classifies images.

    Args:
      color_channels: of an image.
      classes: the number of classes.
      channels: of the convolutions.
      layers: the number of residual blocks.
      rate: of dropout, before the last layer.
      block_rate: of DropBlock.
      path_rate: of drop path, in the last block; the first one has 0.
      remat: whether the backward pass computes each block again instead of storing it.
      rngs: for the parameters.
    """

    def __init__(
        self,
        color_channels: int,
        classes: int,
        *,
        channels: int,
        layers: int,
        rate: float,
        block_rate: float,
        path_rate: float,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = nnx.Conv(color_channels, channels, (3, 3), rngs=rngs)
        path_rates = jaxdrop.depth_rates(path_rate, layers)
        self.blocks = nnx.List(
            [Block(channels, block_rate, float(rate), rngs=rngs) for rate in path_rates]
        )
        self.dropout = jaxdrop.nnx.Dropout(rate)
        self.last = nnx.Linear(channels, classes, rngs=rngs)
        self.remat = remat

    def __call__(
        self, images: jax.Array, rngs: nnx.Rngs | None = None, *, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """The logits, `(batch, classes)`.

        Args:
          images: `(batch, height, width, color_channels)`.
          rngs: where the keys come from, if anything is to be dropped. There is no stored stream.
          strength: multiplies all rates; a traced value, as of a schedule, does not recompile.
        """
        run: Callable[..., jax.Array] = nnx.remat(Block.__call__) if self.remat else Block.__call__
        x = self.stem(images)
        for block in self.blocks:
            x = constrain(run(block, x, strength, rngs), ("batch", None, None, None))
        return self.last(
            self.dropout(jnp.mean(x, axis=(1, 2)), rate=strength * self.dropout.rate, rngs=rngs)
        )
