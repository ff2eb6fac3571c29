"""Maps of the uncertainty of dense predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs
from jaxdrop.mc._classification import Classification
from jaxdrop.mc._observations import Regression
from jaxdrop.mc.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The height of the titles of the columns, three lines, in inches.
_TITLES = 0.7


@_checks.hinted
def maps(
    images: _inputs.ArrayLike,
    summary: Classification | Regression,
    *,
    truth: _inputs.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws images, a prediction for each of their pixels, and maps of its uncertainty.

    For a segmentation, the most probable class, the expected entropy (aleatoric) and the mutual
    information (epistemic); for a regression the mean and the two standard deviations. All maps of
    one kind share a scale, which the title of the column gives.

    Args:
      images: shape (N, height, width), or (N, height, width, channels) as `imshow` takes them: a
        row for each.
      summary: of shape (N, height, width), the result of `mc.classification` or `mc.regression`.
      truth: labels or targets, shape (N, height, width), drawn beside the images.
      ax: matplotlib axes, which are divided; a new figure by default.

    Returns:
      The axes. The maps are its `child_axes`, column by column.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: `summary` is of another kind, or arrays are not of real numbers.
      ValueError: shapes do not fit, or values are NaN or infinite.
    """
    _axes.check_axes(ax)
    shown = _axes.numbers("images", images)
    if not isinstance(summary, (Classification, Regression)):
        raise TypeError(
            "maps takes a Classification or a Regression summary, such as"
            f" mc.classification(logits=samples), got {_checks.quoted(summary)}"
        )
    _axes.drawable(**{f"summary[{at}]": leaf for at, leaf in enumerate(jax.tree.leaves(summary))})
    columns: dict[str, tuple[np.ndarray, str]] = {"image": (shown, "gray")}
    parts: dict[str, jax.Array]
    if isinstance(summary, Classification):
        mean = np.asarray(summary.mean.argmax(-1))
        kind, name, unit = "tab20", "prediction", " nats"
        parts = {
            "expected entropy": summary.expected_entropy,
            "mutual information": summary.mutual_information,
        }
    else:
        mean, kind, name, unit = np.asarray(summary.mean), "gray", "mean", ""
        parts = {
            "aleatoric std": summary.aleatoric_variance**0.5,
            "epistemic std": summary.epistemic_variance**0.5,
        }
    if truth is not None:
        columns["truth"] = _axes.numbers("truth", truth), kind
    columns[name] = mean, kind
    for part, array in parts.items():
        columns[part] = _axes.numbers(part.replace(" ", "_"), array), "magma"
    if shown.ndim not in (3, 4) or any(
        values.shape != shown.shape[:3] for key, (values, _) in columns.items() if key != "image"
    ):
        shapes = {key: values.shape for key, (values, _) in columns.items()}
        raise ValueError(
            "maps takes images (N, height, width), or with channels, and a summary and truth of"
            f" shape (N, height, width), got {shapes}"
        )
    new, ax = ax is None, _axes.axes(ax)
    if new:  # as high as all rows of images, and the titles
        figure: Any = ax.figure
        width, height = figure.get_size_inches()
        rows = len(shown) * width / len(columns) * shown.shape[1] / shown.shape[2]
        figure.set_figheight(np.clip(rows + _TITLES, 0.3 * height, 3 * height))
    ax.set_axis_off()
    # What is predicted and what is true have one scale.
    alike = np.stack([values for key, (values, _) in columns.items() if key in ("truth", name)])
    for at, (key, (values, colors)) in enumerate(columns.items()):
        low, high = float(values.min()), float(values.max())
        if key in ("truth", name):
            low, high = float(alike.min()), float(alike.max())
        if colors == "tab20":
            low, high = 0.0, 19.0
        elif colors == "magma":
            low = 0.0
        for row in range(len(shown)):
            width, height = 1 / len(columns), 1 / len(shown)
            box = (
                (at + 0.04) * width,
                1 - (row + 0.96) * height,
                0.92 * width,
                0.92 * height,
            )
            cell = ax.inset_axes(box)
            cell.imshow(values[row], cmap=colors, vmin=low, vmax=high, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            if not row:
                scale = f" 0 to {high:.2g}{unit}" if colors == "magma" else ""
                title = f"{key}{scale}".replace(" ", "\n", 2)
                cell.set_title(title, fontsize="medium")
    return ax
