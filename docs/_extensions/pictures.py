"""Draws the pictures of the pages, with the library itself, before Sphinx reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import jaxdrop

STATIC = Path(__file__).parents[1] / "_static"
SEED = 3


def masks() -> Figure:
    """A photograph under some kinds of dropout, at rate 0.3 if not said otherwise."""
    photograph = load_sample_image("flower.jpg")[60:380:5, 160:480:5].astype(np.float32) / 255
    x, key = jnp.asarray(photograph)[None], jaxdrop.key(SEED)
    patches = x.reshape(1, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 64, 192)
    kept, places = jaxdrop.token_dropout(key, patches, 0.3, num_prefix_tokens=0)
    few = jaxdrop.reinsert_tokens(jnp.zeros_like(patches), kept, places)
    tokens = few.reshape(1, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    pictures = {
        "the image": x,
        "dropout": 0.7 * jaxdrop.dropout(key, x, 0.3),
        "dropout, one mask\nfor all channels": 0.7
        * jaxdrop.dropout(key, x, 0.3, broadcast_dims=(-1,)),
        "spatial_dropout": 0.7 * jaxdrop.spatial_dropout(jaxdrop.key(1), x, 0.3),
        "drop_block,\nblocks of 9": 0.7 * jaxdrop.drop_block(key, x, 0.3, block_size=9),
        "token_dropout,\npatches of 8 x 8": tokens,
        "locked_dropout,\nrows as time": 0.7
        * jaxdrop.locked_dropout(key, x[0], 0.3, time_axis=0)[None],
        "gaussian_dropout": jaxdrop.gaussian_dropout(key, x, 0.1),
    }
    with mpl.rc_context({"font.size": 9, "figure.facecolor": "white"}):
        figure = Figure(figsize=(8, 4.6), layout="constrained", dpi=120)
        for axes, (name, image) in zip(figure.subplots(2, 4).flat, pictures.items(), strict=True):
            axes.imshow(np.clip(np.asarray(image[0]), 0, 1), interpolation="nearest")
            axes.set_title(name, fontsize=9)
            axes.set_axis_off()
    return figure


def _draw(app: Any) -> None:
    masks().savefig(STATIC / "masks.png")


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True}
