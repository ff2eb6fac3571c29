#!/usr/bin/env python3
"""Trains a model with dropout the way a long run on many devices is trained, small enough to be
copied.

    python scripts/train.py --model transformer --out out/run
    python scripts/train.py --model cnn --data folder/with/mnist --micro-batches 2 --dtype bfloat16
    python scripts/train.py --model mlp --compare
    python scripts/train.py --model transformer --mesh fsdp=4,tensor=2
    python scripts/train.py --coordinator host0:1234 --num-processes 2 --process-id 0 ...  # host 0
    python scripts/train.py --distributed ...  # TPU pods, SLURM

The same command again resumes a run that was stopped, from its newest checkpoint that is good, and
gives what the uninterrupted run would have given, bit for bit. That takes no random state: masks
follow from (seed, step, micro-batch), batches from (seed, step). So the masks are also the same on
every mesh, under `jit`, `shard_map` and `pmap`, and on any number of processes; to see that on a
machine of your own, compare the logs of runs with `--model masks`.

Writes metrics.jsonl, event files for TensorBoard, and checkpoints, into the folder `--out`. Needs
jaxdrop[scripts].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import _tables
import absl.logging
import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training import compare, data, models, parallel, steps
from training.checkpoints import Checkpoints
from training.metrics import Log
from training.preemption import EXIT_CODE, Preemption

# What may differ between the parts of a resumed run. Everything else decides what it computes.
_FREE = {
    "coordinator",
    "distributed",
    "eval_every",
    "keep",
    "mesh",
    "num_processes",
    "out",
    "parallel",
}
_FREE |= {"process_id", "save_every", "stop_at"}


def count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def rate(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(
            f"must be in [0, 1], the probability of dropping, got {text}"
        )
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("what to train").add_argument
    add("--model", default="mlp", help=f"one of {', '.join(models.MODELS)} (default: mlp)")
    add(
        "--data",
        type=Path,
        help=(
            "a folder with MNIST's idx files, or a text (default: digits; Python's language"
            " reference)"
        ),
    )
    add("--layers", type=count, default=2, help="(default: 2)")
    add("--width", type=count, default=64, help="features, units or channels (default: 64)")
    add("--heads", type=count, default=4, help="of attention (default: 4)")
    add("--length", type=count, default=64, help="of windows of text, in characters (default: 64)")
    add = parser.add_argument_group("dropout").add_argument
    add("--rate", type=rate, default=0.1, help="of dropout (default: 0.1)")
    add(
        "--path-rate",
        type=rate,
        default=0.05,
        help="of drop path, in the last layer; the first has 0 (default: 0.05)",
    )
    add("--block-rate", type=rate, default=0.05, help="of DropBlock (default: 0.05)")
    add(
        "--schedule",
        choices=steps.SCHEDULES,
        default="constant",
        help="of all rates, over the run (default: constant)",
    )
    add(
        "--compare",
        action="store_true",
        help="train at none, half and all of the rates, side by side, and draw the three",
    )
    add = parser.add_argument_group("how to train").add_argument
    add("--steps", type=count, default=500, help="(default: 500)")
    add(
        "--stop-at",
        type=count,
        metavar="STEP",
        help="stop there, to go on later (default: go through)",
    )
    add("--batch", type=count, default=64, help="examples a step, over all devices (default: 64)")
    add(
        "--micro-batches",
        type=count,
        default=1,
        help="parts of a batch whose gradients are accumulated (default: 1)",
    )
    add("--learning-rate", type=float, default=1e-3, help="the highest, of AdamW (default: 0.001)")
    add("--weight-decay", type=float, default=0.01, help="(default: 0.01)")
    add("--adam-eps", type=float, default=1e-8, help="(default: 1e-8)")
    add("--clip", type=float, default=1.0, help="the greatest norm of a gradient (default: 1)")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the computation (default: float32)",
    )
    add(
        "--remat",
        action="store_true",
        help="store nothing within layers; the transformer never does",
    )
    add("--seed", type=int, default=0, help="of weights, batches and masks (default: 0)")
    add = parser.add_argument_group("where").add_argument
    add(
        "--parallel",
        choices=("jit", "shard_map", "pmap"),
        default="jit",
        help="who divides the work (default: jit)",
    )
    add(
        "--mesh",
        help=(
            "such as fsdp=4,tensor=2: data and fsdp divide the batch, fsdp also the parameters,"
            " tensor units and heads, sequence tokens (default: data=N, all devices)"
        ),
    )
    add(
        "--distributed",
        action="store_true",
        help="find the other processes by the environment: TPU pods, SLURM",
    )
    add("--coordinator", help="address:port of the first process")
    add("--num-processes", type=int)
    add("--process-id", type=int)
    add = parser.add_argument_group("what to keep").add_argument
    add(
        "--out",
        type=Path,
        default=Path("out/train"),
        help="folder of the run; shared by all processes (default: out/train)",
    )
    add(
        "--save-every",
        type=count,
        default=100,
        help="steps from checkpoint to checkpoint (default: 100)",
    )
    add("--keep", type=count, default=3, help="checkpoints (default: 3)")
    add("--eval-examples", type=count, default=512, help="to validate on (default: 512)")
    add(
        "--eval-every",
        type=count,
        default=50,
        help="steps from validation to validation (default: 50)",
    )
    options = parser.parse_args(arguments)
    if options.model not in models.MODELS:
        parser.error(
            f"--model {options.model}: there is no such model. There are"
            f" {', '.join(models.MODELS)}."
        )
    if options.compare and options.parallel != "jit":
        parser.error("--compare: goes with --parallel jit")
    if options.remat and options.model == "rnn":
        parser.error("--remat: goes with mlp, cnn and transformer")
    return options


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the results of a run."""
    chosen = {name: value for name, value in vars(options).items() if name not in _FREE}
    return chosen | {"data": None if options.data is None else str(options.data)}


def check_same_run(options: argparse.Namespace, saved: dict[str, Any]) -> None:
    """A run goes on as it was begun, or not at all."""
    now = settings(options)
    changed = [
        f"--{name.replace('_', '-')} was {saved[name]} and is {now[name]}"
        for name in now
        if saved[name] != now[name]
    ]
    if changed:
        raise SystemExit(
            f"{options.out} holds another run: {'; '.join(changed)}. Take those values, or another"
            " --out."
        )


@contextmanager
def bar(console: Console, start: int, end: int) -> Iterator[Any]:
    """Yields `show(step, text)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("Training", total=end, completed=start, text="")
        yield lambda step, text="": progress.update(
            task, completed=step, **({"text": text} if text else {})
        )


def run(options: argparse.Namespace, console: Console) -> None:
    mesh = parallel.make_mesh(options.mesh, jax.devices())
    placement = parallel.Placement(mesh, options.batch, options.micro_batches, options.parallel)
    source = data.load(
        models.MODELS[options.model].kind, options.data, length=options.length, seed=options.seed
    )
    network = models.build(options, source)
    optimizer = steps.make_optimizer(options)
    init, target = steps.initialize(network, optimizer, mesh)
    step = steps.make_step(network, optimizer, options, mesh)
    judge = steps.make_evaluation(network)
    if options.compare:
        init, target, step, judge = compare.side_by_side(init, target, step, judge)
    batches = data.batches(
        source.training,
        options.steps,
        batch=options.batch,
        micro_batches=options.micro_batches,
        rows=placement.rows,
        seed=options.seed,
    )
    samples = {
        name: placement.whole(data.spread(part, options.eval_examples))
        for name, part in (("training", source.training), ("validation", source.validation))
    }

    with ExitStack() as stack:
        if options.parallel != "pmap":
            stack.enter_context(jax.set_mesh(mesh))  # that models name the axes of
        checkpoints = Checkpoints(
            options.out.absolute() / "checkpoints", keep=options.keep, say=console.print
        )
        stack.callback(checkpoints.close)
        start, config = checkpoints.newest or 0, settings(options)
        if start:
            notes = checkpoints.notes()
            check_same_run(options, notes["settings"])
            state = checkpoints.restore(target)
            batches.set_state(notes["batches"])
            console.print(f"Going on behind step {start} of {options.out}")
        else:
            state = init()
        log = Log(options.out, start)
        stack.callback(log.close)
        show = stack.enter_context(bar(console, start, options.steps))

        preemption = stack.enter_context(Preemption())
        step = steps.compile_once(
            step, target, placement.shapes(source.training[0]), options.parallel
        )
        end = min(options.steps, options.stop_at or options.steps)
        for taken in range(start, end):
            state, metrics = step(state, placement(next(batches)), np.int32(taken))
            done = taken + 1
            log.add(done, metrics)
            if done % options.eval_every == 0 or done == options.steps:
                judged = {
                    f"{part}_{name}": value
                    for part in samples
                    for name, value in judge(state, samples[part])[0].items()
                }
                log.add(done, judged)
                log.flush()
                show(done, f"validation loss {np.round(judged['validation_loss'], 3)}")
            preempted = preemption.reached(done)
            if done % options.save_every == 0 or done == end or preempted:
                log.flush()
                checkpoints.save(done, state, {"settings": config, "batches": batches.get_state()})
            show(done)
            if preempted and done < end:
                console.print(
                    f"Told to stop, behind step {done}. The same command goes on from there."
                )
                raise SystemExit(EXIT_CODE)
    report(options, console, max(start, end), state, samples, judge)


def report(
    options: argparse.Namespace, console: Console, done: int, state: Any, samples: Any, judge: Any
) -> None:
    """A table of how the model does with nothing dropped, and with `--compare` a figure."""
    rows = []
    judged = {part: judge(state, examples) for part, examples in samples.items()}
    for index, name in enumerate(compare.RUNS if options.compare else [options.model]):
        row = [name]
        for metrics, _ in judged.values():
            loss, accuracy = (np.atleast_1d(metrics[name])[index] for name in ("loss", "accuracy"))
            row += [f"{loss:.3f}", f"{accuracy:.1%}"]
        rows.append(row)
    columns = ["", "training\nloss", "\naccuracy", "validation\nloss", "\naccuracy"]
    console.print(_tables.table(f"After {done} steps, with nothing dropped", columns, rows))
    if options.compare and jax.process_count() == 1:
        path = options.out / "comparison.png"
        labels = np.asarray(samples["validation"].labels)
        compare.draw(
            options.out / "metrics.jsonl", np.asarray(judged["validation"][1]), labels
        ).savefig(path)
        console.print(f"The figure: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs what it also raises
    parallel.start(
        options.coordinator, options.num_processes, options.process_id, options.distributed
    )
    console = Console(highlight=False, quiet=jax.process_index() > 0, soft_wrap=True)
    try:
        run(options, console)
    except OSError as error:
        raise SystemExit(
            f"{options.out}: {error}. Checkpoints written before are intact."
        ) from error


if __name__ == "__main__":
    main()
