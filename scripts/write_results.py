#!/usr/bin/env python3
"""Writes the figures of docs/results/*.json into the pages that quote them.

    python scripts/write_results.py           # says what differs; the exit status is then 1
    python scripts/write_results.py --write   # and writes it

Pages have the places marked (`scripts/results/blocks.py`). What has not been measured stays as it
is, and is named. `docs/results.md` is filled while Sphinx builds the site.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from results import blocks, files


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into the pages")
    parser.add_argument(
        "--results", type=Path, default=files.FOLDER, help="folder of the figures (docs/results)"
    )
    options = parser.parse_args()
    runs, differ = files.load(options.results), False
    for run in runs:
        if not run.complete:
            print(f"{run.path.name}: was cut, and is not quoted")
        if run.busy:
            print(f"{run.path.name}: others kept {run.other_work} cores busy; times are rough")
    known = blocks.of_files(runs, options.results)
    for path in blocks.pages():
        before, name = path.read_text(), path.relative_to(blocks.ROOT)
        after, left = blocks.fill(before, known)
        for block in left:
            print(f"{name}: {block} has not been measured, and stays as it is")
        if after != before:
            differ = True
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
            print(f"{name}:", *list(lines)[2:], sep="\n")
            if options.write:
                path.write_text(after)
    return int(differ and not options.write)


if __name__ == "__main__":
    sys.exit(main())
