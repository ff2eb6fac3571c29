#!/usr/bin/env python3
"""Maps of uncertainty: a segmentation whose network says of each pixel what it does not know.

    python examples/segmentation.py            # two minutes on two CPU cores
    python examples/segmentation.py --quick    # seconds, and a network that has learned little

Scenes are four digits of scikit-learn side by side, with noise. A convolutional network says of
each pixel whether it is background, or of which digit. It drops whole channels, in training and in
Monte Carlo passes. Of the digit 9 it has seen none. The figure shows four scenes, and for each
pixel the expected entropy, which is high where ink begins (aleatoric), and the mutual information
with the weights, which is high on the 9s and on what looks like them (epistemic). The table has the
share of pixels that are right, and how well each uncertainty tells pixels of a 9 from other ink.
"""

from __future__ import annotations

import functools
import time
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
from jaxdrop import mc
from jaxdrop.mc import metrics, plots

CLASSES, UNKNOWN, CHANNELS = 11, 9, 16


class Network(nnx.Module):
    """Convolutions, each of which sees a pixel farther, with dropped channels between them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = [(1, CHANNELS), *[(CHANNELS, CHANNELS)] * 4]
        self.layers = nnx.List([nnx.Conv(*size, (3, 3), rngs=rngs) for size in sizes])
        self.last = nnx.Conv(CHANNELS, CLASSES, (1, 1), rngs=rngs)
        self.dropout = jaxdrop.nnx.SpatialDropout(0.2)

    def __call__(self, images: Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The logits of each pixel, `(batch, height, width, classes)`."""
        x = jnp.asarray(images)[..., None]
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)), rngs=rngs)
        return self.last(x)


def scenes(data: Images, number: int, seed: int) -> Images:
    """Four digits each, and the class of each pixel: 0 for the background, 1 more than the digit
    for ink.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(data.labels), (number, 2, 2))

    def joined(parts: Array) -> Array:
        return np.asarray(parts).transpose(0, 1, 3, 2, 4).reshape(number, 16, 16)

    ink = np.asarray(data.images)[rows]
    labels = np.where(ink > 0.4, np.asarray(data.labels)[rows][..., None, None] + 1, 0)
    noise = rng.normal(scale=0.1, size=(number, 16, 16))
    return Images((joined(ink) + noise).astype(np.float32), joined(labels).astype(np.int32))


def train(data: Images, steps: int) -> Network:
    model = Network(nnx.Rngs(0))
    graph, params = nnx.split(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)

    def loss(params: Any, rows: jax.Array, key: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params)(images[rows], nnx.Rngs(key))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        first, second = jax.random.split(key)
        rows = jax.random.randint(first, (16,), 0, len(images))
        updates, state = optimizer.update(jax.grad(loss)(params, rows, second), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jaxdrop.key(0), steps)
    run = jax.jit(functools.partial(jax.lax.scan, step))
    nnx.update(model, run((params, optimizer.init(params)), keys)[0][0])
    return model


@mpl.rc_context(_figures.STYLE)
def draw(data: Images, summary: mc.Classification) -> Figure:
    """The first scenes."""
    figure = Figure(figsize=(9, 7))
    plots.maps(data.images, summary, truth=data.labels, ax=figure.add_subplot())
    return figure


def main() -> None:
    options = _arguments.parser(__doc__, __file__, "few steps, few passes").parse_args()
    start, console = time.perf_counter(), Console(highlight=False)
    steps, passes = (30, 8) if options.quick else (600, 50)
    pool, test = _images.load(None, 0)
    known = Images(*(x[np.asarray(pool.labels) != UNKNOWN] for x in pool))
    model = train(scenes(known, 2000, 0), steps)
    data = scenes(test, 100, 1)

    fn = jaxdrop.nnx.stochastic(model)
    # A chunk of passes at a time is summarized, so that memory does not grow with the passes.
    summary = mc.moments(
        lambda key: fn(key, data.images),
        mc.keys(jaxdrop.key(1), passes),
        summary=lambda logits: mc.classification(logits=logits),
        batch_size=10,
    )
    ink, unknown = data.labels > 0, data.labels == UNKNOWN + 1
    uncertainties = {
        "predictive entropy": summary.predictive_entropy,
        "expected entropy": summary.expected_entropy,
        "mutual information": summary.mutual_information,
    }
    rows = [
        [name, f"{metrics.auroc(values[ink & ~unknown], values[unknown]):.3f}"]
        for name, values in ((name, np.asarray(x)) for name, x in uncertainties.items())
    ]
    right = metrics.accuracy(data.labels, summary.mean, where=~unknown)
    title = f"Pixels that are right: {right:.1%}, but for those of a {UNKNOWN}"
    console.print(_tables.table(title, ["", f"AUROC of ink\nof a {UNKNOWN}"], rows))
    few = jax.tree.map(lambda x: x[:4] if x.ndim else x, summary)
    shown = Images(*(x[:4] for x in data))
    _figures.save({"segmentation.png": draw(shown, few)}, options.out, console, start)


if __name__ == "__main__":
    main()
