"""The pictures of the pages, drawn by the library itself before Sphinx reads them.

    ```{picture} entries
    :alt: A photograph, and the same under five kinds of dropout
    ```

shows `entries` in the colors of the theme that the reader has chosen. `:typical:` shows one of its
parts alone.

Pictures are drawn when the site is made and are not under version control: they follow the library,
and versions of matplotlib differ in a file's bytes. The one that README.md shows is.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from . import graphs, images, masks, models, sequences
from .panels import THEMES, Panels

FAMILIES = {
    "entries": images.entries,
    "regions": images.regions,
    "paths": models.paths,
    "tokens": sequences.tokens,
    "recurrent": sequences.recurrent,
    "attention": sequences.attention,
    "weights": models.weights,
    "learned": models.learned,
    "graphs": graphs.graphs,
}
_FOLDER = "pictures"


class Picture(SphinxDirective):
    """A picture, light and dark, of which a browser shows one."""

    required_arguments = 1
    option_spec = {  # noqa: RUF012, which docutils reads
        "alt": directives.unchanged_required,
        "typical": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in FAMILIES or "alt" not in self.options:
            raise self.error(f"needs :alt:, and one of {sorted(FAMILIES)}, got {name!r}")
        stem = f"/_static/{_FOLDER}/{name}{'-typical' if 'typical' in self.options else ''}"
        return [
            nodes.image(
                uri=f"{stem}-{theme}.png", alt=self.options["alt"], classes=[f"only-{theme}"]
            )
            for theme in THEMES
        ]


def draw(app: Any) -> None:
    folder = masks.STATIC / _FOLDER
    folder.mkdir(exist_ok=True)
    for name, family in FAMILIES.items():
        panels: Panels = family()
        for theme, colors in THEMES.items():
            with mpl.rc_context(colors.style()):
                panels.figure(colors).savefig(folder / f"{name}-{theme}.png")
                panels.typical(colors).savefig(folder / f"{name}-typical-{theme}.png")
    # The name of the version would change a file that is under version control.
    masks.masks().savefig(masks.STATIC / "masks.png", metadata={"Software": None})


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("picture", Picture)
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
