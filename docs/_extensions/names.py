"""Code in the text of a page that names something public is a link to its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import jaxdrop
from docs._extensions import docstrings

_BARE = ("variants", "choosing")
"""Pages on which `dropout` alone is this library's; elsewhere it may be Flax's."""


def _target(text: str, page: str) -> str | None:
    """The full name of what `jaxdrop.key(0)`, `mc.predict` or `drop_path` is."""
    name = text.partition("(")[0]
    if name in jaxdrop.__all__ and ("_" in name or page in _BARE):
        name = f"jaxdrop.{name}"
    found = docstrings.targets().get(name)
    # Names of modules and of other libraries are not linked.
    return found if found and text.endswith((name.rpartition(".")[2], ")")) else None


class _Links(SphinxTransform):
    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        page = self.env.docname
        if Path(self.env.doc2path(page)).suffix != ".md":
            return
        for code in [*self.document.findall(nodes.literal)]:
            inside = (nodes.reference, nodes.title, addnodes.pending_xref)
            if isinstance(code.parent, inside):
                continue
            if target := _target(code.astext(), page):
                link = addnodes.pending_xref(
                    "", refdomain="py", reftype="obj", reftarget=target, refdoc=page, refwarn=True
                )
                code.replace_self(link)
                link += code


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(_Links)
    return {"parallel_read_safe": True}
