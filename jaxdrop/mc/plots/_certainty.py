"""The images with the most and the least certain predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, _labels
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARE = 0.3  # of an image in the height of the axes


@_checks.hinted
def certainty(
    images: _inputs.ArrayLike,
    labels: _inputs.ArrayLike,
    probs: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    columns: int = 8,
    name: str = "predictive entropy (nats)",
    ax: Axes | None = None,
) -> Axes:
    """Draws the images with the most certain predictions, and below them those with the least
    certain ones.

    Above each image are its label, an arrow and the predicted class, in orange and with a cross if
    it is wrong. Below it is the uncertainty.

    Args:
      images: shape (N, height, width), or (N, height, width, channels) as `imshow` takes them.
      labels: integers, shape (N,).
      probs: predictive probabilities, shape (N, C).
      uncertainty: shape (N,), such as `Classification.predictive_entropy`, in nats.
      columns: how many images of each kind.
      name: the name of the uncertainty, and its unit.
      ax: matplotlib axes, which are divided; a new figure by default.

    Returns:
      The axes. The images are its `child_axes`: the most certain ones from the first on, then the
        least certain ones from the last on.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: labels are not integers, or the rest not real numbers.
      ValueError: shapes do not fit, a label is out of range, or there are fewer than `columns`
        images.
    """
    _axes.check_axes(ax)
    name = _axes.text("name", name)
    _axes.numbers("images", images)
    images, probs = np.asarray(images), _axes.numbers("probs", probs)
    _inputs.probabilities("probs", probs)
    _axes.drawable(labels=labels)
    labels = np.asarray(_labels.integers("certainty", labels, binary=None))
    values = _axes.numbers("uncertainty", uncertainty)
    if (
        images.ndim not in (3, 4)
        or probs.ndim != 2
        or labels.ndim != 1
        or values.ndim != 1
        or len({len(images), len(probs), len(labels), len(values)}) != 1
    ):
        raise ValueError(
            "certainty takes images (N, height, width), labels (N,), probs (N, C) and uncertainty"
            f" (N,), got shapes {images.shape}, {labels.shape}, {probs.shape} and {values.shape}"
        )
    _labels.within(labels, probs.shape[1], None, advice="Leave out the images without a label.")
    columns = _checks.check_integer(columns, "columns")
    if not 1 <= columns <= len(images):
        raise ValueError(
            f"columns must lie in [1, {len(images)}], the number of images, got {columns}"
        )
    new, ax = ax is None, _axes.axes(ax)
    if new:  # as high as two rows of images and their titles
        figure: Any = ax.figure
        width, height = figure.get_size_inches()
        image = 0.8 * width / columns * images.shape[1] / images.shape[2]
        figure.set_figheight(np.clip(image / _SHARE + 0.5, 0.5 * height, height))
    ax.set_axis_off()
    ax.set_title(f"Label → prediction, and {name} below")
    order, predicted = np.argsort(values, kind="stable"), probs.argmax(1)
    for row, (indices, side) in enumerate(
        [(order[:columns], "most certain"), (order[::-1][:columns], "least certain")]
    ):
        for column, index in enumerate(indices):
            place = ((column + 0.08) / columns, 0.55 - 0.5 * row, 0.84 / columns, _SHARE)
            cell = ax.inset_axes(place)
            cell.imshow(images[index], cmap="gray_r", vmin=images.min(), vmax=images.max())
            cell.spines[:].set(visible=True, linewidth=0.5)
            cell.set(
                xticks=[], yticks=[], xlabel=f"{values[index]:.2f}", ylabel="" if column else side
            )
            right = predicted[index] == labels[index]
            title = f"{labels[index]} → {predicted[index]}{'' if right else ' ✗'}"
            cell.set_title(title, color=_axes.BLUE if right else _axes.ORANGE, fontsize="medium")
    return ax
