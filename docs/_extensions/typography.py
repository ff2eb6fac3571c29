"""Numbers that stay with their units, powers above the line, and papers that are links: in the
text of pages and of docstrings, not in code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_UNITS = r"%|B|[KMGT]iB|s|ms|[uµn]s|M|x|±|GB|bits?|bytes?|cores?|tests|nats|ppm|thousand|million"
_SPACES = re.compile(
    rf"(?<=\d) (?=(?:{_UNITS})(?![\w/]))|(?<= [x±]) (?=\d)|(?<=[≤≥=<>]) (?=\d)|(?<=\b[np]) (?==)"
)
_PARTS = re.compile(r"(?<=[\w)])(?:\^|\*\*)(?P<power>-?\d+)|(?P<paper>arXiv:\d{4}\.\d{4,5})\b")
_AS_IT_IS = (nodes.literal, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block)


def _parts(text: str, linked: bool) -> Iterator[nodes.Node]:
    """The text, with powers as superscripts, and links if it stands in none."""
    at = 0
    for match in _PARTS.finditer(text):
        if match["paper"] and linked:
            continue
        yield nodes.Text(text[at : match.start()])
        if match["power"]:
            yield nodes.superscript("", match["power"].replace("-", "\N{MINUS SIGN}"))
        else:
            address = f"https://arxiv.org/abs/{match['paper'].removeprefix('arXiv:')}"
            yield nodes.reference("", match["paper"], refuri=address, internal=False)
        at = match.end()
    yield nodes.Text(text[at:])


class _Typography(SphinxPostTransform):
    """Runs last, so that what looks for a text finds it as it was written."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for text in [*self.document.findall(nodes.Text)]:
            above = [*_ancestors(text)]
            if any(isinstance(node, _AS_IT_IS) for node in above):
                continue
            linked = any(isinstance(node, (nodes.reference, nodes.title)) for node in above)
            # Two spaces can share a number: "4 x 5 x 6".
            joined = _SPACES.sub("\N{NO-BREAK SPACE}", _SPACES.sub("\N{NO-BREAK SPACE}", text))
            found = [part for part in _parts(joined, linked) if part.astext()]
            text.parent.replace(text, found)


def _ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while (node := node.parent) is not None:
        yield node


def setup(app: Any) -> dict[str, Any]:
    app.add_post_transform(_Typography)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
