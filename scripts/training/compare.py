"""Training without dropout, with half of it, and with all of it, side by side in one compiled
step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from _figures import BLUE, GRAY, ORANGE, STYLE
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from scipy import ndimage

from jaxdrop.mc import plots
from training.data import Array, Examples

RUNS = {"no dropout": 0.0, "half the rates": 0.5, "all of the rates": 1.0}
_COLORS = ORANGE, GRAY, BLUE


def side_by_side(
    init: Callable[[], Any], target: Any, step: Callable[..., Any]
) -> tuple[Callable[[], Any], Any, Callable[..., Any]]:
    """The same functions for all runs at once. They begin with the same parameters, and take the
    same batches and keys.

    What one of them drops, those with higher rates drop too.
    """

    def widen(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        assert isinstance(leaf.sharding, NamedSharding)
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(None, *leaf.sharding.spec))
        return jax.ShapeDtypeStruct((len(RUNS), *leaf.shape), leaf.dtype, sharding=sharding)

    def repeated() -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(RUNS), *leaf.shape)), init())

    def steps(states: Any, batch: Examples, count: jax.Array) -> Any:
        return jax.vmap(step, in_axes=(0, None, None, 0))(
            states, batch, count, jnp.array([*RUNS.values()])
        )

    target = jax.tree.map(widen, target)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    return jax.jit(repeated, out_shardings=shardings), target, steps


def judged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a state, examples and weights, for the states of all runs."""
    return jax.vmap(function, in_axes=(0, None, None))


@mpl.rc_context(STYLE)
def draw(log: str, logits: Array, labels: Array) -> Figure:
    """Losses, generalization gaps and gradient norms of the runs over the steps, and how calibrated
    they are in the end.

    Args:
      log: the lines of metrics.jsonl.
      logits: of each run, on data that it has not seen, with nothing dropped.
      labels: of that data.
    """
    lines = [json.loads(line) for line in log.splitlines()]
    steps, norms = _curves(lines, "gradient_norm")
    judged, seen = _curves(lines, "training_loss")
    _, unseen = _curves(lines, "validation_loss")

    figure = Figure(figsize=(13, 8))
    (losses, gaps, gradients), reliabilities = figure.subplots(2, 3)
    for run, (name, color) in enumerate(zip(RUNS, _COLORS, strict=True)):
        losses.plot(judged, unseen[:, run], color=color, label=f"{name}, validation")
        losses.plot(judged, seen[:, run], color=color, linestyle="--", label=f"{name}, training")
        gaps.plot(judged, (unseen - seen)[:, run], color=color, label=name)
        gradients.plot(steps, norms[:, run], color=color, linewidth=0.5, alpha=0.3)
        gradients.plot(
            steps,
            ndimage.uniform_filter1d(norms[:, run], max(len(steps) // 20, 1)),
            color=color,
            label=name,
        )
        probs = jax.nn.softmax(logits[run]).reshape(-1, logits.shape[-1])
        plots.reliability(labels.reshape(-1), probs, title=name, ax=reliabilities[run])
    losses.set(ylabel="cross-entropy (nats)", ylim=(0, None), title="Loss, with nothing dropped")
    gaps.axhline(0, color="black", linewidth=0.8, linestyle=":")
    gaps.set(ylabel="nats", title="Generalization gap: validation less training")
    gradients.set(ylabel="norm", ylim=(0, None), title="Gradient, smoothed")
    for axes in (losses, gaps, gradients):
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    return figure


def _curves(lines: list[dict[str, Any]], name: str) -> tuple[Array, Array]:
    """The steps at which a figure was logged, and its values, `(steps, runs)`."""
    found = [line for line in lines if name in line]
    return np.array([line["step"] for line in found]), np.array([line[name] for line in found])
