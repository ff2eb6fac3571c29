"""Runs of `scripts/train.py` in processes of their own, which can be killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path


def launch(
    arguments: Sequence[object], output: Path, *, devices: int = 1, largest_file: int | None = None
) -> BaseProcess:
    """Starts a run.

    The modules are loaded once, in a server that has not asked JAX for its devices, and that each
    run is a copy of.

    Args:
      arguments: of the command.
      output: the file that gets what it prints.
      devices: how many the CPU is to pass for.
      largest_file: in bytes; to write more is an error, as on a full disk.
    """
    # The server of Python 3.11 and 3.12 is not told `sys.path`, and passes over what it cannot find.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "training.launch"])
    process = context.Process(
        target=_train, args=([*map(str, arguments)], output, devices, largest_file)
    )
    process.start()
    return process


def launch_all(
    count: int, arguments: Sequence[object], output: Path, *, devices: int
) -> list[BaseProcess]:
    """Starts the processes of one run, which find each other on this machine. They print to
    `output` and a number.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"localhost:{port}", "--num-processes", count]
    return [
        launch(
            [*arguments, *together, "--process-id", index],
            output.with_name(f"{output.name}.{index}"),
            devices=devices,
        )
        for index in range(count)
    ]


def _train(arguments: Sequence[str], output: Path, devices: int, largest_file: int | None) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    # The last one counts where a flag stands twice.
    flags = (os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train

    train.main(arguments)
