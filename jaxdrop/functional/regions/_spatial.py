"""Dropping whole channels."""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional import _axes
from jaxdrop.functional.elements import dropout


@cites("tompson2015efficient")
@_checks.hinted
@_checks.facts(spatial_rank=_axes.check_spatial_rank)
def spatial_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    channel_axis: int = -1,
    spatial_rank: int | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Dropout of whole channels: `y = m x / (1 - rate)` with one `m ~ Bernoulli(1 - rate)` for each
    channel of each example.

    This is `jaxdrop.dropout` with the spatial axes as `broadcast_dims`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: `(batch..., space..., channels)`, or `(batch..., channels, space...)`; any floating or
        complex dtype.
      rate: the probability of dropping a channel, in [0, 1]: a number, a traced scalar, or an array
        that broadcasts to the mask's shape, which is 1 along the spatial axes.
      channel_axis: the axis of the channels: the last one, -1, as in Flax, or the one before `n`
        spatial axes, `-1 - n`, as in PyTorch.
      spatial_rank: the number of spatial axes. None: all axes but the channels and one axis of
        examples in front. If it is given, there may be any number of axes of examples in front, or
        no such axis: with 2, `(H, W, C)` is a single image, and `(N, T, H, W, C)` are videos in
        which each frame has a mask of its own.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `x` has too few axes, or its channels would stand among its spatial axes.

    References:
      Tompson, Goroshin, Jain, LeCun & Bregler, "Efficient object localization using convolutional
      networks", 2014, arXiv:1411.4280.
    """
    x = _checks.check_inexact(x, "spatial_dropout")
    space = _axes.split(x.ndim, channel_axis, spatial_rank).space
    with jax.named_scope("jaxdrop.spatial_dropout"):
        return dropout(key, x, rate, broadcast_dims=space, deterministic=deterministic, spec=spec)


def check_rank(caller: str, x: jax.Array, rank: int) -> None:
    """Checks that `x` is one example or a batch of them, with `rank` spatial axes."""
    x, name = _checks.check_inexact(x, caller), _checks.shown("x")
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{caller} takes a batch of {rank + 2} axes or a single example of {rank + 1}, but"
            f" {name} has shape {x.shape}. For other layouts there is jaxdrop.spatial_dropout(key,"
            " x, rate, spatial_rank=...), for vectors jaxdrop.dropout."
        )
