"""The command line of an example."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


class _Quick(argparse.Action):
    """Sets the option, and says what is less, so that nobody takes a trial for a result."""

    def __call__(self, parser: Any, options: argparse.Namespace, *_: Any) -> None:
        options.quick = True
        print(f"--quick ({self.help}): too short to judge dropout by", flush=True)


def parser(doc: str | None, file: str, quick: str) -> argparse.ArgumentParser:
    """A parser with the options that all examples have.

    Args:
      doc: the example's docstring.
      file: the example's `__file__`.
      quick: what is less with `--quick`.
    """
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = Path("out") / Path(file).stem
    made.add_argument(
        "--out", type=Path, default=out, help=f"folder for the figures (default: {out})"
    )
    made.add_argument("--quick", action=_Quick, nargs=0, default=False, help=quick)
    return made
