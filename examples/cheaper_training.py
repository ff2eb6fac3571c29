#!/usr/bin/env python3
"""Does dropout that skips what it drops make training cheaper? A small language model, by the clock
and by floating operations.

    python examples/cheaper_training.py --data input.txt  # tiny Shakespeare: an hour on two cores
    python examples/cheaper_training.py --data input.txt --clock  # times the steps once more
    python examples/cheaper_training.py --data input.txt --plot  # draws what has been measured
    python examples/cheaper_training.py --quick  # half a minute, and too short to judge anything

Trains a transformer on characters without dropout, and in ten ways that drop: hidden units behind a
mask, which saves nothing, or before they are computed (single units, blocks, a slice); residual
branches for a part of the batch; tokens in the middle layers (random-LTD); whole layers, by
LayerSkip's rates of depth and time, with a coin for each layer, with a fixed number of layers, and
with the early-exit loss.

Whoever wants to spend less can also train less. So the model without dropout is trained for three
quarters and for half of the steps too, each with a learning rate that falls to its end, and a way
of dropping pays only if its loss is below what training without it reaches in the same time.

Each run is added to `results.json`, and a second call goes on where the first one stopped. Time is
measured at the end: steps of all ways in turn, from the whole length of training, so that whatever
slows the machine down slows all of them. Runs may share a machine with others; these few minutes
should not. Compiling and evaluation are left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _arguments
import _figures
import _tables
import _text
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.figure import Figure
from models import transformer_jax
from models.transformer_jax import Dropped
from rich.console import Console
from rich.table import Table

import jaxdrop
from jaxdrop import schedules
from jaxdrop.functional import paths

EVALUATIONS = 20
TIMED, REPEATED = 3, 3
STAGES = 5
BASELINES = ("none", "none, 3/4 steps", "none, 1/2 steps")
QUICK = (*BASELINES, "units", "layers, by coins")
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.1)
)

Run: TypeAlias = dict[str, Any]


class Way(NamedTuple):
    """A way of training."""

    dropped: Callable[[int], Dropped] = lambda step: Dropped()
    """What a step drops. Each value compiles a program."""
    rates: schedules.Schedule | None = None
    """The rate of the last layer's coin, for layer dropout by coins."""
    exit_scale: float = 0.0
    """Of the losses behind layers before the last one."""
    share: float = 1.0
    """Of the steps."""


def ways(layers: int, steps: int) -> dict[str, Way]:
    """All ways, by name."""
    coin, stages = schedules.layer_skip(0.5, steps), min(STAGES, steps)
    fixed = schedules.in_stages(schedules.layer_skip(0.6, steps), steps, stages)
    fewer = schedules.linear(0.5, 0.0, max(3 * steps // 4, 1))
    tokens = schedules.in_stages(fewer, steps, stages)

    def depth(rate: float, rule: paths.DepthRule) -> tuple[float, ...]:
        return tuple(float(each) for each in jaxdrop.depth_rates(rate, layers, rule))

    def hidden(kind: str) -> Way:
        return Way(lambda step: Dropped(hidden=kind, hidden_rate=0.5))

    def subset(step: int) -> Dropped:
        return Dropped(subset_rates=depth(fixed(step), "exp"))

    by_coin = Way(lambda step: Dropped(by_coin=True), coin)
    return {
        **{name: Way(share=share) for name, share in zip(BASELINES, (1, 0.75, 0.5), strict=True)},
        "masked units": hidden("masked"),
        "units": hidden("unit"),
        "blocks of 32": hidden("block"),
        "slice": hidden("slice"),
        "paths, part of batch": Way(lambda step: Dropped(path_rates=depth(0.4, "linear"))),
        "random-LTD": Way(lambda step: Dropped(token_rate=tokens(step))),
        "layers, by coins": by_coin,
        "layers, fixed number": Way(subset),
        "layers, early exit": by_coin._replace(exit_scale=0.2),
    }


# -- training


def losses(exits: list[jax.Array], rows: Any) -> jax.Array:
    """The mean cross-entropy behind each layer."""
    labels = rows[:, 1:]
    return jnp.stack(
        [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in exits]
    )


@functools.partial(jax.jit, static_argnames=("dropped", "exit_scale"))
def train_step(
    params: Any,
    state: Any,
    rows: Any,
    key: jax.Array,
    rates: Any,
    learning_rate: Any,
    *,
    dropped: Dropped,
    exit_scale: float,
) -> tuple[Any, Any, jax.Array]:
    """One step. Returns the number of layers that have run too."""

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        exits, ran = transformer_jax.apply(params, rows[:, :-1], key, dropped, rates)
        if not exit_scale:
            return losses(exits[-1:], rows)[0], ran
        weights = jnp.array(transformer_jax.exit_weights(len(exits), exit_scale))
        return losses(exits, rows) @ weights, ran

    slope, ran = jax.grad(loss, has_aux=True)(params)
    updates, state = OPTIMIZER.update(slope, state, params)
    updates = jax.tree.map(lambda update: -learning_rate * update, updates)
    return optax.apply_updates(params, updates), state, ran


@jax.jit
def evaluate(params: Any, rows: Any) -> jax.Array:
    """The mean loss behind each layer, with nothing dropped."""
    return losses(transformer_jax.apply(params, rows[:, :-1])[0], rows)


class Program(NamedTuple):
    """A compiled training step."""

    run: jax.stages.Compiled
    operations: float
    seconds: float


_programs: dict[Any, Program] = {}


def program_for(dropped: Dropped, exit_scale: float, *args: Any) -> Program:
    """The step for these settings, which all runs share."""
    if (dropped, exit_scale) not in _programs:
        start = time.perf_counter()
        run = train_step.lower(*args, dropped=dropped, exit_scale=exit_scale).compile()
        seconds = time.perf_counter() - start
        jax.block_until_ready(run(*args))  # the first call of a program takes longer
        _programs[dropped, exit_scale] = Program(run, operations(run), seconds)
    return _programs[dropped, exit_scale]


def operations(compiled: jax.stages.Compiled) -> float:
    """How many floating operations XLA counts."""
    analysis = compiled.cost_analysis()
    return float("nan") if analysis is None else float(analysis["flops"])


class Steps:
    """The steps of a way of training: what each of them takes, and the program that runs it."""

    def __init__(self, way: Way, text: _text.Text, seed: int, options: argparse.Namespace) -> None:
        shape = {name: getattr(options, name) for name in ("length", "width", "heads", "layers")}
        vocabulary = len(text.vocabulary)
        self.way, self.text, self.seed, self.options = way, text, seed, options
        self.count = max(round(way.share * options.steps), 1)
        self.params = transformer_jax.init(jax.random.key(seed), vocabulary=vocabulary, **shape)
        self.state = OPTIMIZER.init(self.params)
        peak, warmup = options.learning_rate, max(self.count // 20, 1)
        self.learning_rate = optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, self.count, peak / 10
        )

    @property
    def between_evaluations(self) -> int:
        """How many steps."""
        return max(self.count // EVALUATIONS, 1)

    def prepared(self, step: int) -> tuple[Program, tuple[Any, ...]]:
        """The program of a step, and its arguments."""
        options, training = self.options, self.text.training
        random = np.random.default_rng((self.seed, step))
        starts = random.integers(len(training) - options.length, size=options.batch)
        rows = jnp.asarray(_text.windows(training, starts, options.length))
        top = 0.0 if self.way.rates is None else float(self.way.rates(step))
        rates = jnp.array(jaxdrop.depth_rates(top, options.layers, "exp"), jnp.float32)
        key = jaxdrop.step_key(jaxdrop.key(self.seed), step)
        rate = jnp.float32(self.learning_rate(step))
        args = (self.params, self.state, rows, key, rates, rate)
        return program_for(self.way.dropped(step), self.way.exit_scale, *args), args


def train(way: Way, text: _text.Text, seed: int, options: argparse.Namespace) -> Run:
    """Trains once. Returns the curve: steps, floating operations, validation loss."""
    steps = Steps(way, text, seed, options)
    last = len(text.validation) - options.length - 1
    fixed = np.linspace(0, last, options.batch * 8, dtype=int)
    validation = _text.windows(text.validation, fixed, options.length)
    of_a_layer = _operations_of_a_layer(steps.params, options) if way.rates else 0.0

    done = 0.0
    curve: list[list[float]] = []
    used: dict[int, Program] = {}
    for step in range(steps.count + 1):
        if step % steps.between_evaluations == 0 or step == steps.count:
            loss = evaluate(steps.params, validation)
            curve.append([step, done, float(loss[-1])])
        if step == steps.count:
            break
        program, args = steps.prepared(step)
        used[id(program)] = program
        steps.params, steps.state, ran = program.run(*args)
        # XLA counts a layer in a branch whether it runs or not.
        done += program.operations - (options.layers - float(ran) if way.rates else 0) * of_a_layer
    return {
        "curve": curve,
        "exits": np.asarray(loss, float).tolist(),
        "compiling": sum(program.seconds for program in used.values()),
        "programs": len(used),
    }


def clock(ways: Mapping[str, Way], text: _text.Text, options: Any) -> dict[str, list[float]]:
    """The mean time of a step of each way, in seconds, between one evaluation and the next."""
    every = {name: Steps(way, text, 0, options) for name, way in ways.items()}
    intervals = min(EVALUATIONS, options.steps)
    times: dict[str, list[list[float]]] = {name: [[] for _ in range(intervals)] for name in ways}
    for number in range(TIMED):
        for interval in range(intervals):
            for name, steps in every.items():
                length = steps.between_evaluations
                program, args = steps.prepared(interval * length + number * length // TIMED)
                times[name][interval].append(_median_time(program, args))
    return {name: np.mean(of_way, 1).tolist() for name, of_way in times.items()}


def _median_time(program: Program, args: tuple[Any, ...]) -> float:
    times = []
    jax.block_until_ready(args)
    for _ in range(REPEATED):
        start = time.perf_counter()
        jax.block_until_ready(program.run(*args))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def timed(curve: list[list[float]], seconds: list[float]) -> list[list[float]]:
    """A curve with the time of training: steps, seconds, floating operations, loss."""
    steps = np.array([row[0] for row in curve])
    of_interval = np.array(seconds)[np.minimum(np.arange(len(steps) - 1), len(seconds) - 1)]
    time_taken = np.concatenate([[0.0], np.cumsum(np.diff(steps) * of_interval)])
    return [[step, at, *rest] for (step, *rest), at in zip(curve, time_taken.tolist(), strict=True)]


def _operations_of_a_layer(params: Any, options: Any) -> float:
    """The floating operations that a training step saves if a layer does not run. The optimizer
    updates its parameters all the same.
    """
    rows = jnp.zeros((options.batch, options.length + 1), int)

    def slope(count: int) -> float:
        blocks = jax.tree.map(lambda leaf: leaf[:count], params["blocks"])

        def loss(params: Any) -> jax.Array:
            return losses(transformer_jax.apply(params, rows[:, :-1])[0][-1:], rows)[0]

        return operations(jax.jit(jax.grad(loss)).lower({**params, "blocks": blocks}).compile())

    return slope(options.layers) - slope(options.layers - 1)


# -- results


def load(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What has been measured with these settings: runs by way and seed, and the times of steps."""
    if not path.exists():
        return {"settings": settings, "runs": {}, "seconds": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(f"{path} holds runs with other settings: {found['settings']}. Use --out.")
    return found


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Writes all runs, by way of a second file: an interruption leaves the old ones or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(path)


def final(runs: Mapping[str, Run], column: int) -> np.ndarray[Any, Any]:
    """The last entry of a column of the curves of all seeds."""
    return np.array([run["curve"][-1][column] for run in runs.values()])


def frontier(measured: Mapping[str, Any], column: int, cost: float) -> np.ndarray[Any, Any]:
    """For each seed, the loss that training without dropout reaches at a cost: between three
    lengths of training.
    """
    costs = np.array([final(measured[name], column).mean() for name in reversed(BASELINES)])
    reached = np.array([final(measured[name], 3) for name in reversed(BASELINES)])
    return np.array([np.interp(cost, costs, of_seed) for of_seed in reached.T])


def measured_of(found: Mapping[str, Any]) -> dict[str, dict[str, Run]]:
    """The runs of the seeds that all ways have, with the time of training in their curves."""
    runs, seconds = found["runs"], found["seconds"]
    settings = found["settings"]
    every = ways(settings["layers"], settings["steps"])
    order = [name for name in every if runs.get(name)]
    seeds = set.intersection(*({*runs[name]} for name in order)) if order else set()
    measured: dict[str, dict[str, Run]] = {}
    for name in order:
        own = seconds["none" if every[name].share < 1 else name]
        for seed in sorted(seeds):
            run = runs[name][seed]
            measured.setdefault(name, {})[seed] = run | {"curve": timed(run["curve"], own)}
    return measured


def compared(measured: Mapping[str, Mapping[str, Run]]) -> list[list[str]]:
    """For each way: loss, time, operations, what training without dropout reaches at that cost, and
    the loss of an exit at half depth.
    """
    rows = []
    for name, runs in measured.items():
        time_taken, work, loss = (final(runs, column) for column in (1, 2, 3))
        whole = measured["none"]
        halfway = [run["exits"][len(run["exits"]) // 2 - 1] for run in runs.values()]
        rows.append(
            [
                name,
                _tables.spread(loss, 3),
                f"{time_taken.mean() / final(whole, 1).mean():.2f}",
                f"{work.mean() / final(whole, 2).mean():.2f}",
                f"{frontier(measured, 1, time_taken.mean()).mean():.3f}",
                f"{frontier(measured, 2, work.mean()).mean():.3f}",
                f"{np.mean(halfway):.2f}",
            ]
        )
    return rows


def report(measured: Mapping[str, Mapping[str, Run]]) -> Table:
    """All ways, and what training without dropout reaches at the same cost."""
    columns = ["", "loss", "time", "FLOPs", "none, in\nthis time", "none, by\nFLOPs", "halfway"]
    title = (
        "Validation loss in nats; time and FLOPs, as shares of those of training without dropout"
        " ('none');\nthe loss of 'none' with fewer steps, at the same cost; the loss of an exit at"
        " half depth"
    )
    return _tables.table(title, columns, compared(measured))


class Gain(NamedTuple):
    """How much lower a loss is than that of training without dropout at the same cost."""

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        """Whether a way pays, by two standard errors."""
        if abs(self.mean) <= 2 * self.error:
            return "no clear difference"
        return "pays" if self.mean > 0 else "loses"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def gain(measured: Mapping[str, Mapping[str, Run]], name: str, column: int) -> Gain:
    """That of a way, at equal time (column 1) or equal operations (column 2)."""
    runs = measured[name]
    found = frontier(measured, column, final(runs, column).mean()) - final(runs, 3)
    return Gain(float(found.mean()), _tables.standard_error(found))


def verdicts(measured: Mapping[str, Mapping[str, Run]]) -> list[str]:
    """For each way in words: whether it pays."""
    found = []
    for name in measured:
        if name in BASELINES:
            continue
        gains = {what: gain(measured, name, at) for at, what in ((1, "time"), (2, "FLOPs"))}
        words = [f"{each.verdict} by {what} ({each} nats)" for what, each in gains.items()]
        found.append(f"{name}: {', '.join(words)}")
    return found


@mpl.rc_context(_figures.STYLE)
def draw(measured: Mapping[str, Mapping[str, Run]]) -> Figure:
    """The loss at the end of training against its cost: each way, and training without dropout for
    fewer steps.
    """
    figure = Figure(figsize=(10, 4.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(panels, (1, 2), ("time", "floating operations"), strict=True):
        whole = final(measured["none"], column).mean()
        lengths = [name for name in BASELINES if name in measured]
        costs = [final(measured[name], column).mean() / whole for name in lengths]
        means = [final(measured[name], 3).mean() for name in lengths]
        axes.plot(costs, means, "o-", color="black", label="none, for fewer steps")
        for number, name in enumerate(name for name in measured if name not in BASELINES):
            loss = final(measured[name], 3)
            cost = final(measured[name], column).mean() / whole
            error = _tables.standard_error(loss) if len(loss) > 1 else 0
            color = _figures.COLORS[number % 6]
            marker = "sD^vPX*<>"[number % 9]
            style = {"color": color, "markersize": 7, "linestyle": "", "capsize": 3}
            axes.errorbar(cost, loss.mean(), error, marker=marker, label=name, **style)
        axes.set(xlabel=f"{label} of training (no dropout = 1)")
    panels[0].set(ylabel="validation loss (nats per character)")
    figure.suptitle("Loss by cost: below the line, dropping pays", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "a tiny model and few steps")
    parser.add_argument(
        "--data", type=Path, help="a text to learn from (default: Python's language reference)"
    )
    parser.add_argument(
        "--characters", type=int, default=900_000, help="to learn from (default: 900000)"
    )
    parser.add_argument("--layers", type=int, default=6, help="(default: 6)")
    parser.add_argument("--width", type=int, default=96, help="of each character (default: 96)")
    parser.add_argument("--heads", type=int, default=4, help="of attention (default: 4)")
    parser.add_argument("--length", type=int, default=64, help="of the texts (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="texts a step (default: 16)")
    parser.add_argument("--steps", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(default: 0.002)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--only", action="append", metavar="WAY", help="may be repeated")
    parser.add_argument("--clock", action="store_true", help="measure the time of steps once more")
    parser.add_argument("--plot", action="store_true", help="run nothing, and show what there is")
    options = parser.parse_args()
    if options.quick:
        options.characters, options.layers, options.width, options.length = 20_000, 2, 32, 16
        options.batch, options.steps, options.seeds = 4, 4, 1
        options.only = options.only or QUICK
    start, console = time.perf_counter(), Console(highlight=False)
    names = ("characters", "layers", "width", "heads", "length", "batch", "steps", "learning_rate")
    settings = {name: getattr(options, name) for name in names}
    settings["data"] = options.data.name if options.data else "Python's language reference"
    path = options.out / ("quick.json" if options.quick else "results.json")
    found, every = load(path, settings), ways(options.layers, options.steps)
    runs, seconds = found["runs"], found["seconds"]
    if not options.plot:
        text = _text.load(options.data, "characters", options.characters, options.characters // 10)
        for name in options.only or ():
            if name not in every:
                parser.error(f"there is no way {name!r}, but {', '.join(every)}")
        for seed in range(options.seeds):
            for name in options.only or every:
                of_way = runs.setdefault(name, {})
                if str(seed) not in of_way:
                    console.print(f"{name}, seed {seed}", style="dim")
                    of_way[str(seed)] = train(every[name], text, seed, options)
                    save(path, found)
        # Shorter training has the steps of whole training.
        wanted = [name for name in every if name in runs and every[name].share == 1]
        if options.clock or not {*wanted} <= {*seconds}:
            console.print("the time of steps", style="dim")
            seconds.update(clock({name: every[name] for name in wanted}, text, options))
            save(path, found)
    if missing := [name for name in BASELINES if not runs.get(name)]:
        console.print(f"Nothing is compared: there are no runs of {', '.join(missing)}.")
        return
    measured = measured_of(found)
    console.print(report(measured))
    if not options.quick:
        console.print("\nAgainst training without dropout at the same cost (two standard errors):")
        console.print("\n".join(verdicts(measured)))
    _figures.save({"losses.png": draw(measured)}, options.out, console, start)


if __name__ == "__main__":
    main()
