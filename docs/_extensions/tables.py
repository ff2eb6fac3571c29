"""Tables, code and long names that fit a phone: `_static/site.css` has the rules."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

_SENTENCE = 30
"""Cells of more letters are read, and need the width of a phone; others are compared in columns."""
_BREAKS = re.compile(r"(?<=\w)([._(/=])(?=\w)")
_WORD = 18
"""Cells and code of fewer letters, such as a date or a number with its unit, stay on one line."""


class _Tables(SphinxTransform):
    """Tables of sentences have a class, by which a phone shows their cells one below the other,
    each with the head of its column. Short cells have one that keeps them on a line. A row of heads
    without a text goes.
    """

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for table in self.document.findall(nodes.table):
            rows = [[*row.findall(nodes.entry)] for row in table.findall(nodes.row)]
            columns = [*zip(*rows, strict=True)] if rows else []
            for cell in (cell for row in rows for cell in row):
                if len(cell.astext()) <= _WORD and not isinstance(cell.parent.parent, nodes.thead):
                    cell["classes"].append("short")
            longest = [max(len(cell.astext()) for cell in column) for column in columns]
            prose = sum(length > _SENTENCE for length in longest) >= 2
            for head in [*table.findall(nodes.thead)]:
                if not head.astext().strip():
                    head.parent.remove(head)
                elif prose:
                    _label(columns)
            if prose:
                table["classes"].append("prose")


def _label(columns: list[tuple[nodes.Element, ...]]) -> None:
    """Writes the head of each column but the first, whose cells are titles, into its cells."""
    for head, *cells in columns[1:]:
        for cell in cells:
            if cell.astext().strip() and isinstance(cell[0], nodes.paragraph) and head.astext():
                cell[0].insert(0, nodes.inline("", f"{head.astext()}: ", classes=["column"]))


def _breakable(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Lets a browser break long names and inline code behind the signs at which a reader would."""
    if body := context.get("body"):
        context["body"] = re.sub(
            r'(?:(?<=<span class="pre">)|(?<=<h1>))[^<]{17,}',
            lambda text: _BREAKS.sub(r"\1<wbr>", text[0]),
            body,
        )
    for place in ("prev", "next"):
        if page_there := context.get(place):
            context[place] = page_there | {"title": _BREAKS.sub(r"\1<wbr>", page_there["title"])}


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(_Tables)
    app.connect("html-page-context", _breakable)
    return {"parallel_read_safe": True}
