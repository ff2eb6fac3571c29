"""The site has a place for everything public; and the README is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs._extensions import docstrings

DOCS = Path(__file__).parents[1] / "docs"
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
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"} | {"api/index"}
    assert pages == {line for part in contents for line in part.split() if line[0] != ":"} - {
        "Start",
        "Guides",
        "Uncertainty",
        "Reference",
    }


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


def test_the_readme_takes_a_minute() -> None:
    """Code and the marks of tables are no words."""
    text = re.sub(
        r"(?ms)^```.*?^```|<!--.*?-->|\]\([^)]*\)", "", (DOCS.parent / "README.md").read_text()
    )
    assert len(re.findall(r"\w[\w.\'%]*", text)) <= 700
