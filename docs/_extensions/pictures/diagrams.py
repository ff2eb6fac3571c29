"""The figures of `jaxdrop.mc.plots`, of predictions that are made up: a classifier that is too sure
of itself, and a regression whose noise is larger on one side than it believes.
"""

from __future__ import annotations

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdrop import mc
from jaxdrop.mc import plots

PLOTS = (
    "reliability",
    "risk_coverage",
    "novelty",
    "coverage_by_size",
    "band",
    "calibration",
    "pit",
    "sparsification",
    "standard_error",
)
CLASSES, EXAMPLES, SAMPLES = 5, 2000, 64


def figure() -> Figure:
    """All of them, on white: their own lines are black."""
    with mpl.rc_context({"font.size": 8, "axes.titlesize": 9}):
        drawn = Figure(figsize=(9, 9.5), layout="constrained", facecolor="white")
        axes = dict(zip(PLOTS, drawn.subplots(3, 3).flat, strict=True))
        _classification(axes)
        _regression(axes)
        for name, ax in axes.items():
            ax.set_title(name, fontweight="bold")
        drawn.draw_without_rendering()
    return drawn


def _classification(axes: dict[str, Axes]) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(scale=1.5, size=(EXAMPLES, CLASSES))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(-1)
    noise = random.normal(scale=0.7, size=(SAMPLES, *logits.shape))
    found = mc.classification(logits=jnp.asarray(1.6 * logits + noise, jnp.float32))
    unknown = mc.classification(logits=jnp.asarray(0.5 * logits + noise, jnp.float32))
    entropy, errors = found.predictive_entropy, labels != np.asarray(found.mean).argmax(-1)
    plots.reliability(labels, found.mean, ax=axes["reliability"])
    plots.risk_coverage(errors, {"entropy": entropy}, ax=axes["risk_coverage"])
    plots.novelty(entropy, {"unknown": unknown.predictive_entropy}, ax=axes["novelty"])
    sets = np.asarray(found.mean) > 0.05
    plots.coverage_by_size(labels, sets, ax=axes["coverage_by_size"])


def _regression(axes: dict[str, Axes]) -> None:
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(-1, 1, 300))
    truth = np.sin(4 * x)
    waves = np.cos(np.arange(12)[:, None] * (x + 1))
    samples = truth + 0.1 * (1 + x**2) * (random.normal(size=(SAMPLES, 12)) @ waves) / 2
    y = truth + random.normal(scale=0.15 + 0.15 * (x > 0), size=x.shape)
    summary = mc.regression(jnp.asarray(samples, jnp.float32), tau=1 / 0.15**2)
    cdf = summary.cdf(jnp.asarray(y, jnp.float32))
    plots.band(x, summary, observed=(x[::4], y[::4]), ax=axes["band"])
    plots.calibration(cdf, ax=axes["calibration"])
    plots.pit(cdf, ax=axes["pit"])
    errors = abs(y - np.asarray(summary.mean))
    plots.sparsification(errors, {"std": summary.std + 0.15 * (x > 0)}, ax=axes["sparsification"])
    plots.standard_error(samples, ax=axes["standard_error"])
