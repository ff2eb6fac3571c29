"""Dropping blocks of neighbors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import _checks, _mapped_axes, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional import _axes
from jaxdrop.functional.regions._geometry import (
    IMPLEMENTATIONS,
    Geometry,
    block_lengths,
    check_block_size,
)

Rule = Literal["paper", "torchvision", "timm"]
Normalize = Literal["example", "batch", "expected"]


@cites("ghiasi2018dropblock")
@_checks.hinted
@_checks.facts(
    draws_nothing_at=(0,),
    block_size=check_block_size,
    spatial_rank=_axes.check_spatial_rank,
)
def drop_block(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    block_size: int | Sequence[int] = 7,
    rule: Rule = "paper",
    normalize: Normalize = "example",
    channel_axis: int = -1,
    spatial_rank: int | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropBlock: `y = m x / mean(m)`, where `m` is 0 in blocks around random seeds and 1 elsewhere,
    in any number of dimensions.

    In two dimensions, over a map of `H x W` and blocks of `h x w`, each place is a seed with
    probability `gamma = rate H W / (h w (H - h + 1) (W - w + 1))`. Blocks overlap, so that a little
    less than `rate` is dropped: a position that `n` places could drop with a seed is dropped with
    probability `1 - (1 - gamma)**n`. Even at rate 1 some entries are kept, unless a block is as
    large as the map, or a single entry. Blocks may have even lengths, and are cut to the map.

    The implementations differ:

    ==============  ======================================  ==================  ====================
    rule            seeds                                   channels            a block longer than
                                                                                the map is cut to
    ==============  ======================================  ==================  ====================
    `paper`         where the whole block fits              each its own mask   each axis by itself
    `torchvision`   where the whole block fits              each its own mask   the shortest axis,
                                                                                along all of them
    `timm`          everywhere, and the edge cuts blocks    one mask for all    each axis by itself
    ==============  ======================================  ==================  ====================

    `paper` is the code of the paper's authors. `timm` (from 1.0.23 on) has the same gamma but more
    places for seeds, and so drops far more than `rate` on small maps: at rate 0.1 with blocks of 7,
    21 % of a 14 x 14 map and 93 % of a 7 x 7 map. Its `gamma_scale` is a factor of the rate. All
    three implementations normalize over the batch: `normalize='batch'`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: `(batch..., space..., channels)`, or `(batch..., channels, space...)`; any floating or
        complex dtype.
      rate: about the fraction to drop, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, with length 1 along the spatial axes. The paper raises it
        linearly from 0 in the course of training.
      block_size: the length of a block, at least 1, or one length for each spatial axis.
      rule: see the table.
      normalize: the mean by which kept entries are divided. `'example'`: `mean(m)` over each
        example, so that the result for an example does not depend on its batch. `'batch'`:
        `mean(m)` over the whole of `x`. `'expected'`: the expectation of `mean(m)`, a constant. It
        needs no sum over devices, and an example that lost many entries is not scaled up more than
        others.
      channel_axis: as in `spatial_dropout`.
      spatial_rank: as in `spatial_dropout`.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`; it may divide examples and channels, but no spatial axis.
        (Under plain `jit` any axis may be divided, without `spec`.)

    Returns:
      An array like `x`, of its shape and dtype. Where all of `m` is 0, so is `y`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `block_size`, `rule` or `normalize` is not one of those above; `x` has too few
        axes, or its channels would stand among its spatial axes; `spec` divides a spatial axis.

    References:
      Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", 2018,
      arXiv:1810.12890.
    """
    x = _checks.check_inexact(x, "drop_block")
    axes = _axes.split(x.ndim, channel_axis, spatial_rank)
    _checks.check_one_of(rule, "rule", Rule)
    _checks.check_one_of(normalize, "normalize", Normalize)
    settings = IMPLEMENTATIONS[rule]
    lengths = tuple(x.shape[axis] for axis in axes.space)
    geometry = Geometry(
        lengths,
        block_lengths(block_size, lengths, settings.clipped_to_shortest),
        settings.seeds_everywhere,
    )
    shared = (*axes.space, axes.channel) if settings.shared_by_channels else axes.space
    x, rate, shared, spec = _checks.check_site("drop_block", x, rate, shared, spec)
    if _mapped_axes.names_and_size(spec, axes.space)[1] > 1:
        raise ValueError(
            f"spec={spec} divides a spatial axis of x: a device would have to know the seeds of its"
            " neighbors. Divide only the examples or the channels, or let jax.jit lay the arrays"
            " out: there any axis may be divided."
        )
    if (
        _checks.check_flag(deterministic, "deterministic")
        or masks.is_number(rate, 0)
        or x.size == 0
    ):
        return x
    gamma = (np if isinstance(rate, float) else jnp).asarray(rate, np.float32) * np.float32(
        geometry.seeds_per_rate
    )
    kept = geometry.kept(gamma) if normalize == "expected" else None
    whole = axes.batch if normalize == "batch" else ()
    key, x = _checks.consume_key(key, "drop_block"), masks.nan_if_impossible(x, rate)
    return _drop_block(
        key,
        x,
        gamma,
        kept,
        axes=axes._replace(batch=whole),
        geometry=geometry,
        shared=shared,
        spec=spec,
    )


@kernel("drop_block")
def _drop_block(
    key: jax.Array,
    x: jax.Array,
    gamma: jax.Array,
    kept: jax.Array | None,
    *,
    axes: _axes.Axes,
    geometry: Geometry,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    seeds = _of_lengths(x, dict(zip(axes.space, geometry.seeds, strict=True)))
    bits = masks.draw(key, seeds, broadcast_dims=tuple(set(shared) - set(axes.space)), spec=spec)
    least = jnp.nan_to_num(_numerics.expand(gamma, x.ndim) * np.float32(2**31)).astype(jnp.uint32)
    keep = (bits >> np.uint32(1)) >= least
    for axis, block, padding in zip(axes.space, geometry.blocks, geometry.padding, strict=True):
        keep = _erode(keep, axis, block, padding)
    if kept is None:
        divided = [axis for axis in (*axes.batch, axes.channel) if axis not in shared]
        kept = _kept(keep, axes, *_mapped_axes.names_and_size(spec, divided))
    none = kept == 0
    scale = jnp.where(none, jnp.zeros_like(kept), 1 / jnp.where(none, jnp.ones_like(kept), kept))
    return masks.scaled(_laid_out(keep, x), x, scale)


def _of_lengths(x: jax.Array, lengths: dict[int, int]) -> jax.ShapeDtypeStruct:
    """The shape, dtype and layout of `x`, with other lengths along some axes, which are not divided
    there.
    """
    shape = tuple(lengths.get(axis, length) for axis, length in enumerate(x.shape))
    layout = jax.typeof(x).sharding
    names = (None if axis in lengths else entry for axis, entry in enumerate(layout.spec))
    return jax.ShapeDtypeStruct(
        shape, x.dtype, sharding=NamedSharding(layout.mesh, PartitionSpec(*names))
    )


def _erode(keep: jax.Array, axis: int, block: int, padding: tuple[int, int]) -> jax.Array:
    """True where all entries of a window along `axis` are True. One axis at a time, since a window
    over several axes is slow on CPU.
    """
    window = tuple(block if i == axis else 1 for i in range(keep.ndim))
    pads = tuple(padding if i == axis else (0, 0) for i in range(keep.ndim))
    return lax.reduce_window(keep, True, lax.bitwise_and, window, (1,) * keep.ndim, pads)


def _kept(keep: jax.Array, axes: _axes.Axes, names: tuple[str, ...], parts: int) -> jax.Array:
    """The fraction of True entries of the whole mask over `axes`, which keep length 1.

    Counted in integers, whose sum is the same under every layout.
    """
    example = (*axes.space, axes.channel)
    size = parts * math.prod(keep.shape[axis] for axis in (*example, *axes.batch))
    spare = max(0, size.bit_length() - 32)
    count = keep.sum(example, keepdims=True, dtype=jnp.uint32)
    count = (count >> np.uint32(spare)).sum(axes.batch, keepdims=True, dtype=jnp.uint32)
    return (lax.psum(count, names) if names else count).astype(jnp.float32) * np.float32(
        2**spare / size
    )


def _laid_out(keep: jax.Array, x: jax.Array) -> jax.Array:
    """The mask in the layout of `x`, on a mesh with explicit axes."""
    layout = jax.typeof(x).sharding
    if AxisType.Explicit not in layout.mesh.axis_types:
        return keep
    names = (
        entry if keep.shape[axis] == x.shape[axis] else None
        for axis, entry in enumerate(layout.spec)
    )
    return jax.sharding.reshard(keep, NamedSharding(layout.mesh, PartitionSpec(*names)))
