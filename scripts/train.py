#!/usr/bin/env python3
"""Trains a model with dropout the way a long run on many devices is trained, small enough to be
copied.

    python scripts/train.py --model transformer --out out/run
    python scripts/train.py --model cnn --data folder/with/mnist --micro-batches 2 --dtype bfloat16
    python scripts/train.py --model mlp --compare
    python scripts/train.py --model transformer --data folder/of/tokens --out gs://bucket/run
    python scripts/train.py --model transformer --mesh fsdp=4,tensor=2
    python scripts/train.py --coordinator host0:1234 --num-processes 2 --process-id 0 ...  # host 0
    python scripts/train.py --distributed ...  # TPU pods, SLURM

The same command again resumes a run that was stopped, from its newest checkpoint that is good, and
gives what the uninterrupted run would have given, bit for bit. That takes no random state: masks
follow from (seed, step, micro-batch), batches from (seed, step). So the masks are also the same on
every mesh, under `jit`, `shard_map` and `pmap`, and on any number of processes; to see that on a
machine of your own, compare the logs of runs with `--model masks`.

Writes metrics.jsonl, event files for TensorBoard, and checkpoints, into the folder `--out`, or into
a bucket, `--out gs://bucket/folder`. Needs jaxdrop[scripts].
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import _tables
import absl.logging
import jax
import numpy as np
import yaml
from rich.console import Console

from training import (
    compare,
    config,
    data,
    evaluation,
    flops,
    metrics,
    models,
    parallel,
    peers,
    steps,
    storage,
)
from training.checkpoints import Checkpoints, newest_params
from training.config import Config
from training.lock import alone_in
from training.preemption import EXIT_CODE, Preemption
from training.profiling import profile
from training.progress import progress


def run(options: Config, console: Console) -> None:
    out = storage.absolute(options.out)
    devices = jax.devices()
    mesh = parallel.make_mesh(options.mesh, devices)
    placement = parallel.Placement(mesh, options.batch, options.micro_batches, options.parallel)
    source = data.load(
        models.MODELS[options.model].kind, options.data, length=options.length, seed=options.seed
    )
    storage.check_writable(out)
    network = models.build(options, source)
    optimizer = steps.make_optimizer(options)
    init, target = steps.initialize(network, optimizer, mesh)
    step = steps.make_step(network, optimizer, options, mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    sizes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    console.print(
        f"{options.model} of {count} parameters on {len(devices)} x {devices[0].device_kind}"
        f" ({sizes or 'one device'}, {jax.process_count()} processes), to {options.out}"
    )
    usage = flops.Usage(network, target, placement.shapes(source.training[0]), options, mesh)
    judge = evaluation.Evaluation(
        network, placement, *([compare.judged] if options.compare else [])
    )
    if options.compare:
        init, target, step = compare.side_by_side(init, target, step)
    batches = data.batches(
        source.training,
        options.steps,
        batch=options.batch,
        micro_batches=options.micro_batches,
        rows=placement.rows,
        seed=options.seed,
    )
    parts = evaluation.parts(source.training, source.validation, options.eval_examples)

    with ExitStack() as stack:
        still_ours = stack.enter_context(alone_in(out, console.print))
        storage.check_shared(out)
        stack.enter_context(jax.default_matmul_precision(options.precision))
        if options.parallel != "pmap":
            stack.enter_context(jax.set_mesh(mesh))  # that models name the axes of
        checkpoints = Checkpoints(out / "checkpoints", keep=options.keep, say=console.print)
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
        log = metrics.Log(out, start)
        stack.callback(log.close)
        if jax.process_index() == 0:
            (out / "config.yaml").write_text(yaml.safe_dump(config.plain(options)))

        preemption = stack.enter_context(Preemption())
        began = time.monotonic()
        step = steps.compile_once(
            step, target, placement.shapes(source.training[0]), options.parallel
        )
        console.print(f"Compiled in {time.monotonic() - began:.1f} s")
        end = min(options.steps, options.stop_at or options.steps)
        show = stack.enter_context(progress(console, start, end, options.batch, usage, log.note))
        behind = stack.enter_context(profile(options.profile, out / "profile"))
        behind(start, state)
        for taken in range(start, end):
            state, figures = step(state, placement(next(batches)), np.int32(taken))
            done = taken + 1
            behind(done, figures)
            log.add(done, figures)
            if done % options.eval_every == 0 or done == options.steps:
                judged = judge.all(state, parts)
                log.add(done, judged)
                still_ours()
                log.flush()
                show(done, f"validation loss {np.round(judged['validation_loss'], 3)}")
            preempted = preemption.reached(done)
            if done % options.save_every == 0 or done == end or preempted:
                still_ours()
                log.flush()
                checkpoints.save(done, state, notes | {"batches": batches.get_state()})
            show(done)
            if preempted and done < end:
                console.print(
                    f"Told to stop, behind step {done}. The same command goes on from there."
                )
                raise SystemExit(EXIT_CODE)
        report(options, console, max(start, end), state, parts, judge)


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
    options: Config, console: Console, done: int, state: Any, parts: Any, judge: Any
) -> None:
    """A table of how the model does with nothing dropped, and with `--compare` a figure."""
    rows = []
    judged = judge.all(state, parts)
    for index, name in enumerate(compare.RUNS if options.compare else [options.model]):
        row = [name]
        for part in parts:
            loss, accuracy = (
                np.atleast_1d(judged[f"{part}_{figure}"])[index] for figure in ("loss", "accuracy")
            )
            row += [f"{loss:.3f}", f"{accuracy:.1%}"]
        rows.append(row)
    columns = ["", "training\nloss", "\naccuracy", "validation\nloss", "\naccuracy"]
    console.print(_tables.table(f"After {done} steps, with nothing dropped", columns, rows))
    if options.compare and jax.process_count() == 1:
        figure = compare.draw(metrics.read(options.out), *judge.logits(state, parts["validation"]))
        with storage.local(options.out) as folder:
            figure.savefig(folder / "comparison.png")
        console.print(f"The figure: {options.out / 'comparison.png'}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = config.parse(arguments, __doc__)
    for option, path in options.places.items():
        storage.require(option, path)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs what it also raises
    if (cache := options.compilation_cache) is not None:
        jax.config.update("jax_compilation_cache_dir", str(storage.absolute(cache)))
    with peers.joined(options):
        console = Console(highlight=False, quiet=jax.process_index() > 0, soft_wrap=True)
        try:
            run(options, console)
        except Exception as error:
            if not storage.is_failure(error):
                raise
            raise SystemExit(
                f"{options.out}: {error}. Checkpoints written before are intact."
            ) from error


if __name__ == "__main__":
    main()
