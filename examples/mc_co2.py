#!/usr/bin/env python3
"""What a network knows of the CO2 in the air, and what it only makes up: Monte Carlo dropout beyond
the data.

    python examples/mc_co2.py            # some minutes on two CPU cores
    python examples/mc_co2.py --quick    # seconds: smaller networks, few steps
    # More like the paper; hours:
    python examples/mc_co2.py --since 1959 --until 1981 --width 1024 --steps 100000

Networks learn the concentration of CO2 on Mauna Loa until some year, and are asked about the years
after it, as in figure 2 of Gal & Ghahramani, "Dropout as a Bayesian approximation: representing
model uncertainty in deep learning", ICML 2016, arXiv:1506.02142: four hidden layers, with dropout
after each. A network without dropout goes on as if it knew. With Monte Carlo dropout, the passes
part where the data end: with ReLU the farther the more, with TanH up to a limit.

Every fifth point before that year is kept from the networks. The precision of the noise, tau, is
the one that makes these points most likely: the seasons, of which so short a training learns
little, count as noise. Prints a table and draws a figure.

The table has the share of measurements in intervals of 95 %: those of the Gaussian, and conformal
ones, whose width is calibrated on every other point that was kept back. Between the points for
training conformal intervals hold what they promise, whatever tau is. After the end they need not,
and do not: the years to come are not exchangeable with those before, and no calibration helps.

The monthly means from 1959 to 2025 are in `_co2.py`. `--data` reads the tables of annual or monthly
means that NOAA publishes (gml.noaa.gov/ccgg/trends/data.html), or a folder with the authors'
`train.h5`, which needs h5py, from github.com/yaringal/DropoutUncertaintyCaffeModels.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _arguments
import _co2
import _figures
import _tables
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jaxdrop
import jaxdrop.mc.plots
import jaxdrop.nnx
from jaxdrop.mc import conformal

Array: TypeAlias = jax.Array | npt.NDArray[Any]

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {"ReLU": nnx.relu, "TanH": nnx.tanh}
STEPS_AT_ONCE = 50


# -- data


class Series(NamedTuple):
    """What was measured, when, and until when the networks may see it."""

    time: Array
    values: Array
    end: float
    labels: tuple[str, str]
    """Of the axes."""

    def parts(self) -> tuple[Array, Array, Array]:
        """Which points are for training, which lie between them and are not, and which come after
        the end.
        """
        before = self.time <= self.end
        fifth = np.arange(len(self.time)) % 5 == 2
        return before & ~fifth, before & fifth, ~before


def read(path: Path | None, since: float, until: float) -> Series:
    """The series of `_co2.py`, of a table of NOAA's, or the whole one in a folder of the
    authors'.
    """
    if path is not None and path.is_dir():
        time, values = _authors(path)
        return Series(
            time,
            values,
            float(time.max()),
            ("time (standard deviations)", "CO2 without trend (standard deviations)"),
        )
    time, values = _table(path) if path else _embedded()
    recent = time >= since
    return Series(time[recent], values[recent], until, ("year", "CO2 (ppm)"))


def _embedded() -> tuple[Array, Array]:
    values = np.ravel(_co2.MONTHLY_MEANS)
    return _co2.FIRST_YEAR + (np.arange(len(values)) + 0.5) / 12, values


def _authors(folder: Path) -> tuple[Array, Array]:
    with importlib.import_module("h5py").File(folder / "train.h5") as file:
        return np.ravel(file["data"]), np.ravel(file["label"])


def _table(path: Path) -> tuple[Array, Array]:
    header, *rows = (
        line.lower().split(",") for line in path.read_text().splitlines() if line and line[0] != "#"
    )
    monthly = "decimal date" in header
    when, what = (
        header.index(name)
        for name in (("decimal date", "average") if monthly else ("year", "mean"))
    )
    table = np.array([(float(row[when]), float(row[what])) for row in rows])
    table = table[table[:, 1] > 0]  # a month without measurements is -99.99
    return table[:, 0] + (0 if monthly else 0.5), table[:, 1]


# -- networks


class Network(nnx.Module):
    """Hidden layers of one width, each with dropout after it."""

    def __init__(
        self, layers: int, width: int, activation: str, rate: float, *, rngs: nnx.Rngs
    ) -> None:
        self.first = nnx.Linear(1, width, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
        self.hidden = nnx.List(
            [
                nnx.Linear(width, width, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
                for _ in range(layers - 1)
            ]
        )
        self.last = nnx.Linear(width, 1, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)
        self.activation = activation

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The outputs for times, shape (points,)."""
        hidden = jnp.asarray(x)[..., None]
        for layer in (self.first, *self.hidden):
            hidden = self.dropout(ACTIVATIONS[self.activation](layer(hidden)), rngs=rngs)
        return self.last(hidden)[..., 0]


def optimizer(steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(1e-6), optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    )


@functools.partial(jax.jit, static_argnames=("graph", "steps"), donate_argnames="state")
def train_steps(
    graph: nnx.GraphDef, state: Any, x: Array, y: Array, keys: jax.Array, *, steps: int
) -> tuple[Any, jax.Array]:
    """One step of Adam on all points for each key, of `steps` in the whole training. Returns the
    state and the losses.
    """

    def loss(params: nnx.State, key: jax.Array) -> jax.Array:
        return jnp.mean((nnx.merge(graph, params)(x, nnx.Rngs(key)) - y) ** 2) / 2

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, moments = state
        value, gradients = jax.value_and_grad(loss)(params, key)
        updates, moments = optimizer(steps).update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    return lax.scan(step, state, keys)


def train(
    network: Network, x: Array, y: Array, steps: int, key: jax.Array, progress: Progress, name: str
) -> Network:
    graph, params = nnx.split(network)
    state = params, optimizer(steps).init(params)
    keys = jax.random.split(key, steps)
    for start in progress.track(range(0, steps, STEPS_AT_ONCE), description=f"Training {name}"):
        state, losses = train_steps(
            graph, state, x, y, keys[start : start + STEPS_AT_ONCE], steps=steps
        )
        losses.block_until_ready()
    return nnx.merge(graph, state[0])


# -- prediction


class Scaling(NamedTuple):
    """What the networks see: numbers with mean 0 and standard deviation 1 over the points for
    training.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Array) -> Scaling:
        return cls(float(values.mean()), float(values.std()))

    def apply(self, values: Array) -> Array:
        return np.asarray((values - self.mean) / self.deviation, np.float32)

    def undo(self, values: Array) -> Array:
        return np.asarray(values) * self.deviation + self.mean


class Prediction(NamedTuple):
    """What two networks of one kind say at some times, in the units of the data."""

    plain: Array
    """Without dropout."""
    passes: Array
    """With Monte Carlo dropout: one curve for each mask, shape (passes, times)."""

    def summary(self, tau: Array) -> jaxdrop.mc.Regression:
        return jaxdrop.mc.regression(self.passes, tau=tau)


@nnx.jit
def predict(plain: Network, dropped: Network, x: Array, keys: jax.Array) -> Prediction:
    """Each pass has one mask for all times, so that it is a function of time."""
    fn = jaxdrop.nnx.stochastic(dropped, shared_mask=True)
    passes = jaxdrop.mc.predict(lambda key: fn(key, x), keys, batch_size=10)
    return Prediction(nnx.view(plain, deterministic=True)(x), passes)


class Result(NamedTuple):
    """Two networks with one activation function."""

    points: Prediction
    """At the points of the series."""
    curve: Prediction
    """On a grid that goes on after the data."""
    tau: Array
    """Precision of the noise, one over the square of the units of the data."""


def run(
    series: Series, grid: Array, activation: str, options: argparse.Namespace, progress: Progress
) -> Result:
    """Trains both networks, predicts, and chooses tau on the points between those for training."""
    training, between, _ = series.parts()
    x, y = Scaling.of(series.time[training]), Scaling.of(series.values[training])
    weights, masks, passes = jax.random.split(jaxdrop.key(options.seed), 3)
    networks = []
    for name, rate in (
        (f"{activation}, no dropout", 0.0),
        (f"{activation}, dropout {options.rate}", options.rate),
    ):
        network = Network(options.layers, options.width, activation, rate, rngs=nnx.Rngs(weights))
        data = x.apply(series.time[training]), y.apply(series.values[training])
        networks.append(train(network, *data, options.steps, masks, progress, name))
    keys = jaxdrop.mc.keys(passes, options.samples)
    both = jax.tree.map(
        y.undo, predict(*networks, x.apply(np.concatenate([series.time, grid])), keys)
    )
    points, curve = (
        Prediction(*parts)
        for parts in zip(*(np.split(v, [len(series.time)], axis=-1) for v in both), strict=True)
    )
    tau = jaxdrop.mc.fit_tau(series.values[between], points.passes[:, between]).tau
    return Result(points, curve, tau)


# -- reporting


def conformal_coverage(series: Series, summary: jaxdrop.mc.Regression, part: Array) -> Array:
    """Which measurements are in conformal intervals of 95 %, calibrated on a part of the points.

    Tau may have been chosen on these points and others alike: all of them count the same in it, so
    that they stay exchangeable.
    """
    mean, std = np.asarray(summary.mean), np.asarray(summary.std)
    scores = conformal.residual_scores(series.values[part], mean[part], std[part])
    threshold = conformal.calibrate(scores, 0.95)
    lower, upper = map(np.asarray, conformal.residual_interval(mean, threshold, std))
    return (lower <= series.values) & (series.values <= upper)


def table(series: Series, grid: Array, results: Mapping[str, Result]) -> Table:
    """How far off predictions are, what the passes do not agree on, and how much of what was
    measured is in the intervals.
    """
    _, between, after = series.parts()
    before = (grid >= series.time[0]) & (grid <= series.end)
    every_other = between & (between.cumsum() % 2 == 0)
    others = between & ~every_other

    def cells(values: Array, parts: tuple[Array, Array], form: str) -> list[str]:
        return [format(values[part].mean(), form) if part.any() else "" for part in parts]

    def errors(guess: Array) -> list[str]:
        return [
            f"{jaxdrop.mc.metrics.rmse(series.values[part], guess[part]):.2f}" if part.any() else ""
            for part in (between, after)
        ]

    rows = []
    for name, result in results.items():
        summary = result.points.summary(result.tau)
        lower, upper = map(np.asarray, summary.interval(0.95))
        inside = (lower <= series.values) & (series.values <= upper)
        spread = np.sqrt(result.curve.summary(result.tau).epistemic_variance)
        rows.append([f"{name}, no dropout", *errors(result.points.plain), *[""] * 6])
        spreads, covered = (
            cells(spread, (before, grid > series.end), ".2f"),
            cells(inside, (between, after), ".0%"),
        )
        guaranteed = cells(conformal_coverage(series, summary, every_other), (others, after), ".0%")
        rows.append(
            [
                f"{name}, MC-dropout",
                *errors(np.asarray(summary.mean)),
                *spreads,
                *covered,
                *guaranteed,
            ]
        )
    columns = [
        "",
        "RMSE\nbetween",
        "\nafter",
        "epistemic sd\nbefore",
        "\nafter",
        "in 95 %\nbetween",
        "\nafter",
        "conformal\nbetween",
        "\nafter",
    ]
    return _tables.table(
        f"{series.labels[1]}: before, between the points for training, and after {series.end:g}",
        columns,
        rows,
    )


@mpl.rc_context(_figures.STYLE)
def draw(series: Series, grid: Array, results: Mapping[str, Result]) -> Figure:
    """What each kind of network says before and after the end of its data, and how the disagreement
    of the passes grows.
    """
    training, _, _ = series.parts()
    figure = Figure(figsize=(15, 5))
    *panels, last = figure.subplots(1, len(results) + 1)
    span = np.ptp(series.values)
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        axes.plot(grid, result.curve.passes[:5].T, color=_figures.BLUE, linewidth=0.5, alpha=0.7)
        jaxdrop.mc.plots.band(grid, result.curve.summary(result.tau), ax=axes)
        axes.plot(
            grid, result.curve.plain, color=_figures.ORANGE, linestyle="--", label="no dropout"
        )
        for part, color, label in (
            (training, "black", "training"),
            (~training, _figures.GRAY, "kept back"),
        ):
            axes.plot(
                series.time[part],
                series.values[part],
                ".",
                color=color,
                markersize=2.5,
                alpha=0.7,
                zorder=0,
                label=label,
            )
        axes.axvline(series.end, color="black", linewidth=0.8, linestyle=":")
        axes.set(
            title=f"{name}: mean, 95 % bands and five passes",
            xlabel=series.labels[0],
            ylabel=series.labels[1],
        )
        axes.set(
            xlim=(grid[0], grid[-1]),
            ylim=(series.values.min() - 0.15 * span, series.values.max() + 0.3 * span),
        )
        axes.legend(fontsize="small", loc="upper left")
    for (name, result), color in zip(results.items(), (_figures.BLUE, _figures.GREEN), strict=True):
        summary = result.curve.summary(result.tau)
        last.plot(
            grid, np.sqrt(summary.epistemic_variance), color=color, label=f"{name}, epistemic"
        )
        last.axhline(
            np.sqrt(1 / result.tau),
            color=color,
            linestyle="--",
            linewidth=1,
            label=f"{name}, noise",
        )
    last.axvline(series.end, color="black", linewidth=0.8, linestyle=":")
    last.set(
        title="What the passes do not agree on",
        xlabel=series.labels[0],
        xlim=(grid[0], grid[-1]),
        ylim=(0, None),
    )
    last.set(ylabel=f"standard deviation: {series.labels[1]}")
    last.legend(fontsize="small")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "small networks, few steps, few passes")
    parser.add_argument(
        "--data",
        type=Path,
        help="a table of NOAA's, or a folder with train.h5 (default: the monthly means)",
    )
    parser.add_argument(
        "--since", type=float, default=1980, help="the first year of the data (default: 1980)"
    )
    parser.add_argument(
        "--until", type=float, default=2003, help="the end of the training data (default: 2003)"
    )
    parser.add_argument("--layers", type=int, default=4, help="hidden ones (default: 4)")
    parser.add_argument(
        "--width",
        type=int,
        default=256,
        help="of the hidden layers (default: 256; the paper's have 1024)",
    )
    parser.add_argument("--rate", type=float, default=0.1, help="dropout rate (default: 0.1)")
    parser.add_argument(
        "--steps",
        type=int,
        default=5000,
        help="of training (default: 5000; the paper takes a million)",
    )
    parser.add_argument(
        "--samples", type=int, default=200, help="Monte Carlo passes (default: 200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights and the masks (default: 0)"
    )
    options = parser.parse_args()
    if options.quick:
        options.width, options.steps, options.samples = 64, 200, 50
    start = time.perf_counter()
    console = Console(highlight=False)

    series = read(options.data, options.since, options.until)
    span = series.end - series.time[0]
    grid = np.linspace(series.time[0] - 0.1 * span, max(series.end + span, series.time[-1]), 400)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        results = {name: run(series, grid, name, options, progress) for name in ACTIVATIONS}
    console.print(table(series, grid, results))

    _figures.save({"mc_co2.png": draw(series, grid, results)}, options.out, console, start)


if __name__ == "__main__":
    main()
