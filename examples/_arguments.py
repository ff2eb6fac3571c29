"""The command line of an example."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    made.add_argument("--quick", action="store_true", help=quick)
    return made
