"""Layers that drop channels and blocks. See `jaxdrop.functional.regions`."""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxdrop.functional import regions
from jaxdrop.layers._variant import Variant
from jaxdrop.layers.elements import Channelwise

__all__ = ["DropBlock", "Dropout1d", "Dropout2d", "Dropout3d", "DropoutOfRank", "SpatialDropout"]


class SpatialDropout(Channelwise, function=regions.spatial_dropout):
    """`jaxdrop.spatial_dropout` as a layer: drops whole channels.

    `Dropout1d`, `Dropout2d` and `Dropout3d` are the same for a known number of spatial axes, which
    they check.
    """


class DropoutOfRank(Variant, function=regions.spatial_dropout):
    """What `Dropout1d`, `Dropout2d` and `Dropout3d` share."""

    spatial_rank: ClassVar[int]
    rate: float
    channel_axis: int = -1

    def _check_operands(self, *operands: Any) -> Sequence[Any]:
        """Checks that the inputs are one example or a batch of them."""
        (inputs,) = operands
        regions.check_rank(type(self).__name__, inputs, self.spatial_rank)
        return operands


class Dropout1d(DropoutOfRank):
    """Drops whole channels of `(N, L, C)` or `(L, C)`: `jaxdrop.spatial_dropout` as a layer.

    Args:
      channel_axis: -1, or -2 for `(N, C, L)` and `(C, L)`, which PyTorch has.
    """

    spatial_rank = 1


class Dropout2d(DropoutOfRank):
    """Drops whole channels of `(N, H, W, C)` or `(H, W, C)`: `jaxdrop.spatial_dropout` as a layer.

    Args:
      channel_axis: -1, or -3 for `(N, C, H, W)` and `(C, H, W)`, which PyTorch has. Three axes are
        always one image: PyTorch's `(N, C, L)` is for `Dropout1d`.
    """

    spatial_rank = 2


class Dropout3d(DropoutOfRank):
    """Drops whole channels of `(N, D, H, W, C)` or `(D, H, W, C)`: `jaxdrop.spatial_dropout` as a
    layer.

    Args:
      channel_axis: -1, or -4 for `(N, C, D, H, W)` and `(C, D, H, W)`, which PyTorch has.
    """

    spatial_rank = 3


class DropBlock(Variant, function=regions.drop_block):
    """`jaxdrop.drop_block` as a layer.

    Args:
      rate: about the fraction to drop, a number in [0, 1]; a schedule's value goes into the call,
        `layer(x, rate=...)`.
      block_size: the length of a block, or one length for each spatial axis.
      rule: `'paper'`, `'torchvision'` or `'timm'`.
      normalize: `'example'`, `'batch'` or `'expected'`.
    """

    rate: float
    block_size: int | Sequence[int] = 7
    rule: regions.Rule = "paper"
    normalize: regions.Normalize = "example"
    channel_axis: int = -1
    spatial_rank: int | None = None
