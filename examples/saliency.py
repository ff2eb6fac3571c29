#!/usr/bin/env python3
"""Which pixels decided? Attribution with dropout off, on by accident, and averaged over masks.

    python examples/saliency.py            # about a minute on two CPU cores
    python examples/saliency.py --quick    # ten seconds

Trains a classifier with dropout on the digits of scikit-learn, and attributes its decisions to
pixels: the gradient of the score of the digit, times the pixel. A model that was left in training
mode gives another map for each key, and nothing in a single map says so. The mean over masks is a
map again, with a spread that says which pixels it is sure of. Prints how much the maps agree, and
how fast the score falls when the pixels are taken away in their order. Writes a figure.
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
import numpy as np
import optax
from _images import Array, Images
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console

import jaxdrop
import jaxdrop.nnx

RATE = 0.5


def make() -> nnx.Sequential:
    """A classifier whose dropout takes keys from streams of its own."""
    rngs = nnx.Rngs(0, dropout=jaxdrop.key(0))
    drop = functools.partial(jaxdrop.nnx.Dropout, RATE, rngs=rngs)
    first, second = nnx.Linear(64, 256, rngs=rngs), nnx.Linear(256, 256, rngs=rngs)
    last = nnx.Linear(256, 10, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, drop(), second, nnx.relu, drop(), last)


@nnx.jit
def train_step(model: nnx.Sequential, optimizer: nnx.Optimizer, batch: Images) -> None:
    """One step of gradient descent."""

    def loss(model: nnx.Sequential) -> jax.Array:
        logits = model(batch.images.reshape(-1, 64))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def train(training: Images, steps: int) -> nnx.Sequential:
    """A trained classifier, in training mode still."""
    model = make()
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.integers(len(training.labels), size=100)
        train_step(model, optimizer, Images(training.images[rows], training.labels[rows]))
    return model


def attribution(predict: Any, images: Array, labels: Array) -> jax.Array:
    """The gradient of the score of the digit, times the pixel, for each pixel."""

    def score(images: jax.Array) -> jax.Array:
        logits = predict(images.reshape(-1, 64))
        return jnp.take_along_axis(logits, labels[:, None], 1).sum()

    images = jnp.asarray(images)
    return jax.grad(score)(images) * images


def agreement(first: Array, second: Array) -> float:
    """The mean correlation of the maps of the same image."""
    pairs = zip(np.asarray(first), np.asarray(second), strict=True)
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def deletion(predict: Any, images: Array, labels: Array, maps: Array) -> float:
    """The mean probability of the digit while its pixels are taken away, the most important first:
    the lower, the better does the map know them.
    """
    order = np.argsort(-np.asarray(maps).reshape(-1, 64), axis=1)
    pixels, found = np.array(images).reshape(-1, 64), []
    for start in range(0, 32, 4):
        np.put_along_axis(pixels, order[:, start : start + 4], 0, 1)
        probabilities = jax.nn.softmax(predict(pixels))
        found.append(
            np.take_along_axis(np.asarray(probabilities), np.asarray(labels)[:, None], 1).mean()
        )
    return float(np.mean(found))


@mpl.rc_context(_figures.STYLE)
def draw(images: Array, columns: Mapping[str, Array]) -> Figure:
    """Some images, and a column for each kind of map, on one scale; the spread on its own."""
    count = 4
    figure = Figure(figsize=(1.7 * (1 + len(columns)), 1.75 * count))
    panels = figure.subplots(count, 1 + len(columns))
    limit = max(float(np.abs(x[:count]).max()) for x in columns.values()) * 0.6
    for row, line in enumerate(panels):
        line[0].imshow(images[row], cmap="gray_r")
        for axes, maps in zip(line[1:], columns.values(), strict=True):
            shown = axes.imshow(maps[row], cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, title in zip(panels[0], ("image", *columns), strict=True):
        axes.set_title(title)
    bar = figure.colorbar(shown, ax=panels[:, -1], extend="both", fraction=0.1)
    bar.set_label("gradient of the score x pixel")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few steps and few masks")
    options = parser.parse_args()
    steps, passes = (50, 8) if options.quick else (600, 64)
    start, console = time.perf_counter(), Console(highlight=False)
    training, validation = _images.load(None, 0)
    model = train(training, steps)
    images, labels = validation.images[:200], np.asarray(validation.labels[:200])

    quiet = nnx.view(model, deterministic=True)
    random = jaxdrop.nnx.stochastic(model)

    @jax.jit
    def one(key: jax.Array) -> jax.Array:
        return attribution(functools.partial(random, key), images, labels)

    off = attribution(quiet, images, labels)
    accident, again = (one(jaxdrop.key(seed)) for seed in (1, 2))
    samples = jaxdrop.mc.predict(one, jaxdrop.mc.keys(jaxdrop.key(3), passes))
    other = jaxdrop.mc.predict(one, jaxdrop.mc.keys(jaxdrop.key(4), passes))
    mean, spread = samples.mean(0), samples.std(0)
    rows = [
        [name, f"{agreement(maps, twin):.2f}", f"{deletion(quiet, images, labels, maps):.3f}"]
        for name, maps, twin in (
            ("off", off, off),
            ("on by accident", accident, again),
            (f"mean over {passes} masks", mean, other.mean(0)),
            ("mean / spread", mean / (spread + 1e-6), other.mean(0) / (other.std(0) + 1e-6)),
        )
    ]
    columns = [
        "dropout",
        "correlation with\nthe map of another key",
        "probability while\npixels go",
    ]
    console.print(_tables.table("Attribution of 200 decisions to pixels", columns, rows))
    maps = {
        "dropout off": off,
        "on, one key": accident,
        "on, another key": again,
        f"mean of {passes}": mean,
        f"spread of {passes}": spread,
    }
    _figures.save({"saliency.png": draw(images, maps)}, options.out, console, start)


if __name__ == "__main__":
    main()
