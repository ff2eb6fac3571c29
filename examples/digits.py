#!/usr/bin/env python3
"""One classifier of handwritten digits: without dropout, with dropout, and with Monte Carlo
dropout.

    python examples/digits.py            # about half a minute on two CPU cores
    python examples/digits.py --quick    # ten seconds, and too few steps to learn much

Trains on 300 of the 1797 images that come with scikit-learn, validates on the others, and asks how
certain the classifier is of digits that are turned, and of noise. Prints two tables and writes
figures.

One seed is an anecdote. Means over the seeds 0 to 9, on validation images, for no dropout, dropout
and Monte Carlo dropout: accuracy 94.5, 95.4 and 95.3 %; negative log-likelihood 0.21, 0.18 and 0.15
nats; calibration error 0.026, 0.025 and 0.016. Monte Carlo dropout tells noise apart with an AUROC
of 0.96 (entropy) or 0.97 (mutual information) instead of 0.93, but digits turned by 45 degrees
hardly better than no dropout does, 0.80 or 0.79 instead of 0.77. Most of those are taken for a 4.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import _arguments
import _figures
import _images
import _tables
import jax
import matplotlib as mpl
import numpy as np
import optax
from _images import Array, Images
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jaxdrop
import jaxdrop.nnx
from jaxdrop.mc import metrics, plots

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
        """Logits of images `(..., 8, 8)`. Dropout takes the next key of `rngs` each time: the two
        layers get different masks.
        """
        pixels = images.reshape(*images.shape[:-2], 64)
        hidden = self.dropout(nnx.relu(self.first(pixels)), rngs=rngs)
        hidden = self.dropout(nnx.relu(self.second(hidden)), rngs=rngs)
        return self.last(hidden)


# -- training


def mean_loss(model: Classifier, data: Images, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
        model(data.images, rngs), data.labels
    ).mean()


@nnx.jit
def train_step(
    model: Classifier, optimizer: nnx.Optimizer, batch: Images, key: jax.Array, step: int
) -> None:
    """One step of gradient descent. Its masks follow from (key, step): there is no random state to
    carry or to save.
    """
    rngs = nnx.Rngs(jax.random.fold_in(key, step))
    optimizer.update(model, nnx.grad(mean_loss)(model, batch, rngs))


@nnx.jit
def evaluate(model: Classifier, data: Images) -> jax.Array:
    """The mean loss with nothing dropped."""
    return mean_loss(nnx.view(model, deterministic=True), data)


def train(
    model: Classifier,
    training: Images,
    validation: Images,
    key: jax.Array,
    epochs: int,
    progress: Progress,
) -> Array:
    """Trains the model in place. Returns three rows: epochs, and the training and the validation
    loss after them.
    """
    optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
    order_key, mask_key = jax.random.split(key)
    losses = []
    step = 0
    for epoch in progress.track(
        range(epochs), description=f"Training with dropout rate {model.dropout.rate}"
    ):
        order = np.asarray(
            jax.random.permutation(jax.random.fold_in(order_key, epoch), len(training.labels))
        )
        for rows in order.reshape(-1, BATCH):
            train_step(
                model,
                optimizer,
                Images(training.images[rows], training.labels[rows]),
                mask_key,
                step,
            )
            step += 1
        losses.append(
            [epoch + 1, *(float(evaluate(model, data)) for data in (training, validation))]
        )
    return np.array(losses).T


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


# -- reporting


def scores(predictor: Predictor, data: Images) -> list[str]:
    """Accuracy, negative log-likelihood in nats, and expected calibration error, as cells of a
    table.
    """
    prediction = predictor(data.images)
    accuracy = np.mean(prediction.mean.argmax(-1) == data.labels)
    nll = metrics.nll(data.labels, log_probs=prediction.log_mean)
    return [f"{accuracy:.1%}", f"{nll:.3f}", f"{metrics.ece(data.labels, prediction.mean):.3f}"]


def performance(predictors: Mapping[str, Predictor], training: Images, validation: Images) -> Table:
    """How right the predictions are."""
    rows = [
        [name, *scores(predictor, training), *scores(predictor, validation)]
        for name, predictor in predictors.items()
    ]
    title = f"{len(training.labels)} training images, {len(validation.labels)} validation images"
    columns = ["", "training\naccuracy", "\nNLL", "\nECE", "validation\naccuracy", "\nNLL", "\nECE"]
    return _tables.table(title, columns, rows)


def novelty(
    uncertainties: Callable[[Array], Sequence[Array]], known: Array, unknown: Mapping[str, Array]
) -> Table:
    """How uncertain the predictions are of images unlike those of the training, and how well that
    tells them apart.
    """
    inside = uncertainties(known)
    rows = [
        ["validation images", *(cell for values in inside for cell in (f"{values.mean():.2f}", ""))]
    ]
    for name, images in unknown.items():
        pairs = zip(inside, uncertainties(images), strict=True)
        rows.append(
            [
                name,
                *(
                    cell
                    for old, new in pairs
                    for cell in (f"{new.mean():.2f}", f"{metrics.auroc(old, new):.2f}")
                ),
            ]
        )
    columns = [
        "",
        "no dropout\nentropy",
        "\nAUROC",
        "MC-dropout\nentropy",
        "\nAUROC",
        "MC-dropout\nmutual inf.",
        "\nAUROC",
    ]
    return _tables.table(
        "Mean uncertainty in nats, and AUROC against the validation images", columns, rows
    )


@mpl.rc_context(_figures.STYLE)
def draw_losses(runs: Mapping[str, Array]) -> Figure:
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    _figures.losses(axes, runs)
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, 0.6))
    return figure


@mpl.rc_context(_figures.STYLE)
def draw_reliability(predictors: Mapping[str, Predictor], data: Images) -> Figure:
    figure = Figure(figsize=(12, 4.4))
    for axes, (name, predictor) in zip(
        figure.subplots(1, len(predictors)), predictors.items(), strict=True
    ):
        plots.reliability(data.labels, predictor(data.images).mean, title=name, ax=axes)
    return figure


@mpl.rc_context(_figures.STYLE)
def draw_turned(angles: Sequence[int], example: Array, means: Sequence[Array]) -> Figure:
    """The mean uncertainty of images that are turned, under one of them at each angle."""
    names = ("no dropout: entropy", "MC-dropout: entropy", "MC-dropout: mutual information")
    figure = Figure(figsize=(8, 4.8))
    strip, axes = figure.subplots(2, 1, height_ratios=(1, 6), sharex=True)
    half = 0.4 * (angles[1] - angles[0])
    for angle, image in zip(angles, example, strict=True):
        strip.imshow(
            image, cmap="gray_r", vmin=0, vmax=1, extent=(angle - half, angle + half, 0, 1)
        )
    strip.set(aspect="auto", xlim=(angles[0] - 2 * half, angles[-1] + 2 * half), ylim=(0, 1))
    strip.set_title("Mean over 100 validation images, one of which is shown")
    strip.set_axis_off()
    for values, name, color, marker in zip(
        means, names, (_figures.ORANGE, _figures.BLUE, _figures.GRAY), "so^", strict=True
    ):
        axes.plot(angles, values, marker=marker, color=color, label=name)
    axes.set(
        xticks=angles[::2],
        xlabel="turned by (degrees)",
        ylabel="uncertainty (nats)",
        ylim=(0, None),
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few epochs and few passes")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, the weights and the masks (default: 0)"
    )
    options = parser.parse_args()
    epochs, passes = (5, 10) if options.quick else (100, 100)
    start = time.perf_counter()
    console = Console(highlight=False)

    training, validation = _images.take(_images.digits(), 300, options.seed)
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
    console.print(performance(predictors, training, validation), "")

    def uncertainties(images: Array) -> list[jax.Array]:
        samples = sampled(images)
        return [
            without(images).predictive_entropy,
            samples.predictive_entropy,
            samples.mutual_information,
        ]

    noise = np.random.default_rng(options.seed).random(validation.images.shape, np.float32)
    unknown = {"turned by 45°": _images.turn(validation.images, 45), "noise": noise}
    console.print(novelty(uncertainties, validation.images, unknown))

    angles = range(0, 181, 15)
    turned = np.stack([_images.turn(validation.images[:100], angle) for angle in angles])
    two = list(validation.labels).index(2)
    figures = {
        "losses.png": draw_losses(losses),
        "reliability.png": draw_reliability(predictors, validation),
        "certainty.png": _figures.certainty(validation, sampled(validation.images)),
        "turned.png": draw_turned(
            angles, turned[:, two], [values.mean(-1) for values in uncertainties(turned)]
        ),
    }
    _figures.save(figures, options.out, console, start)


if __name__ == "__main__":
    main()
