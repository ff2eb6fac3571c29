"""Dropping whole channels, and blocks of neighbors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import _checks, _mapped_axes, _numerics, masks
from jaxdrop.functional import _axes
from jaxdrop.functional._kernel import kernel
from jaxdrop.functional.elements import dropout

Preset = Literal["paper", "torchvision", "timm"]
Normalize = Literal["example", "batch", "expected"]

_BELOW_ONE = np.float32(1 - 2.0**-24)


@_checks.hinted
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
      channel_axis: where the channels are. -1: last, as Flax has it. Before `n` spatial axes, as
        PyTorch has it: `-1 - n`.
      spatial_rank: the number of spatial axes. None: all but the channels and one axis of examples
        in front. Given, any number of axes in front, none included, are axes of examples: `(H, W,
        C)` with 2 is a single image, `(N, T, H, W, C)` with 2 are videos in which each frame has a
        mask of its own.
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


class _Rule(NamedTuple):
    """In what the implementations of DropBlock differ."""

    seeds_everywhere: bool = False
    """Whether a block may reach over the edge, or has to lie inside of the map."""
    shared_by_channels: bool = False
    clipped_to_shortest: bool = False
    """Whether a block that is longer than one axis is cut to that length along all of them."""


_RULES = {
    "paper": _Rule(),
    "torchvision": _Rule(clipped_to_shortest=True),
    "timm": _Rule(seeds_everywhere=True, shared_by_channels=True),
}


class _Geometry(NamedTuple):
    """Along each spatial axis: the length of the map and of a block, and whether seeds lie
    everywhere.
    """

    lengths: tuple[int, ...]
    blocks: tuple[int, ...]
    everywhere: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """How many seeds there are along each axis."""
        if self.everywhere:
            return self.lengths
        return tuple(
            length - block + 1 for length, block in zip(self.lengths, self.blocks, strict=True)
        )

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """What to put around the seeds so that entry `i` falls if there is a seed among `i, ..., i
        + block - 1`.
        """
        if self.everywhere:
            return tuple(((block - 1) // 2, block // 2) for block in self.blocks)
        return tuple((block - 1, block - 1) for block in self.blocks)

    @property
    def seeds_per_rate(self) -> float:
        """The paper's gamma, the probability of a seed, is this times the rate."""
        inside = (
            length - block + 1 for length, block in zip(self.lengths, self.blocks, strict=True)
        )
        return math.prod(self.lengths) / math.prod(self.blocks) / math.prod(inside)

    def kept(self, gamma: Any) -> Any:
        """The expectation of the fraction that is kept: the mean over the map of `(1 - gamma) **
        seeds within reach`.
        """
        xp = jnp if isinstance(gamma, jax.Array) else np
        ones = (
            np.pad(np.ones(seeds), pad) for seeds, pad in zip(self.seeds, self.padding, strict=True)
        )
        reach = [
            np.convolve(line, np.ones(block), "valid")
            for line, block in zip(ones, self.blocks, strict=True)
        ]
        counts, times = np.unique(functools.reduce(np.multiply.outer, reach), return_counts=True)
        line = (1,) * gamma.ndim + (-1,)
        survive = xp.exp(
            xp.log1p(-xp.minimum(gamma, _BELOW_ONE))[..., None]
            * counts.astype(np.float32).reshape(line)
        )
        return (survive * (times / times.sum()).astype(np.float32).reshape(line)).sum(-1)


@_checks.hinted
def drop_block(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    block_size: int | Sequence[int] = 7,
    preset: Preset = "paper",
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
    less than `rate` is dropped: a position within reach of `n` seeds falls with probability `1 - (1
    - gamma)**n`. Even at rate 1 something is kept, unless a block is as large as the map, or a
    single entry. Blocks of even length are fine; longer ones than the map are cut.

    What the implementations do:

    ==============  ======================================  ==================  ====================
    preset          seeds                                   channels            a block longer than
                                                                                the map is cut to
    ==============  ======================================  ==================  ====================
    `paper`         where the whole block fits              each its own mask   each axis by itself
    `torchvision`   where the whole block fits              each its own mask   the shortest axis,
                                                                                along all of them
    `timm`          everywhere, and the edge cuts blocks    one mask for all    each axis by itself
    ==============  ======================================  ==================  ====================

    `paper` is what the code of its authors does. `timm` (from 1.0.23 on) uses the same gamma for
    more seeds, and so drops far more than `rate` on small maps: at rate 0.1 with blocks of 7, 21 %
    of a 14 x 14 map and 93 % of a 7 x 7 map. Its `gamma_scale` is a factor of the rate. All three
    normalize over the batch, which is `normalize='batch'` here.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: `(batch..., space..., channels)`, or `(batch..., channels, space...)`; any floating or
        complex dtype.
      rate: about the fraction to drop, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, with length 1 along the spatial axes. The paper raises it
        linearly from 0 in the course of training.
      block_size: the length of a block, at least 1, or one length for each spatial axis.
      preset: see the table.
      normalize: over what `mean(m)` goes. `'example'`: over each example, so that an example does
        not depend on its batch, and `vmap`, `pmap` and a batch agree. `'batch'`: over the whole of
        `x`. `'expected'`: the expectation of `mean(m)`, a constant: no device waits for another
        one, and no example is blown up for having lost a lot.
      channel_axis: as in `spatial_dropout`.
      spatial_rank: as in `spatial_dropout`.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`; it may divide examples and channels, but no spatial axis.
        (Under plain `jit` any axis may be divided, and nothing needs to be said.)

    Returns:
      An array like `x`, of its shape and dtype. Where all of `m` is 0, so is `y`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `block_size`, `preset` or `normalize` is not one of those above; `x` has too few
        axes, or its channels would stand among its spatial axes; `spec` divides a spatial axis.

    References:
      Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", 2018,
      arXiv:1810.12890.
    """
    x = _checks.check_inexact(x, "drop_block")
    axes = _axes.split(x.ndim, channel_axis, spatial_rank)
    _checks.check_one_of(preset, "preset", Preset)
    _checks.check_one_of(normalize, "normalize", Normalize)
    rule = _RULES[preset]
    lengths = tuple(x.shape[axis] for axis in axes.space)
    geometry = _Geometry(
        lengths, _blocks(block_size, lengths, rule.clipped_to_shortest), rule.seeds_everywhere
    )
    shared = (*axes.space, axes.channel) if rule.shared_by_channels else axes.space
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
    geometry: _Geometry,
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
    """What is like `x` but for some axes, which have lengths of their own and are not divided."""
    shape = tuple(lengths.get(axis, length) for axis, length in enumerate(x.shape))
    layout = jax.typeof(x).sharding
    names = (None if axis in lengths else entry for axis, entry in enumerate(layout.spec))
    return jax.ShapeDtypeStruct(
        shape, x.dtype, sharding=NamedSharding(layout.mesh, PartitionSpec(*names))
    )


def _erode(keep: jax.Array, axis: int, block: int, padding: tuple[int, int]) -> jax.Array:
    """Where all of a window along one axis is kept. One axis after the other: a window over several
    is slow on CPU.
    """
    window = tuple(block if i == axis else 1 for i in range(keep.ndim))
    pads = tuple(padding if i == axis else (0, 0) for i in range(keep.ndim))
    return lax.reduce_window(keep, True, lax.bitwise_and, window, (1,) * keep.ndim, pads)


def _kept(keep: jax.Array, axes: _axes.Axes, names: tuple[str, ...], parts: int) -> jax.Array:
    """The kept fraction of the whole mask along `axes`, which stay, with length 1.

    Counted in integers, which add up to the same under every layout.
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
    """The mask in the layout of `x`, where the mesh wants it said."""
    layout = jax.typeof(x).sharding
    if AxisType.Explicit not in layout.mesh.axis_types:
        return keep
    names = (
        entry if keep.shape[axis] == x.shape[axis] else None
        for axis, entry in enumerate(layout.spec)
    )
    return jax.sharding.reshard(keep, NamedSharding(layout.mesh, PartitionSpec(*names)))


def _blocks(
    block_size: int | Sequence[int], lengths: tuple[int, ...], to_shortest: bool
) -> tuple[int, ...]:
    """The length of a block along each axis, cut to the map."""
    kind = "an integer, or one for each spatial axis"
    several = (
        block_size.ndim > 0
        if isinstance(block_size, np.ndarray)
        else isinstance(block_size, Sequence)
    )
    several = several and not isinstance(block_size, str)
    if several:
        sizes = _checks.check_integers(block_size, "block_size", kind)
    else:
        sizes = (_checks.check_integer(block_size, "block_size", kind),)
    if len(sizes) not in (1, len(lengths)) or min(sizes) < 1:
        shown = _checks.quoted(block_size)
        raise ValueError(
            f"block_size must be at least 1, or that for each of {len(lengths)} spatial axes, got"
            f" {shown}"
        )
    limits = [min(lengths)] * len(lengths) if to_shortest else lengths
    return tuple(
        min(size, limit)
        for size, limit in zip(sizes * (len(lengths) // len(sizes)), limits, strict=True)
    )
