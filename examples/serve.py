#!/usr/bin/env python3
"""Ships Monte Carlo dropout: a classifier with its samples becomes one file, which another process
loads without jaxdrop, and answers batches of any size.

    python examples/serve.py  # half a minute on two CPU cores
    python examples/serve.py --quick  # some seconds, and a classifier that has learned little

Learns scikit-learn's digits, and exports `predict(seed, images)`: for each image the mean of the
probabilities over the samples, their standard deviation, and a set of digits that holds the right
one as often as asked: a split conformal prediction set, calibrated on images that are kept back
from training. Then a process that knows nothing of jaxdrop and Flax loads the file
(`_predictor.py`), answers the test images, and measures how long an answer takes.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _arguments
import _predictor
import _tables
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import export
from rich.console import Console
from sklearn.datasets import load_digits

import jaxdrop
import jaxdrop.nnx
from jaxdrop.mc import conformal


class Classifier(nnx.Module):
    """Two hidden layers with dropout."""

    def __init__(self, width: int, rate: float, *, rngs: nnx.Rngs) -> None:
        sizes = 64, width, width
        self.hidden = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(sizes)])
        self.out = nnx.Linear(width, 10, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.hidden:
            x = self.dropout(nnx.relu(layer(x)))
        return self.out(x)


def train(model: Classifier, images: Any, labels: Any, steps: int) -> None:
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: Classifier, optimizer: Any, chosen: jax.Array) -> None:
        def loss(model: Classifier) -> jax.Array:
            logits = model(jnp.asarray(images)[chosen])
            given = jnp.asarray(labels)[chosen]
            return optax.softmax_cross_entropy_with_integer_labels(logits, given).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    random = np.random.default_rng(0)
    for _ in range(steps):
        step(model, optimizer, random.integers(len(images), size=64))


def predictor(model: Classifier, samples: int, threshold: float) -> Any:
    """The function that is exported: a seed and images go in, arrays come out."""
    fn = jaxdrop.nnx.stochastic(model)

    def predict(seed: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        keys = jaxdrop.mc.keys(jaxdrop.key(seed), samples)
        moments = jaxdrop.mc.moments(lambda key: jax.nn.softmax(fn(key, images)), keys)
        spread = jnp.sqrt(moments.variance)
        chosen = conformal.sets(conformal.lac(moments.mean), threshold)
        return {"mean": moments.mean, "spread": spread, "set": chosen}

    return predict


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few steps of training")
    parser.add_argument("--samples", type=int, default=32, help="masks an image (default: 32)")
    parser.add_argument("--coverage", type=float, default=0.95, help="of the sets (default: 0.95)")
    parser.add_argument("--width", type=int, default=256, help="of hidden layers (default: 256)")
    parser.add_argument("--steps", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--rate", type=float, default=0.3, help="of dropout (default: 0.3)")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.samples, options.width = 100, 8, 64
    start, console = time.perf_counter(), Console(highlight=False)
    options.out.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    learned, kept, tested = np.split(order, [1000, 1400])
    model = Classifier(options.width, options.rate, rngs=nnx.Rngs(0))
    train(model, images[learned], digits.target[learned], options.steps)

    calibration = jax.jit(predictor(model, options.samples, 0.0))(np.uint32(0), images[kept])
    scores = conformal.of_labels(digits.target[kept], conformal.lac(calibration["mean"]))
    threshold = float(conformal.calibrate(scores, options.coverage))
    predict = jax.jit(predictor(model, options.samples, threshold))
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(predict)(
        jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((batch, 64), jnp.float32)
    )
    file, inputs, answers = (
        options.out / name for name in ("predictor.bin", "inputs.npy", "answers.npz")
    )
    file.write_bytes(exported.serialize())
    np.save(inputs, images[tested])

    server = [sys.executable, str(Path(_predictor.__file__)), *map(str, (file, inputs, answers))]
    found = json.loads(subprocess.run(server, check=True, capture_output=True, text=True).stdout)
    assert not found["loaded"]  # neither jaxdrop nor Flax
    with np.load(answers) as arrays:
        mean, spread, sets = (arrays[name] for name in ("mean", "spread", "set"))
    labels = digits.target[tested]
    wrong = mean.argmax(1) != labels
    rows = np.arange(len(labels))
    console.print(
        f"{file} ({file.stat().st_size / 1000:.0f} kB): {options.samples} masks an image."
        f" Of {len(labels)} test images {wrong.mean():.1%} are taken for another digit. Sets of"
        f" {sets.sum(1).mean():.2f} digits hold the right one in {sets[rows, labels].mean():.1%}"
        f" (asked for {options.coverage:.0%}). The spread of the first digit is"
        f" {spread[rows, mean.argmax(1)][~wrong].mean():.3f} where it is right, and"
        f" {spread[rows, mean.argmax(1)][wrong].mean() if wrong.any() else np.nan:.3f} where not."
    )
    columns = ["images in\na batch", "median", "95 %", "an image"]
    lines = [
        [
            size,
            *(f"{value:.2f} ms" for value in times.values()),
            f"{times['median'] / int(size):.3f} ms",
        ]
        for size, times in found["latency"].items()
    ]
    console.print(_tables.table("From a batch to its answers", columns, lines))
    console.print(f"\n{time.perf_counter() - start:.0f} s", style="dim")


if __name__ == "__main__":
    main()
