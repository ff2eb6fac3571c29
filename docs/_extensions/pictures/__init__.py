"""The pictures of the pages, drawn by the library itself before Sphinx reads them.

    ```{picture} elements
    :alt: A photograph, and the same under five kinds of dropout
    ```

shows `elements` in the colors of the theme that the reader has chosen. `{gallery}` shows one part
of each, with a link to its page.

Pictures are drawn when the site is made and are not under version control: they follow the library,
and versions of matplotlib differ in a file's bytes. The one that README.md shows is, and
`scripts/write_picture.py` draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from . import diagrams, graphs, images, models, sequences
from .panels import THEMES, Panels


class Family(NamedTuple):
    """A kind of dropout."""

    panels: Callable[[], Panels]
    title: str
    alt: str
    """Of the part that stands in the gallery."""


# By the names of their pages in docs/api/.
FAMILIES = {
    "elements": Family(images.elements, "Entries", "A photograph without some pixels"),
    "regions": Family(images.regions, "Images", "A photograph with blocks dropped"),
    "paths": Family(models.paths, "Paths and layers", "Branches by example and layer"),
    "tokens": Family(sequences.tokens, "Tokens", "Half of a photograph's patches"),
    "recurrent": Family(sequences.recurrent, "Recurrent", "States over time"),
    "attention": Family(sequences.attention, "Attention", "Attention with holes"),
    "weights": Family(models.weights, "Weights", "Weights of four classes"),
    "learned": Family(models.learned, "Learned rates", "A rate for each pixel"),
    "graphs": Family(graphs.graphs, "Graphs", "A graph with edges dropped"),
}
_STATIC = Path(__file__).parents[2] / "_static"
_FOLDER = "pictures"


def _shown(stem: str, alt: str) -> list[nodes.Node]:
    """The light and the dark file of a picture; the theme shows one of them."""
    return [
        nodes.image(
            uri=f"/_static/{_FOLDER}/{stem}-{theme}.png", alt=alt, classes=[f"only-{theme}"]
        )
        for theme in THEMES
    ]


class Picture(SphinxDirective):
    """The picture of a family."""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012, which docutils reads

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in FAMILIES or "alt" not in self.options:
            raise self.error(f"needs :alt:, and one of {sorted(FAMILIES)}, got {name!r}")
        return _shown(name, self.options["alt"])


class Gallery(SphinxDirective):
    """A strip of all families."""

    def run(self) -> list[nodes.Node]:
        strip = nodes.container(classes=["gallery"])
        above = "../" * self.env.docname.count("/")
        for name, family in FAMILIES.items():
            # Sphinx keeps only the text of a reference that it resolves itself, so the address is
            # written out.
            link = nodes.reference(
                "",
                "",
                *_shown(f"{name}-typical", family.alt),
                nodes.inline("", family.title),
                refuri=f"{above}api/{name}.html",
                internal=True,
            )
            strip += nodes.paragraph("", "", link)
        return [strip]


def draw(app: Any) -> None:
    folder = _STATIC / _FOLDER
    folder.mkdir(exist_ok=True)
    diagrams.figure().savefig(folder / "diagrams.png", dpi=160)
    for name, family in FAMILIES.items():
        panels = family.panels()
        for theme, colors in THEMES.items():
            with mpl.rc_context(colors.style()):
                panels.figure(colors).savefig(folder / f"{name}-{theme}.png")
                panels.typical(colors).savefig(folder / f"{name}-typical-{theme}.png")


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("picture", Picture)
    app.add_directive("gallery", Gallery)
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
