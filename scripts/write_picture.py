#!/usr/bin/env python3
"""Draws the picture of README.md, which is under version control.

    python scripts/write_picture.py

Masks do not change, and versions of matplotlib differ in a file's bytes, so the picture is drawn
only when it is to show something else. Needs jaxdrop[docs].
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import jaxdrop

sys.path.append(str(Path(__file__).parents[1] / "docs" / "_extensions"))
from pictures.images import RATE, flower
from pictures.sequences import PATCH, patches, patches_back

PATH = Path(__file__).parents[1] / "docs" / "_static" / "masks.png"
SEED = 3


def masks() -> Figure:
    """A photograph under some kinds of dropout."""
    x, key, rate = flower(), jaxdrop.key(SEED), RATE
    tokens = patches(x).reshape(1, -1, PATCH * PATCH * 3)
    kept, places = jaxdrop.token_dropout(key, tokens, rate, num_prefix_tokens=0)
    dropped = {
        "dropout": jaxdrop.dropout(key, x, rate),
        "dropout, one mask\nfor all channels": jaxdrop.dropout(key, x, rate, broadcast_dims=(-1,)),
        "spatial_dropout": jaxdrop.spatial_dropout(jaxdrop.key(1), x, rate),
        "drop_block,\nblocks of 9": jaxdrop.drop_block(key, x, rate, block_size=9),
        "locked_dropout,\nrows as time": jaxdrop.locked_dropout(key, x[0], rate, time_axis=0)[None],
    }
    pictures = {
        "the image": x,
        # The product undoes the division of dropout: kept pixels are as bright as before.
        **{name: (1 - rate) * y for name, y in dropped.items()},
        "token_dropout,\npatches of 8 x 8": patches_back(
            jaxdrop.reinsert_tokens(jnp.zeros_like(tokens), kept, places)
        )[None],
        "gaussian_dropout": jaxdrop.gaussian_dropout(key, x, 0.1),
    }
    with mpl.rc_context({"font.size": 9, "figure.facecolor": "white"}):
        figure = Figure(figsize=(8, 4.6), layout=ConstrainedLayoutEngine(h_pad=0.08), dpi=120)
        for axes, (name, image) in zip(figure.subplots(2, 4).flat, pictures.items(), strict=True):
            axes.imshow(np.clip(np.asarray(image[0]), 0, 1), interpolation="nearest")
            axes.set_title(name, fontsize=9)
            axes.set_axis_off()
    return figure


if __name__ == "__main__":
    # The name of the version would change the file with each version of matplotlib.
    masks().savefig(PATH, metadata={"Software": None})
