#!/usr/bin/env python3
"""Puts jaxdrop's generator through the dieharder battery, in the orders in which dropout uses it.

    python scripts/check_random.py  # every order, a selection of tests: about half an hour
    python scripts/check_random.py --all --order seeds  # one order, all tests: an hour

Needs the Debian package dieharder. A p-value outside [1e-6, 1 - 1e-6] is a failure. One outside
[0.005, 0.995] is called WEAK, and is expected once in a hundred values of a perfect generator.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from jaxdrop import random

CHUNK = 2**22

# The dieharder tests of the short run: birthdays, permutations, both ranks, bitstream, byte counts,
# squeeze, runs, gcd, monobit, serial, bit distribution, lagged sums, Kolmogorov-Smirnov, byte
# distribution, tree fill and monobit again.
SELECTION = (0, 1, 2, 3, 4, 8, 9, 13, 15, 17, 100, 101, 102, 200, 202, 204, 205, 207, 208, 209)


def _stream(index: jax.Array) -> jax.Array:
    """One long stream, past 2**32 entries."""
    return random.bits(
        jaxdrop.key(0), (1, CHUNK), origin=(index * 1021 % 2**20, 0), global_shape=(2**20, CHUNK)
    )


def _short_keys(index: jax.Array) -> jax.Array:
    """A fresh derived key every 4096 entries."""
    keys = jax.random.split(jax.random.fold_in(jaxdrop.key(1), index), CHUNK // 4096)
    return jax.vmap(lambda key: random.bits(key, (4096,)))(keys)


def _fold_in(index: jax.Array) -> jax.Array:
    """Entry by entry over the keys fold_in(k, 0), fold_in(k, 1), ..., fold_in(k, 1023)."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jaxdrop.key(2), i))(jnp.arange(1024))
    return jax.vmap(lambda key: _block(key, index, CHUNK // 1024))(keys).T


def _seeds(index: jax.Array) -> jax.Array:
    """Entry by entry over the seeds 0, 1, ..., 1023."""
    return jax.vmap(lambda seed: _block(jaxdrop.key(seed), index, CHUNK // 1024))(
        jnp.arange(1024)
    ).T


def _low_bits(index: jax.Array) -> jax.Array:
    """The low 8 of each entry's 32 bits."""
    return _block(jaxdrop.key(3), index, 4 * CHUNK).astype(jnp.uint8)


def _high_bits(index: jax.Array) -> jax.Array:
    """The 8 bits that an 8-bit draw gets."""
    return random.bits(jax.random.fold_in(jaxdrop.key(4), index), (4 * CHUNK,), bit_width=8)


def _transposed(index: jax.Array) -> jax.Array:
    """Down the columns of a 65536 x 65536 array."""
    return random.bits(
        jaxdrop.key(5), (2**16, 64), origin=(0, index % 1024), global_shape=(2**16, 2**16)
    ).T


def _masks(index: jax.Array) -> jax.Array:
    """The keep masks of rate 0.5 of many sites of 256 entries, one after another, eight entries a
    byte.
    """
    keys = jax.random.split(jax.random.fold_in(jaxdrop.key(6), index), CHUNK // 64)
    keep = jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones(256), 0.5) > 0)(keys)
    return jnp.packbits(keep)


def _stratified(index: jax.Array) -> jax.Array:
    """Sample 3 of 10 of a stratified set, as one stream."""
    key = jax.random.fold_in(jaxdrop.mc.keys(jaxdrop.key(7), 10)[3], index)
    return random.bits(key, (CHUNK,))


def _block(key: jax.Array, index: jax.Array, length: int) -> jax.Array:
    return random.bits(key, (1, length), origin=(index, 0), global_shape=(2**20, length)).reshape(
        length
    )


ORDERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "stream": _stream,
    "short-keys": _short_keys,
    "fold-in": _fold_in,
    "seeds": _seeds,
    "low-bits": _low_bits,
    "high-bits": _high_bits,
    "transposed": _transposed,
    "masks": _masks,
    "stratified": _stratified,
}


def emit(order: str) -> None:
    """Writes an order's bits to standard output until the reader has had enough."""
    draw = jax.jit(ORDERS[order])
    try:
        for index in itertools.count():
            sys.stdout.buffer.write(np.asarray(draw(jnp.uint32(index))).tobytes())
    except BrokenPipeError:
        sys.stderr.close()


def examine(order: str, tests: tuple[int, ...] | None) -> collections.Counter[str]:
    """Runs dieharder over an order, prints what is not a plain pass, and counts the verdicts."""
    verdicts: collections.Counter[str] = collections.Counter()
    for selection in [["-a"]] if tests is None else [["-d", str(test)] for test in tests]:
        source = subprocess.Popen(
            [sys.executable, __file__, "--emit", order], stdout=subprocess.PIPE
        )
        battery = subprocess.run(
            ["dieharder", "-g", "200", *selection],
            stdin=source.stdout,
            capture_output=True,
            text=True,
            check=True,
        )
        source.kill()
        source.wait()
        for line in battery.stdout.splitlines():
            verdict = re.search(r"\|\s*(PASSED|WEAK|FAILED)\s*$", line)
            if verdict:
                verdicts[verdict[1]] += 1
                if verdict[1] != "PASSED":
                    print(f"  {order}: {line}", flush=True)
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--order", choices=ORDERS, action="append", help="only this order; may be repeated"
    )
    parser.add_argument(
        "--all", action="store_true", help="the whole battery instead of a selection"
    )
    parser.add_argument(
        "--tests", type=int, nargs="+", default=SELECTION, help="numbers of dieharder's tests"
    )
    parser.add_argument(
        "--emit",
        choices=ORDERS,
        help="write the bits to standard output instead, for another battery",
    )
    arguments = parser.parse_args()
    if arguments.emit:
        emit(arguments.emit)
        return 0
    if shutil.which("dieharder") is None:
        parser.error("dieharder is not installed: apt-get install dieharder")
    failed = 0
    for order in arguments.order or ORDERS:
        verdicts = examine(order, None if arguments.all else tuple(arguments.tests))
        failed += verdicts["FAILED"]
        shown = ", ".join(
            f"{verdicts[name]} {name.lower()}" for name in ("PASSED", "WEAK", "FAILED")
        )
        print(f"{order:12s} {shown:40s} {ORDERS[order].__doc__}", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
