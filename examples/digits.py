#!/usr/bin/env python3
"""One classifier of handwritten digits: without dropout, with dropout, and with Monte Carlo dropout.

    python examples/digits.py            # about half a minute on two CPU cores
    python examples/digits.py --quick    # ten seconds, and too few steps to learn much

Trains on 300 of the 1797 images that come with scikit-learn, validates on the others, and asks how certain the classifier is of
digits that are turned, and of noise. Prints two tables and writes figures.

One seed is an anecdote. Means over the seeds 0 to 9, on validation images, for no dropout, dropout and Monte Carlo dropout:
accuracy 94.5, 95.4 and 95.3 %; negative log-likelihood 0.21, 0.18 and 0.15 nats; calibration error 0.026, 0.025 and 0.016.
Monte Carlo dropout tells noise apart with an AUROC of 0.96 (entropy) or 0.97 (mutual information) instead of 0.93, but digits
turned by 45 degrees hardly better than no dropout does, 0.80 or 0.79 instead of 0.77. Most of those are taken for a 4.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _figures
import _tables
import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import jaxdrop
import jaxdrop.nnx

Array: TypeAlias = jax.Array | npt.NDArray[Any]
Prediction: TypeAlias = jaxdrop.mc.Classification
Predictor: TypeAlias = Callable[[Array], Prediction]
BATCH = 50


class Classifier(nnx.Module):
    """Two hidden layers, each followed by dropout."""

    def __init__(self, rate: float, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(64, 512, rngs=rngs)
        self.second = nnx.Linear(512, 512, rngs=rngs)
        self.last = nnx.Linear(512, 10, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)

    def __call__(self, images: Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The logits. Dropout takes the next key of `rngs` each time, so the two layers get different masks."""
        hidden = self.dropout(nnx.relu(self.first(images)), rngs=rngs)
        hidden = self.dropout(nnx.relu(self.second(hidden)), rngs=rngs)
        return self.last(hidden)


class Data(NamedTuple):
    """Images, as rows of 64 numbers from 0 to 1, and the digits that they show."""

    images: Array
    labels: Array


def load(seed: int) -> tuple[Data, Data]:
    """Training and validation data."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(np.float32(images / 16), labels, train_size=300, stratify=labels, random_state=seed)
    return Data(parts[0], parts[2]), Data(parts[1], parts[3])


def turn(images: Array, degrees: float) -> Array:
    """Rotates images counter-clockwise. What leaves the frame is lost."""
    turned = ndimage.rotate(images.reshape(-1, 8, 8), degrees, axes=(2, 1), reshape=False, order=1)
    return turned.reshape(images.shape)


# -- training


def mean_loss(model: Classifier, data: Data, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(model(data.images, rngs), data.labels).mean()


@nnx.jit
def train_step(model: Classifier, optimizer: nnx.Optimizer, batch: Data, key: jax.Array, step: int) -> None:
    """One step of gradient descent. Its masks follow from (key, step): there is no random state to carry or to save."""
    rngs = nnx.Rngs(jax.random.fold_in(key, step))
    optimizer.update(model, nnx.grad(mean_loss)(model, batch, rngs))


@nnx.jit
def evaluate(model: Classifier, data: Data) -> jax.Array:
    """The mean loss with nothing dropped."""
    return mean_loss(nnx.view(model, deterministic=True), data)


def train(model: Classifier, training: Data, validation: Data, key: jax.Array, epochs: int, progress: Progress) -> Array:
    """Trains the model in place. Returns the training and the validation loss after each epoch."""
    optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
    order_key, mask_key = jax.random.split(key)
    losses = []
    step = 0
    for epoch in progress.track(range(epochs), description=f"Training with dropout rate {model.dropout.rate}"):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), len(training.labels)))
        for rows in order.reshape(-1, BATCH):
            train_step(model, optimizer, Data(training.images[rows], training.labels[rows]), mask_key, step)
            step += 1
        losses.append([float(evaluate(model, data)) for data in (training, validation)])
    return np.array(losses)


# -- prediction


@nnx.jit
def predict(model: Classifier, images: Array) -> Prediction:
    """One pass with nothing dropped: a sample of size one, which has no mutual information."""
    return jaxdrop.mc.classification(logits=nnx.view(model, deterministic=True)(images)[None])


@nnx.jit
def predict_mc(model: Classifier, images: Array, keys: jax.Array) -> Prediction:
    """Monte Carlo dropout: one pass for each key, with other masks each time."""
    model = nnx.view(model, deterministic=False)
    logits = jaxdrop.mc.predict(lambda key: model(images, nnx.Rngs(key)), keys, batch_size=10)
    return jaxdrop.mc.classification(logits=logits)


# -- judging predictions


class Calibration(NamedTuple):
    """How often predictions of like confidence are right: one entry for each of equally wide bins of confidence."""

    size: Array
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between confidence and accuracy, over all predictions."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.size))


def calibrate(probabilities: Array, labels: Array, bins: int = 15) -> Calibration:
    """Sorts predictions by the probability of the predicted digit. Empty bins hold zeros."""
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    which = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    size = np.bincount(which, minlength=bins)
    confidence, accuracy = (np.bincount(which, values, bins) / np.maximum(size, 1) for values in (confidence, correct))
    return Calibration(size, confidence, accuracy)


def scores(probabilities: Array, labels: Array) -> list[str]:
    """Accuracy, negative log-likelihood in nats, and expected calibration error, as cells of a table."""
    accuracy = np.mean(probabilities.argmax(-1) == labels)
    nll = -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))
    return [f"{accuracy:.1%}", f"{nll:.3f}", f"{calibrate(probabilities, labels).error:.3f}"]


def auroc(inside: Array, outside: Array) -> float:
    """The probability that an image from outside gets a higher value than one from inside."""
    origin = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(origin, np.concatenate([inside, outside])))


# -- reporting


def performance(predictors: Mapping[str, Predictor], training: Data, validation: Data) -> tuple[Table, dict[str, Calibration]]:
    """How right the predictions are: a table, and the calibration on the validation data."""
    rows, calibrations = [], {}
    for name, predictor in predictors.items():
        seen, unseen = (np.asarray(predictor(data.images).mean) for data in (training, validation))
        rows.append([name, *scores(seen, training.labels), *scores(unseen, validation.labels)])
        calibrations[name] = calibrate(unseen, validation.labels)
    title = f"{len(training.labels)} training images, {len(validation.labels)} validation images"
    columns = ["", "training\naccuracy", "\nNLL", "\nECE", "validation\naccuracy", "\nNLL", "\nECE"]
    return _tables.table(title, columns, rows), calibrations


def novelty(uncertainties: Callable[[Array], Sequence[Array]], known: Array, unknown: Mapping[str, Array]) -> Table:
    """How uncertain the predictions are of images unlike those of the training, and how well that tells them apart."""
    inside = uncertainties(known)
    rows = [["validation images", *(cell for values in inside for cell in (f"{values.mean():.2f}", ""))]]
    for name, images in unknown.items():
        pairs = zip(inside, uncertainties(images), strict=True)
        rows.append([name, *(cell for old, new in pairs for cell in (f"{new.mean():.2f}", f"{auroc(old, new):.2f}"))])
    columns = ["", "no dropout\nentropy", "\nAUROC", "MC-dropout\nentropy", "\nAUROC", "MC-dropout\nmutual inf.", "\nAUROC"]
    return _tables.table("Mean uncertainty in nats, and AUROC against the validation images", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and the masks (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for the figures (default: out/digits)")
    parser.add_argument("--quick", action="store_true", help="few epochs and few passes")
    options = parser.parse_args()
    epochs, passes = (5, 10) if options.quick else (100, 100)
    start = time.perf_counter()
    console = Console(highlight=False)

    training, validation = load(options.seed)
    training_key, prediction_key = jax.random.split(jaxdrop.key(options.seed))
    plain, dropped = (Classifier(rate, rngs=nnx.Rngs(options.seed)) for rate in (0.0, 0.5))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        losses = {
            name: train(model, training, validation, training_key, epochs, progress)
            for name, model in (("no dropout", plain), ("dropout", dropped))
        }

    without = functools.partial(predict, plain)
    sampled = functools.partial(predict_mc, dropped, keys=jaxdrop.mc.keys(prediction_key, passes))
    predictors = {
        "no dropout": without,
        "dropout, deterministic": functools.partial(predict, dropped),
        f"MC-dropout, {passes} passes": sampled,
    }
    shown, calibrations = performance(predictors, training, validation)
    console.print(shown, "")

    def uncertainties(images: Array) -> list[Array]:
        samples = sampled(images)
        return [*map(np.asarray, (without(images).predictive_entropy, samples.predictive_entropy, samples.mutual_information))]

    noise = np.random.default_rng(options.seed).random(validation.images.shape, np.float32)
    unknown = {"turned by 45°": turn(validation.images, 45), "noise": noise}
    console.print(novelty(uncertainties, validation.images, unknown))

    angles = range(0, 181, 15)
    turned = np.stack([turn(validation.images[:100], angle) for angle in angles])
    two = list(validation.labels).index(2)
    figures = {
        "losses.png": _figures.losses(losses),
        "reliability.png": _figures.reliability(calibrations),
        "certainty.png": _figures.certainty(*validation, sampled(validation.images)),
        "turned.png": _figures.turned(angles, turned[:, two], [values.mean(-1) for values in uncertainties(turned)]),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    console.print(f"\n{time.perf_counter() - start:.0f} s. The figures:")
    for name, figure in figures.items():
        figure.savefig(options.out / name)
        console.print(f"  {options.out / name}", soft_wrap=True)


if __name__ == "__main__":
    main()
