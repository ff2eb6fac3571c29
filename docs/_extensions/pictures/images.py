"""A photograph under dropout of entries, and of channels and blocks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_image

import jaxdrop

from .panels import Panel, Panels, photograph

RATE = 0.3


@functools.cache
def flower() -> jax.Array:
    """The photograph flower.jpg by dany13, CC BY, of shape (1, 64, 64, 3)."""
    pixels = load_sample_image("flower.jpg")[60:380:5, 160:480:5]
    return jnp.asarray(pixels.astype(np.float32) / 255)[None]


def elements() -> Panels:
    x, key = flower(), jaxdrop.key(3)
    mean, std = x.mean((1, 2)), x.std((1, 2))
    alpha = jaxdrop.alpha_dropout(key, (x - mean) / std, RATE) * std + mean
    one_mask = jaxdrop.dropout(key, x, RATE, broadcast_dims=(-1,))
    kept = 1 - RATE  # undoes the division of dropout: kept pixels are as bright as before
    return Panels(
        [
            Panel("the image", photograph(x[0])),
            Panel("dropout", photograph(kept * jaxdrop.dropout(key, x, RATE)[0])),
            Panel("dropout, one mask\nfor all channels", photograph(kept * one_mask[0])),
            Panel("alpha_dropout\n(standardized image)", photograph(alpha[0])),
            Panel("gaussian_dropout", photograph(jaxdrop.gaussian_dropout(key, x, 0.1)[0])),
            Panel("uniform_dropout", photograph(jaxdrop.uniform_dropout(key, x, 0.5)[0])),
        ],
        representative=2,
    )


def regions() -> Panels:
    x, key = flower(), jaxdrop.key(3)
    kept = 1 - RATE
    one_mask = jnp.ones((*x.shape[:-1], 1))
    blocks = jaxdrop.drop_block(key, one_mask, RATE, block_size=9) > 0
    return Panels(
        [
            Panel("the image", photograph(x[0])),
            Panel(
                "dropout of entries:\nneighbors tell them",
                photograph(kept * jaxdrop.dropout(key, x, RATE)[0]),
            ),
            Panel(
                "spatial_dropout:\nwithout green",
                photograph(_without(x, channel=1)),
            ),
            Panel(
                "spatial_dropout:\nwithout red",
                photograph(_without(x, channel=0)),
            ),
            Panel(
                "drop_block of 9 x 9\nin each channel",
                photograph(kept * jaxdrop.drop_block(key, x, RATE, block_size=9)[0]),
            ),
            Panel("drop_block in a map\nof one channel", photograph((x * blocks)[0])),
        ],
        representative=4,
    )


def _without(x: jax.Array, channel: int) -> jax.Array:
    """The image with the first key that drops this channel and no other."""
    for seed in range(100):
        y = jaxdrop.spatial_dropout(jaxdrop.key(seed), x, RATE)[0]
        if [int(each) for each in np.flatnonzero(np.asarray((y == 0).all((0, 1))))] == [channel]:
            return (1 - RATE) * y
    raise AssertionError("no key drops this channel alone")
