"""Scripts of single pages: the mask that the page of the idea computes, and the search."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_PORT = Path(__file__).parents[2] / "examples" / "ports" / "jaxdrop.mjs"
_MASK = Path(__file__).with_name("live_mask.js")


class LiveMask(SphinxDirective):
    """The script of the live mask, with the port that it imports, inside of the page: a browser
    loads no modules for a page that is opened as a file.
    """

    def run(self) -> list[nodes.Node]:
        for path in (_PORT, _MASK):
            self.env.note_dependency(str(path))
        port = re.sub(r"(?m)^export ", "", _PORT.read_text())
        mask = re.sub(r"(?m)^import .*\n", "", _MASK.read_text())
        return [nodes.raw("", f'<script type="module">\n{port}\n{mask}</script>', format="html")]


def _search(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    if page == "search":
        app.add_js_file("search.js", loading_method="defer")


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("live-mask", LiveMask)
    app.connect("html-page-context", _search)
    return {"parallel_read_safe": True}
