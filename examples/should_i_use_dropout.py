#!/usr/bin/env python3
"""Should I use dropout? Three runs tell: without it, with a little, and with the usual rate.

    python examples/should_i_use_dropout.py            # about three minutes on two CPU cores
    python examples/should_i_use_dropout.py --quick    # a quarter of a minute, and few steps

Trains networks with two hidden layers on the digits of scikit-learn, over rates, training-set
sizes and widths, each with several seeds. Rates, sizes and widths are arguments of one compiled
program, which `jax.vmap` runs for all of them at once. Prints for each size and width what the
three runs say in words, and a table of places and times at which dropout stands: before and after
batch norm, raised late, on inputs, with small and large batches, inside and on the stream of a
residual network. Writes three figures.

What three seeds say of 1000 steps: a rate of 0.5 over-regularizes 32 units that learn from 800
images, and has no certain effect elsewhere. In front of batch norm it leaves 0.47 of the variance
in evaluation. On inputs it raises the accuracy with 30 % of the pixels missing from 75.5 to 84.1 %,
and lowers it from 92.6 to 90.5 % with none missing. On the stream of a residual network the loss is
0.43 nats, inside the branches 0.26, without dropout 0.31, each with an error of about 0.04.

The verdicts are those of these settings. With three hidden layers, 600 steps and rates up to 0.75,
dropout over-regularized in all four cases; and with three seeds, "no effect" mostly says that there
are too few to tell.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import _arguments
import _diagnosis
import _figures
import _images
import _tables
import jax
import matplotlib as mpl
import numpy as np
from _diagnosis import Curves
from _images import Images
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from jaxdrop.mc import metrics

RATES: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5)
NONE, REDUCED, FULL = 0.0, 0.1, 0.5
NAMES = {NONE: "no dropout", REDUCED: "reduced, 0.1", FULL: "full, 0.5"}


# -- what the curves say


def verdict(found: Mapping[float, Curves]) -> str:
    """In words, what the runs without, with reduced and with full dropout say. A difference counts
    if a t-test over the seeds finds it at a level of 5 %.
    """
    none, reduced, full = (found[rate] for rate in NAMES)
    little, much = better(reduced, none), better(full, none)
    if much > 0:
        return "helping" if better(reduced, full) <= 0 else "helping, less is better"
    if little > 0:
        return "helping at the reduced rate only"
    if much < 0:
        fits = full.training[:, -1].mean() > 2 * none.training[:, -1].mean() + 0.02
        return "over-regularized: it does not fit" if fits else "over-regularized"
    return "no effect"


def better(first: Curves, second: Curves) -> int:
    """1 if the final validation loss of the first is lower, -1 if it is higher, 0 if neither. Both
    have the same seeds.
    """
    gain = second.validation[:, -1] - first.validation[:, -1]
    return int(np.sign(gain.mean())) * int(stats.ttest_1samp(gain, 0).pvalue < 0.05)


def scores(curves: Curves, validation: Images) -> list[str]:
    """Training and validation loss, their difference, accuracy, calibration and gradient noise."""
    training, loss = curves.training[:, -1], curves.validation[:, -1]
    return [
        _tables.spread(training, 3),
        _tables.spread(loss, 3),
        _tables.spread(loss - training, 3),
        f"{accuracy(curves.logits, validation):.1%}",
        f"{calibration(curves, validation).mean():.3f}",
        f"{curves.noise[:, : _diagnosis.CHECKPOINTS // 4].mean():.0%}",
    ]


def accuracy(logits: Any, validation: Images) -> float:
    """The mean over images and seeds."""
    return float((logits.argmax(-1) == validation.labels).mean())


def calibration(curves: Curves, validation: Images) -> Any:
    """The expected calibration error of each seed."""
    return np.array(
        [
            float(metrics.ece(validation.labels, np.asarray(jax.nn.softmax(logits))))
            for logits in curves.logits
        ]
    )


COLUMNS = [
    "",
    "training\nloss",
    "validation\nloss",
    "\ngap",
    "\naccuracy",
    "\nECE",
    "gradient\nnoise",
]


# -- figures


@mpl.rc_context(_figures.STYLE)
def draw_curves(cases: Mapping[str, Mapping[float, Curves]], steps: int) -> Figure:
    """Training and validation loss of the three runs, in each case."""
    figure = Figure(figsize=(9.6, 6.4))
    at = np.linspace(steps / _diagnosis.CHECKPOINTS, steps, _diagnosis.CHECKPOINTS)
    colors = (_figures.ORANGE, _figures.GREEN, _figures.BLUE)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (title, found) in zip(panels.flat, cases.items(), strict=True):
        for (rate, name), color in zip(NAMES.items(), colors, strict=True):
            curves = found[rate]
            axes.plot(at, curves.validation.mean(0), color=color, label=f"{name}: validation")
            axes.plot(at, curves.training.mean(0), "--", color=color, label="training")
        axes.set_title(f"{title}\n{verdict(found)}")
        axes.set(yscale="log", ylim=(1e-3, 3))
    for axes in panels[:, 0]:
        axes.set_ylabel("cross-entropy (nats)")
    for axes in panels[1]:
        axes.set_xlabel("step")
        _figures.whole_numbers(axes)
    panels[1, 0].legend(fontsize="small", ncols=2, loc="lower left")
    return figure


@mpl.rc_context(_figures.STYLE)
def draw_rates(cases: Mapping[str, Mapping[float, Curves]], validation: Images) -> Figure:
    """The final figures of each case, against the rate."""
    figure = Figure(figsize=(9.6, 6.4))
    panels = figure.subplots(2, 2, sharex=True)
    colors = (_figures.ORANGE, _figures.GREEN, _figures.BLUE, _figures.PINK)
    quarter = _diagnosis.CHECKPOINTS // 4
    for (name, found), color, marker in zip(cases.items(), colors, "os^D", strict=True):
        rates = list(found)
        values = [
            [curves.validation[:, -1] for curves in found.values()],
            [curves.validation[:, -1] - curves.training[:, -1] for curves in found.values()],
            [calibration(curves, validation) for curves in found.values()],
            [curves.noise[:, :quarter].mean(1) for curves in found.values()],
        ]
        for axes, of_rates in zip(panels.flat, map(np.array, values), strict=True):
            error = of_rates.std(1, ddof=1) / of_rates.shape[1] ** 0.5
            axes.errorbar(rates, of_rates.mean(1), error, color=color, marker=marker, label=name)
    titles = {
        "Validation loss": "cross-entropy (nats)",
        "Gap: validation minus training loss": "cross-entropy (nats)",
        "Expected calibration error": "error of the probability",
        "Gradient noise in the first quarter": "variance / mean square",
    }
    for axes, (title, label) in zip(panels.flat, titles.items(), strict=True):
        axes.set(title=title, ylabel=label, xlabel="rate", ylim=(0, None))
    panels[0, 0].legend(fontsize="small")
    return figure


@mpl.rc_context(_figures.STYLE)
def draw_places(places: Mapping[str, Mapping[float, Curves]]) -> Figure:
    """The validation loss of each place, without and with dropout there."""
    figure = Figure(figsize=(9.6, 4.4))
    axes = figure.add_subplot()
    rows = np.arange(len(places))[::-1]
    for rate, color, shift in ((NONE, _figures.ORANGE, 0.18), (FULL, _figures.BLUE, -0.18)):
        losses = np.array([found[rate].validation[:, -1] for found in places.values()])
        error = losses.std(1, ddof=1) / losses.shape[1] ** 0.5
        name = "no dropout" if rate == NONE else f"dropout, rate {rate}"
        axes.barh(rows + shift, losses.mean(1), 0.34, xerr=error, color=color, label=name)
    axes.set_yticks(rows, list(places))
    axes.set(xlabel="validation loss after the last step (nats), with its standard error")
    axes.set_title("Where and when dropout stands")
    axes.legend()
    return figure


# -- running


PLACES = {
    "batches of 8": ("plain", 8),
    "batches of 128": ("plain", 128),
    "on inputs": ("inputs", 32),
    "after batch norm": ("after norm", 32),
    "before batch norm": ("before norm", 32),
    "residual: inside branches": ("residual", 32),
    "residual: on the stream": ("stream", 32),
}


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "few steps and two seeds")
    parser.add_argument("--seeds", type=int, default=3, help="of each setting (default: 3)")
    options = parser.parse_args()
    seeds, steps = (2, 20) if options.quick else (options.seeds, 1000)
    start, console = time.perf_counter(), Console(highlight=False, width=110)
    pool, validation = _images.load(None, 0)
    numbers, rates, chosen = (100, 800), RATES, PLACES
    if options.quick:
        pool, validation = _images.take(validation, 200, 0)
        numbers, rates, chosen = (50, 199), (NONE, REDUCED, FULL), {}

    settings = [(number, width) for number in numbers for width in (32, _diagnosis.LARGEST)]
    usual = _diagnosis.runs((NONE, FULL), seeds)
    late = _diagnosis.runs((NONE, FULL), seeds, start=0.5)
    grid = [_diagnosis.runs(rates, seeds, number, width) for number, width in settings]
    which = _diagnosis.together([*grid, usual, late])
    curves = _diagnosis.train(which, pool, validation, kind="plain", batch=32, steps=steps)
    cases: dict[str, Mapping[float, Curves]] = {}
    for number, width in settings:
        found = _diagnosis.by_rate(curves, which, number=number, width=width)
        title = f"{number} images, {width} units"
        cases[title] = found
        rows = [[f"rate {rate:g}", *scores(found[rate], validation)] for rate in found]
        console.print(_tables.table(title, COLUMNS, rows))
        console.print(f"dropout is: [bold]{verdict(found)}[/bold]\n")

    others = {
        "behind activations": _diagnosis.by_rate(curves, which, number=200, start=0.0),
        "raised at half of the steps": _diagnosis.by_rate(curves, which, number=200, start=0.5),
    }
    for name, (kind, batch) in chosen.items():
        curves = _diagnosis.train(usual, pool, validation, kind=kind, batch=batch, steps=steps)
        others[name] = _diagnosis.by_rate(curves, usual)
    rows = []
    for name, found in others.items():
        for rate, own in found.items():
            _, loss, _, right, *_, noise = scores(own, validation)
            cells = [f"{name}, rate {rate:g}", loss, right, noise]
            ratio = f"{own.ratio[:, -1].mean():.2f}" if "norm" in name else ""
            rows.append([*cells, f"{accuracy(own.missing, validation):.1%}", ratio])
    title = "Where and when dropout stands: 200 images, 128 units"
    columns = ["", "validation\nloss", "\naccuracy", "gradient\nnoise"]
    columns += ["accuracy, 30 %\nof pixels missing", "variance ratio\nin evaluation"]
    console.print(_tables.table(title, columns, rows))
    figures = {
        "curves.png": draw_curves(cases, steps),
        "rates.png": draw_rates(cases, validation),
        "places.png": draw_places(others),
    }
    _figures.save(figures, options.out, console, start)


if __name__ == "__main__":
    main()
