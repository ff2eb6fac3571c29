#!/usr/bin/env python3
"""Does dropout that skips what it drops make training cheaper? A small language model, by the clock
and by floating operations.

    python examples/cheaper_training.py --data input.txt  # tiny Shakespeare: hours on two CPU cores
    python examples/cheaper_training.py --data input.txt --plot  # draws what has been measured
    python examples/cheaper_training.py --quick  # half a minute, and too short to judge anything

Trains a transformer on characters without dropout, and in ten ways that drop: hidden units behind a
mask, which saves nothing, or before they are computed (single units, blocks, a slice); residual
branches for a part of the batch; tokens in the middle layers (random-LTD); whole layers, by
LayerSkip's rates of depth and time, with a coin for each layer, with a fixed number of layers, and
with the early-exit loss.

Whoever wants to spend less can also train less. So the model without dropout is trained for three
quarters and for half of the steps too, each with a learning rate that falls to its end, and a way
of dropping pays only if its loss is below what training without it reaches in the same time. Time
is that of the training steps, without compiling and evaluation; so nothing else should run on the
machine. Each run is added to `results.json`, and a second call goes on where the first one stopped.
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


def train(way: Way, text: _text.Text, seed: int, options: argparse.Namespace) -> Run:
    """Trains once. Returns the curve: steps, seconds, floating operations, validation loss."""
    steps = max(round(way.share * options.steps), 1)
    shape = {name: getattr(options, name) for name in ("length", "width", "heads", "layers")}
    vocabulary = len(text.vocabulary)
    params = transformer_jax.init(jax.random.key(seed), vocabulary=vocabulary, **shape)
    peak = options.learning_rate
    falling = optax.warmup_cosine_decay_schedule(0.0, peak, max(steps // 20, 1), steps, peak / 10)
    state, random = OPTIMIZER.init(params), np.random.default_rng(seed)
    last = len(text.validation) - options.length - 1
    fixed = np.linspace(0, last, options.batch * 8, dtype=int)
    validation = _text.windows(text.validation, fixed, options.length)
    of_a_layer = _operations_of_a_layer(params, options) if way.rates else 0.0

    key, seconds, done = jaxdrop.key(seed), 0.0, 0.0
    curve: list[list[float]] = []
    used: dict[int, Program] = {}
    for step in range(steps + 1):
        if step % max(steps // EVALUATIONS, 1) == 0 or step == steps:
            loss = evaluate(params, validation)
            curve.append([step, seconds, done, float(loss[-1])])
        if step == steps:
            break
        starts = random.integers(len(text.training) - options.length, size=options.batch)
        rows = jnp.asarray(_text.windows(text.training, starts, options.length))
        top = 0.0 if way.rates is None else float(way.rates(step))
        rates = jnp.array(jaxdrop.depth_rates(top, options.layers, "exp"), jnp.float32)
        own = jax.random.fold_in(key, step)
        args = (params, state, rows, own, rates, jnp.float32(falling(step)))
        program = program_for(way.dropped(step), way.exit_scale, *args)
        used[id(program)] = program
        jax.block_until_ready(args)
        start = time.perf_counter()
        params, state, ran = jax.block_until_ready(program.run(*args))
        seconds += time.perf_counter() - start
        # XLA counts a layer in a branch whether it runs or not.
        done += program.operations - (options.layers - float(ran) if way.rates else 0) * of_a_layer
    return {
        "curve": curve,
        "exits": np.asarray(loss, float).tolist(),
        "compiling": sum(program.seconds for program in used.values()),
        "programs": len(used),
    }


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


def load(path: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Run]]:
    """What has been measured with these settings, by way and seed."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(f"{path} holds runs with other settings: {found['settings']}. Use --out.")
    runs: dict[str, dict[str, Run]] = found["runs"]
    return runs


def save(path: Path, settings: Mapping[str, Any], runs: Mapping[str, Any]) -> None:
    """Writes all runs, by way of a second file: an interruption leaves the old ones or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")
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


def report(measured: Mapping[str, Mapping[str, Run]]) -> Table:
    """All ways, and what training without dropout reaches at the same cost."""
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
    columns = ["", "loss", "time", "FLOPs", "none, in\nthis time", "none, by\nFLOPs", "halfway"]
    title = (
        "Validation loss in nats; time and FLOPs, as shares of those of training without dropout"
        " ('none');\nthe loss of 'none' with fewer steps, at the same cost; the loss of an exit at"
        " half depth"
    )
    return _tables.table(title, columns, rows)


def verdicts(measured: Mapping[str, Mapping[str, Run]]) -> list[str]:
    """For each way in words: whether it pays, by two standard errors of the differences."""
    found = []
    for name, runs in measured.items():
        if name in BASELINES:
            continue
        words = []
        for column, what in ((1, "time"), (2, "FLOPs")):
            gain = frontier(measured, column, final(runs, column).mean()) - final(runs, 3)
            error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
            sure = abs(gain.mean()) > 2 * error
            verdict = ("pays" if gain.mean() > 0 else "loses") if sure else "is not told apart"
            words.append(f"{verdict} by {what} ({gain.mean():+.3f} ± {error:.3f} nats)")
        found.append(f"{name}: {', '.join(words)}")
    return found


@mpl.rc_context(_figures.STYLE)
def draw(measured: Mapping[str, Mapping[str, Run]]) -> Figure:
    """The mean validation loss of all seeds against time, and against floating operations."""
    figure = Figure(figsize=(11, 4.6))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(panels, (1, 2), ("seconds", "floating operations"), strict=True):
        for number, (name, runs) in enumerate(measured.items()):
            curves = np.array([run["curve"] for run in runs.values()]).mean(0)
            color = _figures.COLORS[number % len(_figures.COLORS)]
            style = ("-", "--", ":")[number // len(_figures.COLORS)]
            axes.plot(curves[1:, column], curves[1:, 3], style, color=color, label=name)
        axes.set(xlabel=f"{label} of training")
    panels[0].set(ylabel="validation loss (nats per character)")
    panels[1].legend(fontsize="x-small")
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "a tiny model and few steps: judges nothing")
    parser.add_argument(
        "--data", type=Path, help="a text to learn from (default: Python's language reference)"
    )
    parser.add_argument(
        "--characters", type=int, default=900_000, help="to learn from (default: 900000)"
    )
    parser.add_argument("--layers", type=int, default=6, help="(default: 6)")
    parser.add_argument("--width", type=int, default=128, help="of each character (default: 128)")
    parser.add_argument("--heads", type=int, default=4, help="of attention (default: 4)")
    parser.add_argument("--length", type=int, default=64, help="of the texts (default: 64)")
    parser.add_argument("--batch", type=int, default=32, help="texts a step (default: 32)")
    parser.add_argument("--steps", type=int, default=1500, help="(default: 1500)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(default: 0.002)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--only", action="append", metavar="WAY", help="may be repeated")
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
    measured = load(path, settings)
    if not options.plot:
        text = _text.load(options.data, "characters", options.characters, options.characters // 10)
        every = ways(options.layers, options.steps)
        for name in options.only or ():
            if name not in every:
                parser.error(f"there is no way {name!r}, but {', '.join(every)}")
        for seed in range(options.seeds):
            for name in options.only or every:
                runs = measured.setdefault(name, {})
                if str(seed) not in runs:
                    console.print(f"{name}, seed {seed}", style="dim")
                    runs[str(seed)] = train(every[name], text, seed, options)
                    save(path, settings, measured)
    order = [name for name in ways(options.layers, options.steps) if measured.get(name)]
    seeds = set.intersection(*({*measured[name]} for name in order)) if order else set()
    measured = {name: {seed: measured[name][seed] for seed in sorted(seeds)} for name in order}
    if missing := [name for name in BASELINES if not measured.get(name)]:
        console.print(f"Nothing is compared: there are no runs of {', '.join(missing)}.")
        return
    console.print(report(measured))
    if options.quick:
        console.print("\nSo few steps of so small a model are too short to judge.")
    else:
        console.print("\nAgainst training without dropout at the same cost (two standard errors):")
        console.print("\n".join(verdicts(measured)))
    _figures.save({"losses.png": draw(measured)}, options.out, console, start)


if __name__ == "__main__":
    main()
