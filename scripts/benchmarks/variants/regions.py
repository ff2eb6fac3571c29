"""Whole channels, and blocks of neighbors."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal


def regions(quick: bool) -> Iterator[Table | Bar]:
    """Spatial dropout, and DropBlock over large and small maps, in two and three dimensions."""
    batch = 1 if quick else 16
    large, narrow, small = (
        normal(batch, 28, 28, 128),
        normal(batch, 56, 56, 32),
        normal(batch, 14, 14, 256),
    )
    solid = normal(1 if quick else 4, 16, 28, 28, 32)
    block = functools.partial(jaxdrop.drop_block, rate=RATE)
    whole = functools.partial(block, normalize="batch")
    timm = functools.partial(whole, rule="timm")
    contests = [
        Contest(
            "spatial_dropout",
            lambda key, x: jaxdrop.spatial_dropout(key, x, RATE),
            spatial_by_hand,
            [large],
        ),
        Contest(
            "spatial_dropout, 32 channels",
            lambda key, x: jaxdrop.spatial_dropout(key, x, RATE),
            spatial_by_hand,
            [narrow],
        ),
        Contest("drop_block", block, torchvision_by_hand, [narrow]),
        Contest("drop_block by batch", whole, torchvision_by_hand, [narrow]),
        Contest("drop_block by batch, 14 x 14", whole, torchvision_by_hand, [small]),
        Contest("drop_block as timm", timm, timm_by_hand, [narrow]),
        Contest("drop_block, 3-d", functools.partial(whole, block_size=3), solid_by_hand, [solid]),
    ]
    yield from compare("regions", contests, quick)


def spatial_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """One coin for each channel of each example."""
    return dropped(key, x, (x.shape[0], 1, 1, x.shape[-1]))


def torchvision_by_hand(key: jax.Array, x: jax.Array, block: int = 7) -> jax.Array:
    """Seeds where the block fits, grown by a max-pool, normalized over the batch."""
    space = x.shape[1:-1]
    inside = [length - block + 1 for length in space]
    gamma = RATE * math.prod(space) / (block ** len(space) * math.prod(inside))
    seeds = jax.random.bernoulli(key, gamma, (x.shape[0], *inside, x.shape[-1])).astype(x.dtype)
    padding = [(block // 2, block // 2)] * len(space)
    seeds = jnp.pad(seeds, [(0, 0), *padding, (0, 0)])
    mask = 1 - linen.max_pool(seeds, (block,) * len(space), padding=padding)
    return x * mask * (mask.size / mask.sum())


def timm_by_hand(key: jax.Array, x: jax.Array, block: int = 7) -> jax.Array:
    """Seeds everywhere, one mask for all channels."""
    count, height, width, _ = x.shape
    gamma = RATE * height * width / (block**2 * (height - block + 1) * (width - block + 1))
    seeds = jax.random.bernoulli(key, gamma, (count, height, width, 1)).astype(x.dtype)
    mask = 1 - linen.max_pool(seeds, (block, block), padding=[(block // 2, block // 2)] * 2)
    return x * mask * (mask.size / (mask.sum() + 1e-7))


def solid_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """In three dimensions."""
    return torchvision_by_hand(key, x, block=3)
