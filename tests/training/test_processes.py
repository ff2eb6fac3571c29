"""Runs of `scripts/train.py` in processes of their own. The long form is
`scripts/check_training.py`.
"""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from training import config, launch, peers

SHORT = [
    "--model",
    "masks",
    "--steps",
    30,
    "--batch",
    16,
    "--eval-examples",
    16,
    "--eval-every",
    5,
    "--save-every",
    5,
]


def wait(process: BaseProcess, out: Path, output: Path) -> None:
    """Until the first checkpoint is whole."""
    while not (out / "checkpoints" / "5" / "SHA256SUMS").exists():
        assert process.is_alive(), output.read_text()
        time.sleep(0.01)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_killed_and_divided_runs_draw_the_masks_of_one_process(tmp_path: Path) -> None:
    """`kill -9` of a process in the middle of training, which two processes of four devices each
    then finish.
    """
    whole = launch.launch([*SHORT, "--out", tmp_path / "whole"], tmp_path / "whole.txt")
    killed = launch.launch([*SHORT, "--out", tmp_path / "run"], tmp_path / "run.txt")
    wait(killed, tmp_path / "run", tmp_path / "run.txt")
    killed.kill()
    for process in (whole, killed):
        process.join()
    assert (whole.exitcode, killed.exitcode) == (0, -9)

    both = launch.launch_all(
        2, [*SHORT, "--out", tmp_path / "run"], tmp_path / "both.txt", devices=4
    )
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "both.txt.0").read_text()
    assert "Going on behind step" in (tmp_path / "both.txt.0").read_text()
    np.testing.assert_array_equal(losses(tmp_path / "run"), losses(tmp_path / "whole"))


def test_a_dead_peer_is_named(tmp_path: Path) -> None:
    """The first process finds itself alone, in the middle of a collective operation."""
    dies = 1, "training.parallel:Placement.__call__:7"
    arguments = [*SHORT, "--out", tmp_path / "run"]
    both = launch.launch_all(2, arguments, tmp_path / "run.txt", devices=2, dies=dies)
    for process in both:
        process.join()
    text = (tmp_path / "run.txt.0").read_text()
    assert [process.exitcode for process in both] == [1, -9], text
    assert "Process 1 of 2 has died. The same command goes on from the newest checkpoint." in text
    assert "Process 0 ends, too." in text
    assert "could not be written" not in text


def come(port: int, stack: ExitStack) -> socket.socket:
    """A connection to the first process, once it listens."""
    while True:
        with suppress(ConnectionRefusedError):
            return stack.enter_context(socket.create_connection(("localhost", port)))
        time.sleep(0.01)


def test_two_processes_of_one_number_are_named() -> None:
    """But not one that was started again."""
    port = launch._free_port()
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        first = pool.submit(peers.Peers, "localhost", port, 0, 3, 60)
        with come(port, stack) as gone:
            gone.sendall(b"1\n")
        both = [come(port, stack) for _ in range(2)]
        for one in both:
            one.sendall(b"1\n")
        with pytest.raises(SystemExit, match=r"^Two processes are number 1 \(--process-id\)\.$"):
            first.result()
        assert [one.makefile().read() for one in both] == ["end Two processes are number 1\n"] * 2


def test_an_error_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    port = launch._free_port()
    options = config.Config(coordinator=f"localhost:{port}", num_processes=2, process_id=0)
    monkeypatch.setattr(peers, "_initialize", mock.Mock(side_effect=SystemExit("not found")))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        first = pool.submit(peers.joined(options).__enter__)
        other = come(port + 1, stack)
        other.settimeout(60)
        other.sendall(b"1\n")
        with pytest.raises(SystemExit, match="not found"):
            first.result()
        other.shutdown(socket.SHUT_WR)
        with other.makefile() as lines:
            assert [next(lines), next(lines)] == ["all\n", "end Process 0: not found\n"]


@pytest.mark.parametrize("address", ["10.0.0.7", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"])
def test_the_others_are_told_an_address_of_either_kind(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_address", lambda: address)
    found, port = peers._agree()
    assert found == address
    assert 0 < port < 65536


def test_connections_are_kept_open() -> None:
    """Those that are silent for minutes are reset on the way, and seem to be those of the dead."""
    port = launch._free_port()
    with ThreadPoolExecutor() as pool:
        both = [*pool.map(lambda index: peers.Peers("localhost", port, index, 2, 60), range(2))]
    links = [one._links[1 - index] for index, one in enumerate(both)]
    kept = [link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for link in links]
    after = [link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) for link in links]
    for one in both:
        one.close(None)
    assert (kept, after) == ([1, 1], [60, 60])


def test_processes_that_do_not_come_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    port = launch._free_port()
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        first = pool.submit(peers.Peers, "localhost", port, 0, 5, 2.0)
        for text in (b"2\n", b"GET / HTTP/1.1\r\n\r\n"):
            come(port, stack).sendall(text)
        with pytest.raises(SystemExit, match=r"Processes 1, 3, 4 did not come within 2 s"):
            first.result()
    with pytest.raises(SystemExit, match=rf"Process 0 was not found at localhost:{port} within"):
        peers.Peers("localhost", port, 1, 2, 0.3)
    for index in (0, 1):
        peers.Peers("localhost", launch._free_port(), index, 2, 0.1, required=False).close(None)
    assert capsys.readouterr().err.count("only JAX's heartbeats tell of dead processes") == 2


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        options = config.Config(coordinator=f"localhost:{port}", num_processes=2, process_id=0)
        with (
            pytest.raises(SystemExit, match=rf"--coordinator: port {port} .* cannot be had"),
            peers.joined(options),
        ):
            pass


def test_a_run_that_is_told_to_stop_saves_its_step(tmp_path: Path) -> None:
    """SIGTERM to one of two processes, which SLURM's variables brought together, then to the one
    that goes on: no step is lost, and none is taken twice.
    """
    long = [*SHORT, "--steps", 10_000, "--save-every", 5, "--out", tmp_path / "run"]
    both = launch.launch_all(2, long, tmp_path / "run.txt", devices=2, slurm=True)
    wait(both[0], tmp_path / "run", tmp_path / "run.txt.0")
    both[1].terminate()
    for process in both:
        process.join()
    text = (tmp_path / "run.txt.0").read_text()
    assert [process.exitcode for process in both] == [143, 143], text
    stopped = int(re.search(r"Told to stop, behind step (\d+)", text)[1])
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).exists()

    alone = launch.launch(long, tmp_path / "alone.txt")
    while len(losses(tmp_path / "run")) < stopped + 10:
        assert alone.is_alive(), (tmp_path / "alone.txt").read_text()
        time.sleep(0.01)
    alone.terminate()
    alone.join()
    assert alone.exitcode == 143
    found = losses(tmp_path / "run")
    whole = launch.launch(
        [*SHORT, "--steps", 10_000, "--stop-at", len(found), "--out", tmp_path / "whole"],
        tmp_path / "whole.txt",
    )
    whole.join()
    np.testing.assert_array_equal(losses(tmp_path / "whole"), found)
