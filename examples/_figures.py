"""The figures of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from digits import Calibration

    import jaxdrop

Array: TypeAlias = jax.Array | npt.NDArray[Any]

# From the palette of Okabe and Ito, which the color-blind can tell apart.
ORANGE, GRAY, BLUE = "#D55E00", "#555555", "#0072B2"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "legend.frameon": False,
}


@mpl.rc_context(STYLE)
def losses(runs: Mapping[str, Array]) -> Figure:
    """The training and the validation loss of two runs, over the epochs."""
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    for (name, curves), color in zip(runs.items(), (ORANGE, BLUE), strict=True):
        epochs = np.arange(1, len(curves) + 1)
        axes.plot(epochs, curves[:, 1], color=color, label=f"{name}, validation")
        axes.plot(epochs, curves[:, 0], color=color, label=f"{name}, training", linestyle="--")
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, 0.6), title="Loss, with nothing dropped")
    axes.legend()
    return figure


@mpl.rc_context(STYLE)
def reliability(calibrations: Mapping[str, Calibration]) -> Figure:
    """Accuracy against confidence, and how many images there are at each confidence."""
    figure = Figure(figsize=(9.6, 4.4))
    grid = figure.subplots(2, len(calibrations), sharex=True, sharey="row", height_ratios=(3, 1))
    for (upper, lower), (name, bins), color in zip(grid.T, calibrations.items(), (ORANGE, GRAY, BLUE), strict=True):
        filled = bins.size > 0
        confidence, accuracy = bins.confidence[filled], bins.accuracy[filled]
        upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        upper.vlines(confidence, confidence, accuracy, color=color, alpha=0.4, linewidth=3)
        upper.plot(confidence, accuracy, "o", color=color, clip_on=False)
        upper.set(title=f"{name}\nECE {bins.error:.3f}", xlim=(0, 1), ylim=(0, 1))
        edges = np.linspace(0, 1, len(bins.size) + 1)
        lower.bar(edges[:-1], bins.size, width=edges[1], align="edge", color=color, edgecolor="white")
        lower.set(xlabel="probability of the predicted digit", yscale="log", ylim=(0.7, None))
    grid[0, 0].set_ylabel("part that is right")
    grid[1, 0].set_ylabel("images")
    return figure


@mpl.rc_context(STYLE)
def certainty(images: Array, labels: Array, prediction: jaxdrop.mc.Classification, columns: int = 8) -> Figure:
    """The images of which the prediction is the most and the least certain."""
    figure = Figure(figsize=(9.6, 4.2))
    order = np.argsort(prediction.predictive_entropy)
    predicted = np.argmax(prediction.mean, axis=-1)
    grid = figure.subplots(2, columns)
    for axes, index in zip(grid.flat, [*order[:columns], *order[: -columns - 1 : -1]], strict=True):
        axes.imshow(images[index].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{labels[index]} → {predicted[index]}", color=BLUE if predicted[index] == labels[index] else ORANGE)
        axes.set_xlabel(f"H = {prediction.predictive_entropy[index]:.2f}\nI = {prediction.mutual_information[index]:.2f}")
    grid[0, 0].set_ylabel("most certain")
    grid[1, 0].set_ylabel("least certain")
    figure.suptitle("Label → prediction, its predictive entropy H and mutual information I (nats)", size="medium")
    return figure


@mpl.rc_context(STYLE)
def turned(angles: Sequence[int], example: Array, means: Sequence[Array]) -> Figure:
    """The mean uncertainty of images that are turned, under one of them at each angle."""
    names = ("no dropout: entropy", "MC-dropout: entropy", "MC-dropout: mutual information")
    figure = Figure(figsize=(8, 4.8))
    strip, axes = figure.subplots(2, 1, height_ratios=(1, 6), sharex=True)
    half = 0.4 * (angles[1] - angles[0])
    for angle, image in zip(angles, example, strict=True):
        strip.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1, extent=(angle - half, angle + half, 0, 1))
    strip.set(aspect="auto", xlim=(angles[0] - 2 * half, angles[-1] + 2 * half), ylim=(0, 1))
    strip.set_title("Mean over 100 validation images, one of which is shown")
    strip.set_axis_off()
    for values, name, color, marker in zip(means, names, (ORANGE, BLUE, GRAY), "so^", strict=True):
        axes.plot(angles, values, marker=marker, color=color, label=name)
    axes.set(xticks=angles[::2], xlabel="turned by (degrees)", ylabel="uncertainty (nats)", ylim=(0, None))
    axes.legend()
    return figure
