"""One run in a folder at a time: two would write over each other."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from etils import epath

from training import storage

RENEW = 10.0
"""Seconds after which the holder of a bucket's lock writes it again."""
EXPIRE = 45.0
"""Seconds after which a lock in a bucket that is not written again belongs to nobody."""


@contextmanager
def alone_in(
    folder: epath.Path, say: Callable[[str], None] = print
) -> Iterator[Callable[[], None]]:
    """Holds a folder for this run, until the process ends however it ends.

    Yields what is to be called before something is written that another run may own.

    Raises:
      SystemExit: another run holds it.
    """
    if jax.process_index() > 0:
        yield lambda: None
    elif storage.in_bucket(folder):
        lease = Lease(folder / storage.LOCK)
        lease.take(say)
        try:
            yield lease.check
        finally:
            lease.release()
    else:
        with (Path(folder) / storage.LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _taken(folder) from None
            yield lambda: None


class Lease:
    """A lock where there are none: an object with its holder's name, which the holder writes again
    and again. Whoever finds it unchanged for long enough takes it. No clocks are compared.

    A holder that is known to be dead, since it was a process of this machine, is not waited for.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self._mine = f"{_machine()} {os.getpid()} {uuid.uuid4().hex}"
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self, say: Callable[[str], None]) -> None:
        held = self._read()
        if held is not None and not _is_dead(held):
            say(f"{self._path} is there; waiting {EXPIRE:.0f} s whether its run still lives")
            end = time.monotonic() + EXPIRE
            while held is not None and time.monotonic() < end:
                time.sleep(EXPIRE / 45)
                now = self._read()
                if now is not None and now != held:
                    raise _taken(self._path.parent)
                held = now
        self._path.write_text(f"{self._mine} 0")
        time.sleep(0.2)  # another that takes it in the same moment: the last one has it
        if self._holder() != self._mine:
            raise _taken(self._path.parent)
        self._thread.start()

    def check(self) -> None:
        """Looks itself, since the thread that renews may have been stopped with the whole machine.

        Raises:
          SystemExit: another run has taken the lock, as if this one were dead.
        """
        with suppress(Exception):
            self._look()
        if self._lost:
            raise _taken(self._path.parent)

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        with suppress(Exception):
            if self._holder() == self._mine:
                self._path.unlink()

    def _read(self) -> str | None:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def _holder(self) -> str:
        return (self._read() or "").rpartition(" ")[0]

    def _renew(self) -> None:
        count = 0
        while not self._end.wait(RENEW):
            count += 1
            # The next time, perhaps; others wait for several. Errors of a bucket's clients have no
            # class in common.
            with suppress(Exception):
                self._look()
                if self._lost:
                    return
                self._path.write_text(f"{self._mine} {count}")

    def _look(self) -> None:
        if self._holder() not in ("", self._mine):
            self._lost = True


def _taken(folder: epath.Path) -> SystemExit:
    return SystemExit(f"--out {folder}: another run writes there. Take another.")


def _machine() -> str:
    """Names the set of processes among which a process number says which one is meant: since when
    the kernel runs, and the container.
    """
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex


def _is_dead(held: str) -> bool:
    machine, process, *_ = [*held.split(), "", ""]
    if machine != _machine() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return int(process) == os.getpid()  # whose number this process has now
