"""Parts of pages that figures are written into: what stands between the marks

    <!-- results: NAME -->...<!-- end of results -->

`scripts/write_results.py` writes those of pages that are also read as files, such as the README.
While Sphinx builds the site, all marked pages are filled again, `docs/results.md` among them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from results import experiment, page, summaries
from results.files import FOLDER, Figures, Run

ROOT = Path(__file__).parents[2]
_MARKED = re.compile(r"(?s)(<!-- results: ([\w-]+) -->)(.*?)(<!-- end of results -->)")
Block = Callable[[], str | None]
"""None if what it shows has not been measured."""


def of_files(runs: list[Run], folder: Path = FOLDER) -> dict[str, Block]:
    """Blocks of pages that stand in the repository, from the files of a folder."""
    known = Figures(runs, folder)
    return {name: functools.partial(make, known) for name, make in summaries.BLOCKS.items()}


def pictures(plots: Path, folder: Path = FOLDER) -> dict[str, Block]:
    """Pictures of pages, drawn into a folder of the site while Sphinx builds it."""
    return {"ways-picture": lambda: experiment.picture(folder, plots)}


def of_site(runs: list[Run], suites: list[str], draw: page.Drawn | None) -> dict[str, Block]:
    """Blocks of `docs/results.md`."""
    return {
        "provenance": lambda: page.provenance(runs, suites),
        "worst": lambda: page.worst(runs),
        "over-bounds": lambda: page.over_bounds(runs),
        "bars": lambda: page.bars(runs),
        "growth": lambda: page.growth(runs, draw),
        "suites": lambda: page.suites(runs),
    }


def fill(text: str, blocks: Mapping[str, Block]) -> tuple[str, list[str]]:
    """The page with what the blocks show now, and the names of those that have no figures and stay
    as they are. Blocks of another kind are left alone.
    """
    left = []

    def filled(match: re.Match[str]) -> str:
        begin, name, before, end = match.groups()
        if name not in blocks:
            return match[0]
        made = blocks[name]()
        if made is None:
            left.append(name)
            return match[0]
        # A table is a block of Markdown of its own, and a number a part of its sentence.
        lines = "\n" in made or "\n" in before
        return f"{begin}\n\n{made}\n\n{end}" if lines else begin + made + end

    return _MARKED.sub(filled, text), left


def pages() -> list[Path]:
    """All pages that have such marks. A built site has copies, which are not written."""
    sources = (path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    every = [ROOT / "README.md", *sorted(sources)]
    return [path for path in every if "<!-- results: " in path.read_text()]


def names(text: str) -> list[str]:
    """The blocks of a page."""
    return [match[2] for match in _MARKED.finditer(text)]
