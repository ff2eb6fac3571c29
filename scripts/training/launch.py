"""Runs of `scripts/train.py` in processes of their own, which can be killed."""

from __future__ import annotations

import functools
import importlib
import itertools
import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def launch(
    arguments: Sequence[object],
    output: Path,
    *,
    devices: int = 1,
    largest_file: int | None = None,
    environment: Mapping[str, str] | None = None,
    dies_in: str | None = None,
) -> BaseProcess:
    """Starts a run.

    The modules are loaded once, in a server that has not asked JAX for its devices, and that each
    run is a copy of.

    Args:
      arguments: of the command.
      output: the file that gets what it prints.
      devices: how many the CPU is to pass for.
      largest_file: in bytes; to write more is an error, as on a full disk.
      environment: further variables.
      dies_in: a function, such as `training.data:load` or, at its third call,
        `training.parallel:Placement.__call__:3`, in place of which the process kills itself.
    """
    # The server of Python 3.11 and 3.12 is not told `sys.path`, and passes in silence over modules
    # that it does not find.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "training.launch"])
    process = context.Process(
        target=_train,
        args=(
            [*map(str, arguments)],
            output,
            devices,
            largest_file,
            {**(environment or {})},
            dies_in,
        ),
    )
    process.start()
    return process


def launch_all(
    count: int,
    arguments: Sequence[object],
    output: Path,
    *,
    devices: int,
    slurm: bool = False,
    dies: tuple[int, str] | None = None,
) -> list[BaseProcess]:
    """Starts the processes of one run, which find each other on this machine: by options, or by the
    variables that SLURM sets. They print to `output` and a number. One may die in a function, see
    `launch`.
    """
    port = _free_port()
    runs = []
    for index in range(count):
        if slurm:
            options: list[object] = ["--distributed"]
            # JAX takes a port from the number of the job; a variable of its own goes before that.
            variables = {
                "JAX_COORDINATOR_PORT": str(port),
                "SLURM_JOB_ID": "1",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(count),
                "SLURM_PROCID": str(index),
                "SLURM_LOCALID": str(index),
            }
        else:
            options = ["--coordinator", f"localhost:{port}", "--num-processes", count]
            options += ["--process-id", index]
            variables = {}
        own = output.with_name(f"{output.name}.{index}")
        dies_in = dies[1] if dies is not None and dies[0] == index else None
        runs.append(
            launch(
                [*arguments, *options],
                own,
                devices=devices,
                environment=variables,
                dies_in=dies_in,
            )
        )
    return runs


def _free_port() -> int:
    """With a free one behind it."""
    while True:
        with socket.socket() as free, socket.socket() as behind, suppress(OSError, OverflowError):
            free.bind(("", 0))
            port: int = free.getsockname()[1]
            behind.bind(("", port + 1))
            return port


def _train(
    arguments: Sequence[str],
    output: Path,
    devices: int,
    largest_file: int | None,
    environment: Mapping[str, str],
    dies_in: str | None,
) -> None:
    os.environ.update({"JAX_PLATFORMS": "cpu", **environment})
    # The last one counts where a flag stands twice.
    flags = (os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train

    if dies_in is not None:
        _die_in(dies_in)
    train.main(arguments)


def _die_in(function: str) -> None:
    module, path, *calls = function.split(":")
    *names, last = path.split(".")
    owner = functools.reduce(getattr, names, importlib.import_module(module))
    original, left = getattr(owner, last), itertools.count(int(calls[0]) if calls else 1, -1)

    def instead(*arguments: Any, **options: Any) -> Any:
        if next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, last, instead)
