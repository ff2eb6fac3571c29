#!/usr/bin/env python3
"""Checks what `scripts/train.py` promises, on the CPU: the same run on every layout, after every
kill, from every checkpoint.

    python scripts/check_training.py              # everything: about an hour on two cores
    python scripts/check_training.py kills        # one part
    python scripts/check_training.py --quick      # less of everything

Prints tables, and exits with 1 if a promise is broken. tests/training/ holds the short form.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
import absl.logging
import jax
import numpy as np
from rich.console import Console

from training import fake_bucket
from training.checkpoints import read
from training.launch import launch, launch_all

IMAGES: list[Any] = ["--model", "mlp", "--eval-examples", 64, "--schedule", "linear"]
TEXT: list[Any] = [
    "--model",
    "transformer",
    "--width",
    32,
    "--length",
    32,
    "--batch",
    16,
    "--eval-examples",
    32,
]


class Row(NamedTuple):
    """What was tried, what came of it, and whether that is as promised."""

    what: str
    found: str
    good: bool


class Run:
    """A run in a folder of its own."""

    def __init__(self, folder: Path, arguments: list[Any]) -> None:
        self.folder = folder
        self.arguments = [*arguments, "--out", folder]
        self.output = folder.with_suffix(".txt")

    def go(self, layout: Layout | None = None, **others: Any) -> int:
        """Runs to the end, and returns the exit code."""
        layout = layout or Layout()
        arguments = [*self.arguments, *layout.arguments]
        if layout.processes > 1:
            processes = launch_all(layout.processes, arguments, self.output, devices=layout.devices)
        else:
            processes = [launch(arguments, self.output, devices=layout.devices, **others)]
        for process in processes:
            process.join()
        return max((process.exitcode or 0 for process in processes), key=abs)

    def must_go(self, layout: Layout | None = None) -> None:
        """Runs what the other runs are compared with."""
        if code := self.go(layout):
            raise SystemExit(
                f"train.py {' '.join(map(str, self.arguments))}: exit code {code}\n{self.says}"
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]

    @property
    def log(self) -> str:
        path = self.folder / "metrics.jsonl"
        return path.read_text() if path.exists() else ""

    @property
    def logged(self) -> int:
        """The number of steps in the log."""
        return self.log.count('"gradient_norm"')

    @property
    def checkpoints(self) -> list[Path]:
        found = (self.folder / "checkpoints").glob("*")
        return sorted(
            (path for path in found if path.name.isdecimal()), key=lambda path: int(path.name)
        )

    @property
    def state(self) -> Any:
        return read(self.checkpoints[-1])

    @property
    def says(self) -> str:
        """What was printed, by all processes, each of several having a file of its own."""
        written = sorted(self.output.parent.glob(f"{self.output.name}*"))
        lines = [line for path in written for line in path.read_text().splitlines()]
        # Collectives of the CPU say which processes they have found.
        return " ".join(" ".join(line for line in lines if "[Gloo]" not in line).split())

    def failure(self, code: int) -> str:
        """How a run that should have ended as another one did not."""
        return f"exit code {code}: {self.says[-200:]}" if code else "it differs"

    def equals(self, other: Run) -> bool:
        """Whether all logged figures and all arrays are the same, bit for bit."""
        return self.log == other.log and jax.tree.all(
            jax.tree.map(np.array_equal, self.state, other.state)
        )


class Layout(NamedTuple):
    """Where a run takes place."""

    devices: int = 1
    processes: int = 1
    arguments: tuple[Any, ...] = ()


def _meshes(*names: str, **place: Any) -> dict[str, Layout]:
    """A layout for each mesh, by its name."""
    title, arguments = place.pop("title"), place.pop("arguments", ())
    return {
        f"{title}, {name}": Layout(**place, arguments=(*arguments, "--mesh", name))
        for name in names
    }


LAYOUTS = {
    "1 device": Layout(),
    **_meshes(
        "data=8",
        "data=4,tensor=2",
        "fsdp=8",
        "data=2,fsdp=2,tensor=2",
        "data=2,tensor=2,sequence=2",
        title="8 devices, jit",
        devices=8,
    ),
    **_meshes(
        "data=8",
        "data=4,tensor=2",
        "data=4,fsdp=2",
        title="8 devices, shard_map",
        devices=8,
        arguments=("--parallel", "shard_map"),
    ),
    "8 devices, pmap": Layout(8, arguments=("--parallel", "pmap")),
    **_meshes(
        "data=8",
        "data=4,tensor=2",
        "fsdp=8",
        title="2 processes x 4 devices, jit",
        devices=4,
        processes=2,
    ),
}


def layouts(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The same seed everywhere: masks, and what 50 steps make of the parameters.

    Some gradients are 0 but for rounding, such as that of the bias of attention's keys. AdamW would
    make whole steps of them, the usual `eps` being smaller.
    """
    length = [
        "--adam-eps",
        1e-4,
        "--steps",
        10 if options.quick else 50,
        "--eval-every",
        1000,
        "--save-every",
        1000,
    ]
    kinds: dict[str, list[Any]] = {
        "masks": ["--model", "masks"],
        "transformer": TEXT,
        "cnn": ["--model", "cnn", "--width", 8, "--eval-examples", 64],
    }
    for kind, arguments in kinds.items():
        first = Run(folder / kind, [*arguments, *length])
        first.must_go()
        expected = first.state["params"]
        for index, (name, layout) in enumerate(LAYOUTS.items()):
            if index == 0:
                continue
            run = Run(folder / f"{kind}-{index}", first.arguments[:-2])
            if code := run.go(layout):
                yield Row(f"{kind}: {name}", run.failure(code), False)
            elif kind == "masks":
                same = [line["loss"] for line in run.lines if "loss" in line] == [
                    line["loss"] for line in first.lines if "loss" in line
                ]
                yield Row(f"{kind}: {name}", "bit-equal" if same else "differ", same)
            else:
                worst = max(jax.tree.leaves(jax.tree.map(distance, run.state["params"], expected)))
                yield Row(
                    f"{kind}: {name}", f"parameters differ by {worst:.1e} at most", worst < 1e-5
                )


def distance(x: Any, y: Any) -> float:
    """The largest difference. Parameters are of the order of 0.1 to 1."""
    return float(np.max(np.abs(x - y)))


def elsewhere(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Stopped half-way, and resumed on another mesh."""
    length = ["--steps", 20, "--eval-every", 1000, "--save-every", 1000]
    ways = list(LAYOUTS.items())[1:]
    kinds: dict[str, list[Any]] = {"masks": ["--model", "masks"], "transformer": TEXT}
    for kind, arguments in kinds.items():
        first = Run(folder / kind, [*arguments, *length])
        first.must_go()
        losses = [line["loss"] for line in first.lines if "loss" in line]
        for index, (begin, end) in enumerate(
            zip(ways, ways[1:][: 2 if options.quick else None], strict=False)
        ):
            run = Run(folder / f"{kind}-{index}", [*arguments, *length])
            what = f"{kind}: {begin[0]}, then {end[0]}"
            half = begin[1]._replace(arguments=(*begin[1].arguments, "--stop-at", 10))
            if code := run.go(half) or run.go(end[1]):
                yield Row(what, run.failure(code), False)
                continue
            found = [line["loss"] for line in run.lines if "loss" in line]
            worst = max(abs(a - b) for a, b in zip(found, losses, strict=True))
            yield Row(
                what,
                f"losses differ by {worst:.1e} at most",
                worst == 0 if kind == "masks" else worst < 1e-4,
            )


def kills(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """`kill -9` at random moments, and resumed: all figures and arrays are those of the run that
    was left alone.
    """
    arguments = [
        *IMAGES,
        "--steps",
        400,
        "--eval-every",
        10,
        "--save-every",
        10,
        "--micro-batches",
        2,
    ]
    whole = Run(folder / "whole", arguments)
    whole.must_go()
    random = np.random.default_rng(options.seed)
    for number in range(3 if options.quick else options.kills):
        run = Run(folder / f"kill-{number}", arguments)
        process = launch(run.arguments, run.output)
        moment = random.integers(400)
        while process.is_alive() and run.logged < moment:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.join()
        reached, last = run.logged, run.checkpoints[-1].name if run.checkpoints else "none"
        code = run.go()
        good = code == 0 and run.equals(whole)
        found = "bit-identical" if good else run.failure(code)
        yield Row(f"killed when {reached} steps were logged, with checkpoint {last}", found, good)


def damage(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Damaged checkpoints: the run goes on from the last good one and says so, or ends; it never
    starts again by itself.
    """
    whole = Run(folder / "whole", [*IMAGES, "--steps", 40, "--eval-every", 10, "--save-every", 10])
    whole.must_go()
    random = np.random.default_rng(options.seed)

    def broken(name: str, harm: Callable[[Path], None], checkpoints: slice) -> tuple[Run, int]:
        run = Run(folder / name.replace(" ", "-"), whole.arguments[:-2])
        shutil.copytree(whole.folder, run.folder)
        for checkpoint in run.checkpoints[checkpoints]:
            files = sorted(
                path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size
            )
            harm(files[random.integers(len(files))])
        return run, run.go()

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
        path.write_bytes(content)

    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def lose(path: Path) -> None:
        path.unlink()

    for kind, harm in {
        "a bit flipped": flip,
        "a file truncated": truncate,
        "a file lost": lose,
    }.items():
        for number in range(1 if options.quick else 5):
            run, code = broken(f"{kind} {number}", harm, slice(-1, None))
            good = (
                code == 0
                and run.equals(whole)
                and "is not used" in run.says
                and "behind step 30" in run.says
            )
            yield Row(f"the newest, {kind}", run.says[:120], good)
    run, code = broken("the newest two", flip, slice(-2, None))
    yield Row(
        "the newest two",
        run.says[:120],
        code == 0 and run.equals(whole) and "behind step 20" in run.says,
    )
    run, code = broken("all of them", flip, slice(None))
    yield Row(
        "all of them",
        run.says[-120:],
        code == 1 and run.log == whole.log and "None of the 3 checkpoints" in run.says,
    )


def errors(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """What goes wrong: a clear message, an exit code that is not 0, and earlier checkpoints that
    can still be used.
    """
    del options
    short = [*IMAGES, "--steps", 40, "--eval-every", 10, "--save-every", 10]
    mnist = folder / "mnist"
    mnist.mkdir()
    (mnist / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9]))
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    text = ["--model", "transformer"]
    cases: dict[str, list[Any]] = {
        "invalid choice 'resnet'": ["--model", "resnet"],
        "is not the number of devices": ["--mesh", "data=3"],
        "is none of data=N, fsdp=N, tensor=N, sequence=N": ["--mesh", "rows=2"],
        "there is no such file or folder": ["--data", folder / "nowhere"],
        "not an idx file": ["--data", mnist],
        "not a text in UTF-8": [*text, "--data", folder / "binary.txt"],
        "gradient_norm is": ["--learning-rate", 1e20, "--clip", 1e30, "--weight-decay", 0],
        "cannot be divided": ["--batch", 30, "--mesh", "data=4"],
    }
    for index, (message, arguments) in enumerate(cases.items()):
        run = Run(folder / f"error-{index}", [*short, *arguments])
        code = run.go(Layout(4 if "--batch" in arguments else 1))
        yield Row(
            " ".join(map(str, arguments[-2:])), run.says[-150:], code > 0 and message in run.says
        )

    run, whole = Run(folder / "full", short), Run(folder / "whole", short)
    whole.must_go()
    run.go(Layout(arguments=("--stop-at", 20)))
    code = run.go(largest_file=10_000)
    row = Row(
        "no room on the disk",
        run.says[-150:],
        code > 0 and "those before it are intact" in run.says,
    )
    yield row._replace(good=row.good and run.go() == 0 and run.equals(whole))
    code = run.go(Layout(arguments=("--seed", 1)))
    yield Row(
        "another seed in the same folder",
        run.says[-150:],
        code > 0 and "--seed was 0 and is 1" in run.says,
    )


MOMENTS = {
    "start": "training.peers:joined",
    "before the barrier": "training.storage:check_shared",
    "data": "training.data:load",
    "reading checkpoints": "training.checkpoints:Checkpoints.__init__",
    "compiling": "training.steps:compile_once",
    "first step": "training.parallel:Placement.__call__:1",
    "a step": "training.parallel:Placement.__call__:17",
    "evaluation": "training.evaluation:Evaluation.all:2",
    "saving": "training.checkpoints:Checkpoints.save:2",
    "the end": "train:report",
}
"""Where a process dies: in place of a function, perhaps at a later call."""
HEARTBEAT = 10


def peers(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """One of two processes is killed: the other names it, and ends within the time set; and the
    two, started again, come to the end that nothing disturbed.
    """
    short = [*IMAGES, "--steps", 20, "--eval-every", 5, "--save-every", 5]
    whole = Run(folder / "whole", short)
    both = Layout(1, 2, ("--heartbeat-timeout", HEARTBEAT, "--start-timeout", HEARTBEAT))
    whole.must_go(both)
    for number, (moment, function) in enumerate(MOMENTS.items()):
        for victim in [number % 2] if options.quick else [0, 1]:
            run = Run(folder / f"peer-{number}-{victim}", short)
            arguments = [*run.arguments, *both.arguments]
            processes = launch_all(2, arguments, run.output, devices=1, dies=(victim, function))
            processes[victim].join()
            died = time.monotonic()
            other = processes[1 - victim]
            other.join(HEARTBEAT + 30)
            took, code = time.monotonic() - died, other.exitcode
            other.kill()
            other.join()
            said = run.output.with_name(f"{run.output.name}.{1 - victim}").read_text()
            named = [line for line in said.splitlines() if f"rocess {victim} " in line]
            again = run.go(both)
            good = again == 0 and run.equals(whole)
            yield Row(
                f"process {victim} killed: {moment}",
                f"after {took:.1f} s: {(named or [said[-150:]])[-1]}"
                + ("" if good else f"; started again, {run.failure(again)}"),
                processes[victim].exitcode == -9
                and code not in (0, None)
                and took <= HEARTBEAT + 1
                and bool(named)
                and good,
            )


def bucket(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Killed at random moments with `--out gs://...`, and resumed: the log is that of a disk, byte
    for byte. A server on this machine stands for Google's.
    """
    short = [*IMAGES, "--steps", 40, "--eval-every", 5, "--save-every", 5]
    whole = Run(folder / "whole", short)
    whole.must_go()
    random = np.random.default_rng(options.seed)
    with fake_bucket.serve() as served:
        for number in range(2 if options.quick else 10):
            out, output = f"gs://bucket/run-{number}", folder / f"{number}.txt"

            def start(out: str = out, output: Path = output) -> BaseProcess:
                arguments = [*short, "--out", out]
                return launch(arguments, output, environment=served.environment)

            log = f"run-{number}/metrics.jsonl"
            process, moment = start(), random.integers(40)
            while process.is_alive() and (
                log not in served.objects
                or served.objects[log].content.count(b"gradient_norm") < moment
            ):
                time.sleep(0.01)
            time.sleep(random.uniform(0, 1))
            process.kill()
            process.join()
            again = start()
            again.join()
            found = served.objects.get(log)
            good = again.exitcode == 0 and found is not None
            good = good and found.content.decode() == whole.log  # type: ignore[union-attr]
            went = [line for line in output.read_text().splitlines() if "Going on" in line]
            yield Row(
                f"in a bucket, killed when {moment} steps were logged",
                f"{'the log of a disk' if good else output.read_text()[-150:]}; {went}",
                good,
            )


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Row]]] = {
    part.__name__: part for part in (layouts, elsewhere, kills, damage, errors, peers, bucket)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--kills", type=int, default=20, help="how many runs to kill (default: 20)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the moments, and of the damage (default: 0)"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    absl.logging.set_verbosity(absl.logging.ERROR)
    console = Console(highlight=False, soft_wrap=True)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        # A run that is compiled once is not compiled again.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder, "compiled")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        for name in options.parts or PARTS:
            own = Path(folder, name)
            own.mkdir()
            rows = []
            for row in PARTS[name](own, options):
                rows.append(["✓" if row.good else "✗", row.what, row.found])
                console.print(*rows[-1])
                bad += not row.good
            console.print(
                f"[bold]{name}[/bold]: {sum(row[0] == '✓' for row in rows)} of {len(rows)} as"
                " promised\n"
            )
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
