"""Offers the pages that are notebooks as `.ipynb`, among the downloads of sphinx-book-theme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def _offer(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Puts the notebook that MyST-NB wrote, without outputs, where the theme's button looks."""
    name = f"{page}.ipynb"
    executed = Path(app.outdir).parent / "jupyter_execute" / name
    if doctree and executed.exists():
        source = Path(app.outdir) / "_sources" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        notebook = json.loads(executed.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        source.write_text(json.dumps(notebook, indent=1))
        context["ipynb_source"] = name


def setup(app: Any) -> dict[str, Any]:
    # Before the theme, which makes its buttons from the context.
    app.connect("html-page-context", _offer, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
