"""The site has a place for everything public; and the README is short."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdrop
import jaxdrop.mc
from docs._extensions import docstrings
from scripts import pages

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
pytestmark = pytest.mark.sweep


def listed() -> set[str]:
    """The names on the pages of the reference."""
    found = set()
    for page in (DOCS / "api").glob("*.md"):
        for module, names in re.findall(
            r"currentmodule:: (\S+)\n.*?:nosignatures:\n\n(.*?)```", page.read_text(), re.DOTALL
        ):
            found |= {f"{module}.{name}" for name in names.split()}
    return found


def test_every_public_name_has_a_page() -> None:
    # One object has one page, under its shorter name.
    assert {*docstrings.public_names()} - {"jaxdrop.masks.Part"} == listed()


def test_every_page_is_in_the_contents() -> None:
    contents = re.findall(r"(?ms)^```{toctree}\n(.*?)^```", (DOCS / "index.md").read_text())
    found = {page.stem for page in DOCS.glob("*.md")} - {"index"} | {"api/index"}
    found |= {f"tutorials/{page.stem}" for page in TUTORIALS}
    assert found == {line for part in contents for line in part.split() if line[0] != ":"} - {
        "Start",
        "Tutorials",
        "Guides",
        "Uncertainty",
        "Reference",
    }


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_code_of_tutorials_is_formatted(page: Path) -> None:
    """Ruff finds blocks of Python in Markdown, but not the cells of MyST; it does read notebooks.

    A page shows 79 characters of a line.
    """
    pytest.importorskip("ruff")
    cells = [
        {"cell_type": "code", "id": f"{number}", "metadata": {}, "outputs": [], "source": code}
        | {"execution_count": None}
        for number, code in enumerate(pages.cells(page.read_text()))
    ]
    assert cells
    about = {"metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    for command in (["check"], ["format", "--diff", "--line-length", "79"]):
        name = ["--stdin-filename", f"{page.stem}.ipynb"]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *name, "-"],
            input=json.dumps({"cells": cells, **about}),
            capture_output=True,
            cwd=DOCS.parent,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorial_has_the_series_of_the_example() -> None:
    """A notebook that a reader runs alone brings its data."""
    numbers = re.findall(r"\b\d{3}\.\d\d\b", (DOCS / "tutorials" / "forecast.md").read_text())
    example = (DOCS.parent / "examples" / "_co2.py").read_text()
    assert numbers == re.findall(r"\b\d{3}\.\d\d\b", example)


def test_docstrings_are_rewritten() -> None:
    assert docstrings.rewritten(
        [
            "`a` is x*y, see `jaxdrop.drop_path` and `b`s.",
            "",
            "    code(`1`)",
            "",
            "Broken `a",
            "b`.",
        ]
    ) == [
        "``a`` is x\\*y, see :py:obj:`jaxdrop.drop_path <jaxdrop.drop_path>` and ``b``\\ s.",
        "",
        ".. code-block:: python",
        "",
        "    code(`1`)",
        "",
        "Broken",
        "``a b``.",
    ]


def test_attributes_that_share_a_text_have_an_entry_each() -> None:
    text = [
        "Attributes:",
        "  a, b,",
        "    c: as in `d`,",
        "    which see.",
        "  e: one.",
        "",
        "f, g: h",
    ]
    assert docstrings.rewritten(text) == [
        "Attributes:",
        *[
            f"  {name}: as in ``d``," if line == 0 else "    which see."
            for name in "abc"
            for line in (0, 1)
        ],
        "  e: one.",
        "",
        "f, g: h",
    ]


def test_docstrings_link_their_neighbors_but_no_parameters() -> None:
    near = docstrings.neighbors("jaxdrop.mc.metrics.ece", jaxdrop.mc.metrics.ece)
    assert near["reliability"] == "jaxdrop.mc.metrics.reliability"
    assert "ece" not in near
    near = docstrings.neighbors("jaxdrop.dropout", jaxdrop.dropout)
    assert near["drop_path"] == "jaxdrop.drop_path"
    assert {"key", "zoneout"}.isdisjoint(near)


def test_the_readme_takes_a_minute() -> None:
    """Code and the marks of tables are no words."""
    text = re.sub(
        r"(?ms)^```.*?^```|<!--.*?-->|\]\([^)]*\)", "", (DOCS.parent / "README.md").read_text()
    )
    assert len(re.findall(r"\w[\w.\'%]*", text)) <= 700
