#!/usr/bin/env python3
"""Dropout on inputs as the corruption of a denoising autoencoder.

    python examples/denoising_autoencoder.py            # about a minute on two CPU cores
    python examples/denoising_autoencoder.py --quick    # a few seconds, and blurred digits

Trains two autoencoders on the digits of scikit-learn. One sees each image as it is; of the other's
images half of the pixels are dropped, and it has to bring them back (Vincent et al., "Extracting
and composing robust features with denoising autoencoders", ICML 2008). Prints the error of the
reconstructions from whole and from corrupted images, and writes a figure of some of them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import _arguments
import _figures
import _images
import _tables
import jax
import jax.numpy as jnp
import matplotlib as mpl
import optax
from _images import Array
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console

import jaxdrop

RATE = 0.5


class Autoencoder(nnx.Module):
    """A code of 32 numbers between two layers each. Pixels that are kept are not scaled, as in the
    paper: that is classic dropout. In evaluation nothing is dropped.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = [(64, 256), (256, 32), (32, 256), (256, 64)]
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])

    def __call__(self, images: Array, key: jax.Array | None = None) -> jax.Array:
        """Images, from images of which a half of the pixels is dropped if there is a key."""
        x = jnp.asarray(images)
        if key is not None:
            x = jaxdrop.classic_dropout(key, x, RATE)
        x = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return nnx.sigmoid(self.layers[-1](x)).reshape(images.shape)


def train(images: Array, denoises: bool, key: jax.Array, steps: int) -> Autoencoder:
    """An autoencoder after so many steps. The corruption is another one in each step."""
    model = Autoencoder(nnx.Rngs(0))
    graph, params = nnx.split(model)
    optimizer = optax.adam(1e-3)

    def loss(params: Any, batch: Array, key: jax.Array) -> jax.Array:
        restored = nnx.merge(graph, params)(batch, key if denoises else None)
        return ((restored - batch) ** 2).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        rows, corruption = jax.random.split(key)
        batch = jnp.asarray(images)[jax.random.randint(rows, (100,), 0, len(images))]
        updates, state = optimizer.update(jax.grad(loss)(params, batch, corruption), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, steps)
    (params, _), _ = jax.jit(functools.partial(jax.lax.scan, step))(
        (params, optimizer.init(params)), keys
    )
    nnx.update(model, params)
    return model


@mpl.rc_context(_figures.STYLE)
def draw(rows: Mapping[str, Array]) -> Figure:
    """Images below each other."""
    count = 10
    figure = Figure(figsize=(8.6, 4.6))
    panels = figure.subplots(len(rows), count)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle("Validation images, half of whose pixels are dropped")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few steps")
    options = parser.parse_args()
    start, console = time.perf_counter(), Console(highlight=False)
    training, validation = _images.load(None, 0)
    images = jnp.asarray(validation.images)
    corrupted = jaxdrop.classic_dropout(jaxdrop.key(1), images, RATE)
    steps = 100 if options.quick else 5000
    rows, pictures = [], {"original": images, "corrupted": corrupted}
    for name, denoises in (("plain", False), ("denoising", True)):
        model = train(training.images, denoises, jaxdrop.key(2), steps)
        restored = [model(x) for x in (images, corrupted)]
        errors = [float(((x - images) ** 2).mean() ** 0.5) for x in restored]
        rows.append([f"{name} autoencoder", *(f"{error:.3f}" for error in errors)])
        pictures[f"{name}\nautoencoder"] = restored[1]
    unchanged = float(((corrupted - images) ** 2).mean() ** 0.5)
    rows.append(["the input itself", "0.000", f"{unchanged:.3f}"])
    columns = ["", "from whole\nimages", "from corrupted\nimages"]
    title = "Root mean square error of pixels between 0 and 1, validation images"
    console.print(_tables.table(title, columns, rows))
    _figures.save({"reconstructions.png": draw(pictures)}, options.out, console, start)


if __name__ == "__main__":
    main()
