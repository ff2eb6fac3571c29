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

import fcntl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import _tables
import absl.logging
import jax
import numpy as np
import yaml
from rich.console import Console

from training import compare, config, data, models, parallel, steps
from training.checkpoints import Checkpoints, newest_params
from training.config import Config
from training.metrics import Log
from training.preemption import EXIT_CODE, Preemption
from training.profiling import profile
from training.progress import progress


def run(options: Config, console: Console) -> None:
    devices = jax.devices()
    mesh = parallel.make_mesh(options.mesh, devices)
    placement = parallel.Placement(mesh, options.batch, options.micro_batches, options.parallel)
    source = data.load(
        models.MODELS[options.model].kind, options.data, length=options.length, seed=options.seed
    )
    network = models.build(options, source)
    optimizer = steps.make_optimizer(options)
    init, target = steps.initialize(network, optimizer, mesh)
    step = steps.make_step(network, optimizer, options, mesh)
    judge = steps.make_evaluation(network)
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    sizes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    console.print(
        f"{options.model} of {count} parameters on {len(devices)} x {devices[0].device_kind}"
        f" ({sizes or 'one device'}, {jax.process_count()} processes), to {options.out}"
    )
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
        stack.enter_context(alone_in(options.out))
        stack.enter_context(jax.default_matmul_precision(options.precision))
        if options.parallel != "pmap":
            stack.enter_context(jax.set_mesh(mesh))  # that models name the axes of
        checkpoints = Checkpoints(
            options.out.absolute() / "checkpoints", keep=options.keep, say=console.print
        )
        stack.callback(checkpoints.close)
        notes = {"settings": options.experiment, "data": data.digest(source)}
        start = checkpoints.newest or 0
        if start:
            saved = checkpoints.notes()
            check_same_run(options, notes, saved)
            state = checkpoints.restore(target)
            batches.set_state(saved["batches"])
            console.print(f"Going on behind step {start} of {options.out}")
        else:
            state = init()
            if options.init_from is not None:
                state = newest_params(options.init_from, state)
        log = Log(options.out, start)
        stack.callback(log.close)
        if jax.process_index() == 0:
            (options.out / "config.yaml").write_text(yaml.safe_dump(config.plain(options)))

        preemption = stack.enter_context(Preemption())
        began = time.monotonic()
        step = steps.compile_once(
            step, target, placement.shapes(source.training[0]), options.parallel
        )
        console.print(f"Compiled in {time.monotonic() - began:.1f} s")
        end = min(options.steps, options.stop_at or options.steps)
        show = stack.enter_context(progress(console, start, end, options.batch))
        behind = stack.enter_context(profile(options.profile, options.out / "profile"))
        behind(start, state)
        for taken in range(start, end):
            state, metrics = step(state, placement(next(batches)), np.int32(taken))
            done = taken + 1
            behind(done, metrics)
            log.add(done, metrics)
            if done % options.eval_every == 0 or done == options.steps:
                judged = {
                    f"{part}_{name}": value
                    for part in samples
                    for name, value in judge(state, samples[part])[0].items()
                }
                log.add(done, judged)
                log.flush()
                loss = np.asarray(judged["validation_loss"], np.float64).round(3)
                show(done, f"validation loss {loss}")
            preempted = preemption.reached(done)
            if done % options.save_every == 0 or done == end or preempted:
                log.flush()
                checkpoints.save(done, state, notes | {"batches": batches.get_state()})
            show(done)
            if preempted and done < end:
                console.print(
                    f"Told to stop, behind step {done}. The same command goes on from there."
                )
                raise SystemExit(EXIT_CODE)
    report(options, console, max(start, end), state, samples, judge)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a folder for this run, until the process ends however it ends: two runs would write
    over each other.
    """
    if jax.process_index() > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"--out {folder}: another run writes there. Take another."
            raise SystemExit(message) from None
        yield


def check_same_run(options: Config, now: dict[str, Any], saved: dict[str, Any]) -> None:
    """A run goes on as it was begun, or not at all."""
    changed = config.changes(options, saved["settings"])
    if changed:
        raise SystemExit(
            f"{options.out} holds another run: {'; '.join(changed)}. Take those values, or another"
            " --out."
        )
    if saved.get("data", now["data"]) != now["data"]:
        raise SystemExit(
            f"{options.out} was trained on other data: --data {options.data} has changed since."
            " Bring it back, or take another --out; --init-from goes on with the parameters."
        )


def report(
    options: Config, console: Console, done: int, state: Any, samples: Any, judge: Any
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
    options = config.parse(arguments, __doc__)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs what it also raises
    if options.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(options.compilation_cache.absolute()))
    parallel.start(options)
    console = Console(highlight=False, quiet=jax.process_index() > 0, soft_wrap=True)
    try:
        run(options, console)
    except OSError as error:
        raise SystemExit(
            f"{options.out}: {error}. Checkpoints written before are intact."
        ) from error


if __name__ == "__main__":
    main()
