#!/usr/bin/env python3
"""Writes texts as tokens into ArrayRecord files, which `scripts/train.py --data FOLDER` streams.

    python scripts/write_tokens.py book.txt more/*.txt --out tokens --length 1024 --files 8
    python scripts/train.py --model transformer --length 1024 --data tokens

Tokens are bytes. For those of a tokenizer, call `training.records.write` with what it returns; see
docs/training.md. Needs jaxdrop[scripts].
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training import records

CHUNK = 2**20


def chunks(paths: Sequence[Path], first: int, last: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes from `first` up to `last` of all files together, one after the other."""
    begin = 0
    for path in paths:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(first - begin, 0))
            while (left := min(last - begin, size) - file.tell()) > 0:
                yield np.frombuffer(file.read(min(left, CHUNK)), np.uint8)
        begin += size


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument("--length", type=int, default=64, help="of windows (default: 64)")
    parser.add_argument("--files", type=int, default=4, help="of training (default: 4)")
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="the share for validation (default: 0.1)"
    )
    options = parser.parse_args(arguments)
    if options.length < 1 or options.files < 1:
        parser.error("--length and --files: must be at least 1")
    if not 0 < options.held_out < 1:
        parser.error(f"--held-out: must be more than 0 and less than 1, got {options.held_out}")
    if missing := [path for path in options.texts if not path.is_file()]:
        parser.error(f"{missing[0]}: there is no such file")
    whole = sum(path.stat().st_size for path in options.texts)
    cut = round(whole * (1 - options.held_out))
    try:
        counts = records.write(
            options.out,
            {
                "training": chunks(options.texts, 0, cut),
                "validation": chunks(options.texts, cut, whole),
            },
            length=options.length,
            classes=256,
            files=options.files,
        )
    except ValueError as error:
        parser.error(str(error))
    print(", ".join(f"{count} records for {part}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
