"""The geometry of DropBlock: the places of seeds, and the blocks around them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks

_BELOW_ONE = np.float32(1 - 2.0**-24)


class Implementation(NamedTuple):
    """The differences between implementations of DropBlock."""

    seeds_everywhere: bool = False
    """Whether every entry of the map may be a seed, or only those whose block lies inside the
    map.
    """
    shared_by_channels: bool = False
    clipped_to_shortest: bool = False
    """Whether a block that is longer than one axis is cut to that length along all of them."""


IMPLEMENTATIONS = {
    "paper": Implementation(),
    "torchvision": Implementation(clipped_to_shortest=True),
    "timm": Implementation(seeds_everywhere=True, shared_by_channels=True),
}


class Geometry(NamedTuple):
    """The lengths of the map and of a block along each spatial axis, and whether every entry of the
    map may be a seed.
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
        """The padding of the array of seeds along each axis with which entry `i` is dropped if
        there is a seed among the padded entries `i, ..., i + block - 1`.
        """
        if self.everywhere:
            return tuple(((block - 1) // 2, block // 2) for block in self.blocks)
        return tuple((block - 1, block - 1) for block in self.blocks)

    @property
    def seeds_per_rate(self) -> float:
        """The probability of a seed, the paper's gamma, divided by the rate."""
        inside = (
            length - block + 1 for length, block in zip(self.lengths, self.blocks, strict=True)
        )
        return math.prod(self.lengths) / math.prod(self.blocks) / math.prod(inside)

    def kept(self, gamma: Any) -> Any:
        """The expected fraction of kept entries: the mean over the map of `(1 - gamma)**n`, `n`
        being the number of places whose seed would drop an entry.
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


def check_block_size(block_size: Any, name: str) -> tuple[int, ...]:
    """The argument as one length of a block, or several."""
    kind = "an integer, or one for each spatial axis"
    several = isinstance(block_size, np.ndarray) and block_size.ndim > 0
    if several or (isinstance(block_size, Sequence) and not isinstance(block_size, str)):
        sizes = _checks.check_integers(block_size, name, kind)
    else:
        sizes = (_checks.check_integer(block_size, name, kind),)
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"{name} must be at least 1, or that for each of the spatial axes, got"
            f" {_checks.quoted(block_size)}"
        )
    return sizes


def block_lengths(
    block_size: int | Sequence[int], lengths: tuple[int, ...], to_shortest: bool
) -> tuple[int, ...]:
    """The length of a block along each axis, cut to the map."""
    sizes = check_block_size(block_size, "block_size")
    if len(sizes) not in (1, len(lengths)):
        raise ValueError(
            f"block_size must be at least 1, or that for each of {len(lengths)} spatial axes, got"
            f" {_checks.quoted(block_size)}"
        )
    limits = [min(lengths)] * len(lengths) if to_shortest else lengths
    return tuple(
        min(size, limit)
        for size, limit in zip(sizes * (len(lengths) // len(sizes)), limits, strict=True)
    )
