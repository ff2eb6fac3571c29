"""The processes of a run know of each other's end, and say whose it was.

JAX's own service notices a dead process when its heartbeats stay away, and ends the others with its
message and the stack of a thread in C++; before that, what they wait for may fail, and look as if a
checkpoint could not be written. Here each process is connected to the first one. If a process dies,
the kernel closes its connection at once; if it ends by an error, it says which. Where a whole
machine or the network is gone, nothing is closed, and JAX's heartbeats are what ends the others.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
import numpy as np
from jax.experimental import multihost_utils

from training.config import Config


class Peers:
    """A connection to the first process, or from it to all others.

    Args:
      host, port: where the first process listens.
      index: of this process.
      count: of all.
      timeout: seconds to wait for the others.
      required: whether it is an error that some do not come. It is none where JAX has found them
        already, since a firewall may be all that is between.

    Raises:
      SystemExit: some do not come.
    """

    def __init__(
        self,
        host: str,
        port: int,
        index: int,
        count: int,
        timeout: float,
        *,
        required: bool = True,
    ) -> None:
        self._index, self._count = index, count
        self._required = required
        self._links: dict[int, socket.socket] = {}
        self._end = threading.Lock()
        self._closed = False
        deadline = time.monotonic() + timeout
        if index == 0:
            self._listen(port, deadline, timeout)
        else:
            self._connect(host, port, deadline, timeout)
        for peer, link in self._links.items():
            link.settimeout(None)
            _keep_open(link)
            threading.Thread(target=self._hear, args=(peer, link), daemon=True).start()

    def _listen(self, port: int, deadline: float, timeout: float) -> None:
        with _server(port) as server:
            while len(self._links) < self._count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, self._count)) - self._links.keys())
                    message = f"{_named(missing)} did not come within {timeout:g} s"
                    if not self._required:
                        return _go_on(message)
                    raise self._without(message, "(--start-timeout)") from None
                link.settimeout(5)
                peer = 0
                with suppress(OSError, ValueError), link.makefile() as lines:
                    peer = int(lines.readline())
                if not 0 < peer < self._count:  # somebody who looks what listens here
                    link.close()
                    continue
                if before := self._links.get(peer):
                    if not _is_closed(before):
                        self._links[-1] = link  # is told, too
                        raise self._without(f"Two processes are number {peer}", "(--process-id)")
                    before.close()  # by a process that was started again
                self._links[peer] = link
        self._tell("all\n")
        return None

    def _without(self, message: str, option: str) -> SystemExit:
        """Tells those who are there that the run does not begin."""
        self._tell(f"end {message}\n")
        for link in self._links.values():
            link.close()
        return SystemExit(f"{message} {option}.")

    def _connect(self, host: str, port: int, deadline: float, timeout: float) -> None:
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            try:
                self._links[0] = socket.create_connection((host, port), timeout=left)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    message = f"Process 0 was not found at {host}:{port} within {timeout:g} s"
                    if not self._required:
                        return _go_on(message)
                    raise SystemExit(f"{message} (--start-timeout): {error}") from None
                time.sleep(0.2)
        self._tell(f"{self._index}\n")
        return None

    def _tell(self, text: str) -> None:
        for link in self._links.values():
            with suppress(OSError):
                link.sendall(text.encode())

    def _hear(self, peer: int, link: socket.socket) -> None:
        with suppress(OSError), link, link.makefile() as lines:
            for line in lines:
                kind, _, text = line.strip().partition(" ")
                if kind == "bye":
                    return
                if kind == "end":
                    self._give_up(text)
        again = "The same command goes on from the newest checkpoint"
        self._give_up(f"Process {peer} of {self._count} has died. {again}")

    def _give_up(self, message: str) -> None:
        """Ends this process at once: what it waits for never comes."""
        with self._end:
            if self._closed:
                return
            self._tell(f"end {message}\n")
            sys.stdout.flush()
            os.write(2, f"{message}. Process {self._index} ends, too.\n".encode())
            os._exit(1)

    def close(self, error: str | None) -> None:
        """Takes leave of the others, who end too if there was an error."""
        if error is not None:
            # If it was a peer's end that made this one fail, the peer is the one to be named, by
            # the thread that hears of it.
            time.sleep(2)
        with self._end:
            self._closed = True
            self._tell("bye\n" if error is None else f"end Process {self._index}: {error}\n")


@contextmanager
def joined(config: Config) -> Iterator[None]:
    """Joins the other processes of the run, if there are any, for as long as it lasts. Comes before
    anything else that asks JAX for its devices.

    Raises:
      SystemExit: they are not found.
    """
    if config.coordinator is None and not config.distributed:
        yield
        return
    peers = None
    if config.coordinator is not None:
        host, _, written = config.coordinator.rpartition(":")
        port, index, count = int(written), config.process_id or 0, config.num_processes or 1
        if index == 0:
            _server(port).close()  # or JAX would wait, and say nothing
        peers = Peers(host.strip("[]"), port + 1, index, count, config.start_timeout)
    try:
        _initialize(config)
        if peers is None and jax.process_count() > 1:
            host, port = _agree()
            wait = min(config.start_timeout, 60)
            peers = Peers(
                host, port, jax.process_index(), jax.process_count(), wait, required=False
            )
        yield
    except BaseException as error:
        if peers is not None:
            wanted = isinstance(error, SystemExit) and not isinstance(error.code, str)
            peers.close(None if wanted else " ".join(str(error).split()) or repr(error))
        raise
    if peers is not None:
        peers.close(None)


def _initialize(config: Config) -> None:
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=config.start_timeout,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise SystemExit(
            f"The other processes were not found: {error}. --distributed reads the environment of"
            " TPU pods, SLURM and Open MPI; elsewhere name --coordinator, --num-processes and"
            " --process-id."
        ) from None


def _agree() -> tuple[str, int]:
    """A place for the first process to listen, which it tells the others through JAX."""
    place = np.zeros(64, np.int32)
    if jax.process_index() == 0:
        with _server(0) as server:
            port = server.getsockname()[1]
        text = f"{_address()} {port}".encode()
        place[: len(text)] = [*text]
    found = bytes(multihost_utils.broadcast_one_to_all(place).astype(np.uint8))
    address, _, port = found.rstrip(b"\0").decode().partition(" ")
    return address, int(port)


def _address() -> str:
    """Of this machine, as others reach it: that of the interface which leads outside."""
    outside = (socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")
    for family, address in outside:  # of documentation
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 1))  # sends nothing
            return probe.getsockname()[0]
    return "127.0.0.1"


def _keep_open(link: socket.socket) -> None:
    """Firewalls and routers forget, or reset, connections of which they see nothing for some
    minutes. Whether somebody answers is left to JAX's heartbeats: this gives up only after hours.
    """
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 120)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _is_closed(link: socket.socket) -> bool:
    """Whether its other end is."""
    link.setblocking(False)
    try:
        return link.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _server(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise SystemExit(
            f"--coordinator: port {port} of this machine cannot be had ({error}). The first process"
            " takes the one that is named and the next: name another."
        ) from None


def _go_on(message: str) -> None:
    print(f"{message}; only JAX's heartbeats tell of dead processes", file=sys.stderr, flush=True)


def _named(processes: list[int]) -> str:
    names = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"Process {names}" if len(processes) == 1 else f"Processes {names}"
