"""Modules that drop channels and blocks. See `jaxdrop.functional.regions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import regions
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen.elements import Channelwise


class SpatialDropout(Channelwise):
    """`jaxdrop.spatial_dropout` as a Linen module: drops whole channels.

    `Dropout1d`, `Dropout2d` and `Dropout3d` are the same for a known number of spatial axes, which
    they check.

    Attributes:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: where the channels are: last, or before `n` spatial axes (`-1 - n`).
      spatial_rank: the number of spatial axes; None for all but the first axis and the channels.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.spatial_dropout`.
    """

    _function = staticmethod(regions.spatial_dropout)


class DropoutOfRank(Stochastic):
    """What `Dropout1d`, `Dropout2d` and `Dropout3d` share."""

    _rank: ClassVar[int]

    rate: float
    channel_axis: int = -1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops channels of `inputs`. Args and Returns: as `jaxdrop.linen.Dropout`."""
        regions.check_rank(type(self).__name__, inputs, self._rank)
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        layout = {"channel_axis": self.channel_axis, "spatial_rank": self._rank}
        return regions.spatial_dropout(key, inputs, rate, **layout, deterministic=off, spec=spec)


class Dropout1d(DropoutOfRank):
    """Drops whole channels of `(N, L, C)` or `(L, C)`: `jaxdrop.spatial_dropout` as a Linen module.

    Attributes:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: -1, or -2 for `(N, C, L)` and `(C, L)`, which PyTorch has.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.spatial_dropout`.
      ValueError: the input has other than 2 or 3 axes.
    """

    _rank = 1


class Dropout2d(DropoutOfRank):
    """Drops whole channels of `(N, H, W, C)` or `(H, W, C)`: `jaxdrop.spatial_dropout` as a Linen
    module.

    Attributes:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: -1, or -3 for `(N, C, H, W)` and `(C, H, W)`, which PyTorch has. Three axes are
        always one image: PyTorch's `(N, C, L)` is for `Dropout1d`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.spatial_dropout`.
      ValueError: the input has other than 3 or 4 axes.
    """

    _rank = 2


class Dropout3d(DropoutOfRank):
    """Drops whole channels of `(N, D, H, W, C)` or `(D, H, W, C)`: `jaxdrop.spatial_dropout` as a
    Linen module.

    Attributes:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: -1, or -4 for `(N, C, D, H, W)` and `(C, D, H, W)`, which PyTorch has.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.spatial_dropout`.
      ValueError: the input has other than 4 or 5 axes.
    """

    _rank = 3


class DropBlock(Stochastic):
    """`jaxdrop.drop_block` as a Linen module.

    Attributes:
      rate: about the fraction to drop, a number in [0, 1]; a schedule's value goes into the call,
        `layer(x, rate=...)`.
      block_size: the length of a block, or one length for each spatial axis.
      rule: `'paper'`, `'torchvision'` or `'timm'`.
      normalize: `'example'`, `'batch'` or `'expected'`.
      channel_axis: where the channels are: last, or before `n` spatial axes (`-1 - n`).
      spatial_rank: the number of spatial axes; None for all but the first axis and the channels.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.drop_block`.
    """

    _draws_nothing_at = (0,)

    rate: float
    block_size: int | Sequence[int] = 7
    rule: regions.Rule = "paper"
    normalize: regions.Normalize = "example"
    channel_axis: int = -1
    spatial_rank: int | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops blocks of `inputs`. Args and Returns: as `jaxdrop.linen.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return regions.drop_block(
            key,
            inputs,
            rate,
            block_size=self.block_size,
            rule=self.rule,
            normalize=self.normalize,
            channel_axis=self.channel_axis,
            spatial_rank=self.spatial_rank,
            deterministic=off,
            spec=spec,
        )
