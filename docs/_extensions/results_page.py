"""Writes the figures of docs/results/*.json into pages, and draws them, while Sphinx reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmarks
from results import blocks, files, plots

# In `_build`, which Git ignores and where Sphinx looks for no pages.
PLOTS = Path("_build", "plots")


def filled(text: str, folder: Path, source: Path) -> str:
    """A page with the figures of a folder; pictures go below `source`."""
    runs = files.load(folder)

    def draw(table: Any, name: str) -> dict[str, str]:
        paths = plots.save(table, source / PLOTS, name)
        return {theme: f"/{path.relative_to(source)}" for theme, path in paths.items()}

    known = blocks.of_files(runs, folder) | blocks.of_site(runs, benchmarks.names(), draw)
    known |= blocks.pictures(source / PLOTS, folder)
    return blocks.fill(text, known)[0]


def _read(app: Any, name: str, source: list[str]) -> None:
    if "<!-- results: " not in source[0]:
        return
    folder = Path(app.config.results_folder)
    for path in folder.glob("*.json"):
        app.env.note_dependency(str(path))
    source[0] = filled(source[0], folder, Path(app.srcdir))


def setup(app: Any) -> dict[str, Any]:
    app.add_config_value("results_folder", str(files.FOLDER), "env")
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
