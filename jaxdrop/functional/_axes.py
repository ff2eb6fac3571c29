"""Which axes of an array are its examples, its space and its channels."""

from __future__ import annotations

from typing import NamedTuple

import jax

from jaxdrop import _checks

check_spatial_rank = _checks.optional(_checks.at_least(1, "a number of axes, or None"))


class Axes(NamedTuple):
    """Axis numbers, from 0 to `ndim - 1`."""

    batch: tuple[int, ...]
    space: tuple[int, ...]
    channel: int


def split(ndim: int, channel_axis: int, spatial_rank: int | None) -> Axes:
    """The axes of `(batch..., space..., channels)` or `(batch..., channels, space...)`.

    Args:
      ndim: of the array.
      channel_axis: the last axis, or the one before the spatial axes.
      spatial_rank: how many axes are spatial; None for all but the first axis and the channels.
    """
    channel = _checks.check_axis(channel_axis, "channel_axis", ndim)
    given = check_spatial_rank(spatial_rank, "spatial_rank")
    rank = ndim - 2 if given is None else given
    x = _checks.shown("x")
    if rank < 1 or rank >= ndim:
        raise ValueError(
            f"{x} has {ndim} axes, too few for {_checks.quoted(max(rank, 1))} of space and one of"
            " channels"
            + (
                " behind one of examples. For a single example give spatial_rank."
                if spatial_rank is None
                else f": spatial_rank={_checks.quoted(rank)}."
            )
        )
    first = ndim - 1 - rank
    if channel not in (ndim - 1, first):
        raise ValueError(
            f"channel_axis={channel_axis} of {ndim} axes would stand among {rank} axes of space."
            f" Channels are the last axis (-1) or the one before those of space ({-1 - rank}),"
            " whether there are axes of examples in front or not."
        )
    space = range(first, ndim - 1) if channel == ndim - 1 else range(first + 1, ndim)
    return Axes(tuple(range(first)), tuple(space), channel)


def all_but(x: jax.Array, **own: int) -> tuple[int, ...]:
    """The axes of `x` without those of `own`, which maps names of arguments to axis numbers."""
    return tuple(
        sorted(
            set(range(x.ndim))
            - {_checks.check_axis(axis, name, x.ndim) for name, axis in own.items()}
        )
    )
