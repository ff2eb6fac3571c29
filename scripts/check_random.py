#!/usr/bin/env python3
"""Puts jaxdrop's generator through batteries of tests, in the orders in which dropout uses it.

    python scripts/check_random.py  # dieharder, every order, a selection of tests: half an hour
    python scripts/check_random.py --practrand ../PractRand/RNG_test --length 16GB --order stream
    python scripts/check_random.py --testu01 /usr/local --battery Crush --part 3/12 --order stream
    python scripts/check_random.py --record practrand stream log.txt  # a log of another machine
    python scripts/check_random.py --table  # the table of docs/randomness.md alone

What is found goes into docs/results/random.json as it comes, by battery, order and seed, and into
the table of docs/randomness.md. A run that is stopped keeps what it has.

Dieharder is a Debian package. PractRand (github.com/planet36/PractRand: the path of its RNG_test)
and TestU01 (github.com/umontreal-simul/TestU01-2009: the prefix it is installed in) are built
outside this repository. The words come from a C program of `scripts/batteries`, which is compared
with `jaxdrop.random.bits` first, or from JAX where no C can be compiled. By hand, for a machine
that has neither Python nor JAX, from the root of this repository:

    cc -O3 -march=x86-64-v3 -static -o emit scripts/batteries/emit.c -lm
    ./emit stream | RNG_test stdin32 -tlmin 64MB -tlmax 128GB -multithreaded > log.txt
    cc -O3 -march=x86-64-v3 -static -o testu01 -IPREFIX/include scripts/batteries/testu01.c \
        -LPREFIX/lib -ltestu01 -lprobdist -lmylib -lm
    seq 96 | xargs -P 16 -I{} sh -c './testu01 Crush stream 0 {} 96 > crush.{}.txt'
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from batteries import dieharder, practrand, programs, testu01, verdicts
from batteries.orders import ORDERS
from batteries.verdicts import FAIL, Verdict


def _part(text: str) -> tuple[int, int]:
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, got {text!r}")
    return part, parts


def _read(battery: str, order: str, log: str, seed: int) -> Iterator[Verdict]:
    """The verdicts of a log that another machine wrote."""
    with open(log) as lines:
        if battery == "practrand":
            yield from practrand.parse(order, seed, lines)
        elif battery == "testu01":
            yield from testu01.parse(order, seed, lines)
        else:
            yield dieharder.parse(order, seed, lines, None)


def _run(arguments: argparse.Namespace, order: str) -> Iterator[Verdict]:
    if arguments.practrand:
        yield from practrand.run(order, arguments.seed, arguments.practrand, arguments.length)
    if arguments.testu01:
        yield from testu01.run(
            arguments.battery, order, arguments.seed, arguments.testu01, arguments.part
        )
    if not (arguments.practrand or arguments.testu01):
        tests = None if arguments.all else tuple(arguments.tests)
        yield from dieharder.run(order, arguments.seed, tests)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--order", choices=programs.NAMES, action="append", metavar="ORDER",
        help=f"only this order; may be repeated: {', '.join(programs.NAMES)}")  # fmt: skip
    add("--seed", type=int, default=0, help="of the root key (default: 0)")
    add("--practrand", type=Path, metavar="RNG_TEST", help="run PractRand, this program")
    add("--length", default="16GB", help="where PractRand stops (default: %(default)s)")
    add("--testu01", type=Path, metavar="PREFIX", help="run TestU01, installed there")
    add("--battery", choices=testu01.TESTS, default="SmallCrush", help="of TestU01")
    add("--part", type=_part, default=(1, 1), metavar="I/N",
        help="of TestU01's battery only the tests I, I + N, ...: N processes share it")  # fmt: skip
    add("--all", action="store_true", help="all of dieharder instead of a selection")
    add("--tests", type=int, nargs="+", default=dieharder.SELECTION, help="of dieharder, by number")
    add("--record", nargs=3, metavar=("BATTERY", "ORDER", "LOG"),
        help="take a log of practrand, testu01 or dieharder, written elsewhere")  # fmt: skip
    add("--table", action="store_true", help="write the table of the docs anew, and stop")
    add("--emit", choices=ORDERS, help="write the words to standard output, as JAX draws them")
    return parser


def main() -> int:
    """Runs, or reads, what the arguments name; 1 if something failed."""
    parser = _parser()
    arguments = parser.parse_args()
    # A run that is stopped leaves no battery running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if arguments.emit:
        programs.emit(arguments.emit, arguments.seed)
        return 0
    if arguments.table:
        verdicts.write_table()
        return 0
    if arguments.record:
        battery, order, log = arguments.record
        if battery not in ("practrand", "testu01", "dieharder") or order not in programs.NAMES:
            parser.error(f"no such battery, or no such order: {battery}, {order}")
        # The last of each name: a log of PractRand reports at every power of two.
        found = iter({v.name: v for v in _read(battery, order, log, arguments.seed)}.values())
    else:
        if not (arguments.practrand or arguments.testu01) and not shutil.which("dieharder"):
            parser.error("dieharder is not installed: apt-get install dieharder")
        found = (v for order in arguments.order or ORDERS for v in _run(arguments, order))
    failed, empty = False, True
    for verdict in found:
        words = programs.checksum(verdict.order, verdict.seed)
        verdicts.record(dataclasses.replace(verdict, words=words))
        failed |= verdict.outcome == FAIL
        empty = False
        print(verdict, flush=True)
    if empty:
        parser.error("no result was found")
    return failed


if __name__ == "__main__":
    sys.exit(main())
