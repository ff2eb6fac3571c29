#!/usr/bin/env python3
"""Calibrating an int8 network with dropout on by accident, and off.

    python examples/quantization.py            # about half a minute on two CPU cores
    python examples/quantization.py --quick    # ten seconds

Static quantization runs some images through the network, notes the range of what comes into each
layer, and rounds to 256 steps within it from then on. A calibration that runs in training mode
notes what dropout has scaled by `1 / (1 - rate)`, layer upon layer, so that the steps are too
coarse. Prints the ranges and the accuracy of both, by the maximum and by a percentile that cuts
outliers, and writes a figure. The digits of scikit-learn are easy: at 8 bits there is room for the
mistake, and accuracy shows it with few bits only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

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
BITS = (8, 4, 3, 2)
Inputs = list[jax.Array]


class Classifier(nnx.Module):
    """Three hidden layers, each followed by dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = ((64, 256), (256, 256), (256, 256), (256, 10))
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])
        self.dropout = jaxdrop.nnx.Dropout(RATE, rngs=rngs)

    def __call__(
        self, images: Array, on_input: Callable[[int, jax.Array], jax.Array] = lambda _, x: x
    ) -> jax.Array:
        """Logits. `on_input(index, x)` sees, and may change, what comes into each layer."""
        x = jnp.asarray(images).reshape(-1, 64)
        for index, layer in enumerate(self.layers):
            x = x if index == 0 else self.dropout(nnx.relu(x))
            x = layer(on_input(index, x))
        return x


@nnx.jit
def train_step(model: Classifier, optimizer: nnx.Optimizer, batch: Images) -> None:
    """One step of gradient descent."""

    def loss(model: Classifier) -> jax.Array:
        logits = model(batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def inputs(model: Classifier, images: Array) -> Inputs:
    """What comes into each layer, as a calibration sees it."""
    seen: Inputs = []
    model(images, lambda _, x: (seen.append(x), x)[1])  # type: ignore[func-returns-value]
    return seen


def by_maximum(seen: Inputs) -> list[float]:
    """The range of each layer: the largest value."""
    return [float(x.max()) for x in seen]


def by_percentile(seen: Inputs) -> list[float]:
    """The range of each layer: what 99.9 % of the values stay below."""
    return [float(np.percentile(x, 99.9)) for x in seen]


def rounded(x: jax.Array, scale: float | jax.Array, bits: int, signed: bool) -> jax.Array:
    """`x` on a grid of `2**bits` steps from 0, or from `-scale`, to `scale`."""
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    step = scale / most
    return jnp.clip(jnp.round(x / step), least, most) * step


def accuracy(model: Classifier, data: Images, ranges: Sequence[float], bits: int) -> float:
    """The accuracy of the network whose inputs and weights are rounded, with dropout off."""
    quantized = nnx.clone(nnx.view(model, deterministic=True))
    for layer in quantized.layers:
        kernel = layer.kernel[...]
        layer.kernel[...] = rounded(kernel, jnp.abs(kernel).max(0), 8, signed=True)
    logits = quantized(data.images, lambda index, x: rounded(x, ranges[index], bits, signed=False))
    return float((logits.argmax(-1) == data.labels).mean())


@mpl.rc_context(_figures.STYLE)
def draw(off: Inputs, on: Inputs, found: Mapping[str, Sequence[float]]) -> Figure:
    """What comes into the third layer, and accuracy against bits."""
    figure = Figure(figsize=(9.6, 3.9))
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, float(on[2].max()), 60)
    for name, seen, color in (("off", off, _figures.BLUE), ("on by accident", on, _figures.ORANGE)):
        values = np.asarray(seen[2]).ravel()
        left.hist(values, edges, histtype="step", color=color, label=f"dropout {name}")
        left.axvline(values.max(), color=color, linestyle=":", linewidth=1)
    left.set(yscale="log", xlabel="value", ylabel="number of entries")
    left.set_title("What comes into the third layer, and its maximum")
    left.legend(loc="upper center")
    styles = ("o-", "s-", "o--", "s--")
    colors = (_figures.BLUE, _figures.ORANGE) * 2
    for (name, shares), style, color in zip(found.items(), styles, colors, strict=True):
        right.plot(BITS, np.multiply(shares, 100), style, color=color, label=name)
    right.set(xticks=BITS, xlabel="bits of the layers' inputs", ylabel="validation accuracy (%)")
    right.set_title("Weights of 8 bits")
    right.invert_xaxis()
    right.legend(fontsize="small")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few steps")
    options = parser.parse_args()
    start, console = time.perf_counter(), Console(highlight=False, width=100)
    training, validation = _images.load(None, 0)
    model = Classifier(nnx.Rngs(0, dropout=jaxdrop.key(0)))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for _ in range(60 if options.quick else 600):
        rows = rng.integers(len(training.labels), size=100)
        train_step(model, optimizer, Images(training.images[rows], training.labels[rows]))

    images = training.images[:200]
    off, on = (
        inputs(nnx.view(model, deterministic=deterministic), images)
        for deterministic in (True, False)
    )
    ranges = {
        "maximum, dropout off": by_maximum(off),
        "maximum, on by accident": by_maximum(on),
        "percentile, dropout off": by_percentile(off),
        "percentile, on by accident": by_percentile(on),
    }
    found = {
        name: [accuracy(model, validation, each, bits) for bits in BITS]
        for name, each in ranges.items()
    }
    rows_ = [
        [name, *(f"{x:.2f}" for x in each[1:]), *(f"{x:.1%}" for x in found[name])]
        for name, each in ranges.items()
    ]
    columns = ["calibration", "range of\nlayer 2", "\nlayer 3", "\nlayer 4"]
    columns += ["accuracy,\n8 bits", *(f"\n{bits} bits" for bits in BITS[1:])]
    whole = float(
        (
            nnx.view(model, deterministic=True)(validation.images).argmax(-1) == validation.labels
        ).mean()
    )
    console.print(_tables.table("Quantized after training", columns, rows_))
    console.print(f"float32: {whole:.1%}")
    _figures.save({"quantization.png": draw(off, on, found)}, options.out, console, start)


if __name__ == "__main__":
    main()
