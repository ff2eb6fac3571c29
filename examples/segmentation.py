#!/usr/bin/env python3
"""Maps of uncertainty: a segmentation whose network says of each pixel what it does not know.

    python examples/segmentation.py            # half a minute on two CPU cores
    python examples/segmentation.py --quick    # seconds, and a network that has learned little

A network says of each pixel of a noisy digit of scikit-learn whether it is background, or ink of
which digit, with dropout in training and in Monte Carlo passes. Of the digit 9 it has seen none.
The figure shows digits, two of them a 9, and for each pixel the expected entropy (aleatoric) and
the mutual information with the weights (epistemic). The table has the share of pixels that are
right, 95 % but for those of a 9, and how well each uncertainty tells ink of a 9 from other ink: by
an AUROC of 0.88 for mutual information, 0.87 and 0.85 for predictive and expected entropy.
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

CLASSES, UNKNOWN, WIDTH = 11, 9, 256


class Network(nnx.Module):
    """Two hidden layers, from all pixels to the classes of each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = [(64, WIDTH), (WIDTH, WIDTH)]
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])
        self.last = nnx.Linear(WIDTH, 64 * CLASSES, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(0.3)

    def __call__(self, images: Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The logits of each pixel, `(batch, height, width, classes)`."""
        x = jnp.asarray(images).reshape(len(images), -1)
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)), rngs=rngs)
        return self.last(x).reshape(*images.shape, CLASSES)


def segmented(data: Images, seed: int) -> Images:
    """Digits with noise, and the class of each pixel: 0 for the background, 1 more than the digit
    for ink.
    """
    noise = np.random.default_rng(seed).normal(scale=0.1, size=data.images.shape)
    ink = np.asarray(data.images) > 0.4
    labels = np.where(ink, np.asarray(data.labels)[:, None, None] + 1, 0).astype(np.int32)
    return Images((data.images + noise).astype(np.float32), labels)


def train(data: Images, steps: int) -> Network:
    model = Network(nnx.Rngs(0))
    graph, params = nnx.split(model)
    optimizer = optax.adam(1e-3)
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)

    def loss(params: Any, rows: jax.Array, key: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params)(images[rows], nnx.Rngs(key))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        first, second = jax.random.split(key)
        rows = jax.random.randint(first, (50,), 0, len(images))
        updates, state = optimizer.update(jax.grad(loss)(params, rows, second), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jaxdrop.key(0), steps)
    run = jax.jit(functools.partial(jax.lax.scan, step))
    nnx.update(model, run((params, optimizer.init(params)), keys)[0][0])
    return model


@mpl.rc_context(_figures.STYLE)
def draw(data: Images, summary: mc.Classification) -> Figure:
    """Some digits."""
    figure = Figure(figsize=(9, 7))
    axes = plots.maps(data.images, summary, truth=data.labels, ax=figure.add_subplot())
    for cell, labels in zip(axes.child_axes, data.labels, strict=False):
        cell.set_ylabel(f"a {labels.max() - 1}")
    return figure


def main() -> None:
    options = _arguments.parser(__doc__, __file__, "few steps, few passes").parse_args()
    start, console = time.perf_counter(), Console(highlight=False)
    steps, passes = (100, 10) if options.quick else (3000, 50)
    pool, test = _images.load(None, 0)
    known = Images(*(x[np.asarray(pool.labels) != UNKNOWN] for x in pool))
    model = train(segmented(known, 0), steps)
    data = segmented(test, 1)

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
    is_unknown = np.asarray(test.labels) == UNKNOWN
    rows_shown = np.r_[np.flatnonzero(~is_unknown)[:2], np.flatnonzero(is_unknown)[:2]]
    few = jax.tree.map(lambda x: x[rows_shown] if x.ndim else x, summary)
    shown = Images(*(x[rows_shown] for x in data))
    _figures.save({"segmentation.png": draw(shown, few)}, options.out, console, start)


if __name__ == "__main__":
    main()
