"""The C programs: built where there is a compiler, compared with JAX before they are trusted."""

from __future__ import annotations

import functools
import itertools
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batteries.orders import CHUNK, ORDERS

BLOCK = 2**16
# JAX's names of its generators, by the names of `peers.h`.
PEERS = {"threefry": "threefry2x32", "philox": "philox4x32", "rbg": "rbg"}
PEER_ORDERS = ("stream", "short-keys", "fold-in")
NAMES = (*ORDERS, *(f"{peer}/{order}" for peer in PEERS for order in PEER_ORDERS))

_FOLDER = Path(__file__).parent


_built = functools.cache(lambda: tempfile.TemporaryDirectory(prefix="jaxdrop-batteries-"))


@functools.cache
def build(name: str, *flags: str) -> Path | None:
    """The program of a C file of this folder; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = Path(_built().name) / name
    source = _FOLDER / f"{name}.c"
    command = [compiler, "-O3", "-march=native", "-o", str(program), str(source), *flags, "-lm"]
    subprocess.run(command, check=True)
    return program


def command(order: str, seed: int) -> list[str]:
    """The command that writes an order's words to standard output: the C program once it is found
    to agree with JAX, and JAX where no C can be compiled.
    """
    program = build("emit")
    if program is None:
        if order not in ORDERS:
            raise SystemExit(f"{order} needs a C compiler")
        script = str(_FOLDER.parent / "check_random.py")
        return [sys.executable, script, "--emit", order, "--seed", str(seed)]
    verify(order, seed)
    return [str(program), order, str(seed)]


@contextmanager
def source(order: str, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose standard output has an order's words."""
    started = command(order, seed)
    with subprocess.Popen(started, stdout=subprocess.PIPE) as process, killed(process):
        yield process


@contextmanager
def killed(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kills a process at the end of the block, however the block ends."""
    try:
        yield
    finally:
        process.kill()


@functools.cache
def verify(order: str, seed: int) -> None:
    """Raises if the C program disagrees with JAX, at the start of an order or past 2**33 words."""
    for block in (0, 2500 * CHUNK // BLOCK) if order in ORDERS else (0,):
        expected = words(order, seed, block)
        started = [str(build("emit")), order, str(seed), str(block)]
        with subprocess.Popen(started, stdout=subprocess.PIPE) as program, killed(program):
            assert program.stdout is not None
            found = np.frombuffer(program.stdout.read(expected.nbytes), np.uint32)
        if not np.array_equal(found, expected):
            raise SystemExit(f"emit {order} {seed} {block} is not what JAX draws")


def words(order: str, seed: int, block: int = 0) -> np.ndarray:
    """Words of an order as JAX draws them: the chunk at a block, or the first block of a peer's."""
    if order in ORDERS:
        draw = jax.jit(ORDERS[order])
        drawn = draw(jnp.uint32(seed), jnp.uint32(block * BLOCK // CHUNK))
        return np.asarray(drawn).reshape(-1).view(np.uint32)
    peer, order = order.split("/")
    key = jax.random.key(seed, impl=PEERS[peer])
    each, columns = {"stream": (BLOCK, 1), "short-keys": (4096, 16), "fold-in": (8, 8192)}[order]
    if order == "stream":
        return np.asarray(jax.random.bits(key, (BLOCK,)))
    draw_one = jax.jit(lambda number: jax.random.bits(jax.random.fold_in(key, number), (each,)))
    drawn = np.stack([np.asarray(draw_one(number)) for number in range(columns)])
    return (drawn if order == "short-keys" else drawn.T).reshape(-1)


@functools.cache
def checksum(order: str, seed: int) -> int:
    """Of an order's first words, from C if there is a compiler: JAX takes seconds for some."""
    program = build("emit")
    if program is None:
        return zlib.crc32(words(order, seed)[:BLOCK].tobytes())
    started = [str(program), order, str(seed)]
    with subprocess.Popen(started, stdout=subprocess.PIPE) as process, killed(process):
        assert process.stdout is not None
        return zlib.crc32(process.stdout.read(4 * BLOCK))


def emit(order: str, seed: int) -> None:
    """Writes an order's words, drawn by JAX, to standard output until the reader has had enough."""
    draw = jax.jit(ORDERS[order])
    try:
        for index in itertools.count():
            drawn = np.asarray(draw(jnp.uint32(seed), jnp.uint32(index)))
            sys.stdout.buffer.write(drawn.tobytes())
    except BrokenPipeError:
        sys.stderr.close()
