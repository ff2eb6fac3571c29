"""Tables and code that fit a phone: `_static/site.css` has the rules."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

_SENTENCE = 30
"""Cells of more letters are read, and need the width of a phone; others are compared in columns."""


class _Prose(SphinxTransform):
    """Tables of sentences have a class, by which a phone shows their cells one below the other."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for table in self.document.findall(nodes.table):
            rows = [
                [len(cell.astext()) for cell in row.findall(nodes.entry)]
                for row in table.findall(nodes.row)
            ]
            longest = [max(column) for column in zip(*rows, strict=True)] if rows else []
            if sum(length > _SENTENCE for length in longest) >= 2:
                table["classes"].append("prose")


def _breakable(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Lets a browser break inline code behind the signs at which a reader would."""
    if body := context.get("body"):
        context["body"] = re.sub(
            r'(?<=<span class="pre">)[^<]{12,}',
            lambda code: re.sub(r"(?<=\w)([._(/=])(?=\w)", r"\1<wbr>", code[0]),
            body,
        )


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(_Prose)
    app.connect("html-page-context", _breakable)
    return {"parallel_read_safe": True}
