"""Docstrings are written to be read in a terminal, in Markdown's way. Sphinx reads
reStructuredText, so each is rewritten before it does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

MODULES = (
    "jaxdrop",
    *(f"jaxdrop.{name}" for name in ("nnx", "linen", "masks", "random", "subsets", "schedules")),
    *(f"jaxdrop.{name}" for name in ("audit", "testing", "mc")),
    *(f"jaxdrop.mc.{name}" for name in ("acquisition", "conformal", "metrics", "plots")),
)

# `nnx.Dropout` without the library's name in front may be Flax's.
_FLAX = ("nnx.", "linen.")


def public_names() -> Iterator[str]:
    """The full name of all that is public, modules excepted."""
    for name in MODULES:
        module = importlib.import_module(name)
        for each in module.__all__:
            if not inspect.ismodule(getattr(module, each)):
                yield f"{name}.{each}"


@functools.cache
def targets() -> dict[str, str]:
    """What docstrings call a thing, and its full name."""
    found = {}
    for name in public_names():
        found[name] = name
        short = name.removeprefix("jaxdrop.")
        if not short.startswith(_FLAX) and "." in short:
            found[short] = name
    return found


def _marked(match: re.Match[str]) -> str:
    """Code in one pair of backticks: a link if it is a public name, and literal text if not. Before
    other signs that reStructuredText would read, a backslash.
    """
    text, behind = match.groups()
    if text is None:
        return "\\" + match[0]
    full = targets().get(text.removesuffix("()"))
    found = f":py:obj:`{text} <{full}>`" if full else f"``{text}``"
    return found + ("\\ " + behind if behind else "")


def _prose(line: str) -> str:
    return re.sub(r"`([^`]+)`(\w?)|\*|(?<=\w)_(?!\w)", _marked, line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def rewritten(lines: list[str]) -> list[str]:
    """The docstring in reStructuredText. Backticks may enclose what stands on two lines."""
    found: list[str] = []
    outer, code, blank, table = 0, 0, True, False
    for line in _joined(lines):
        if not line.strip():
            found.append("")
            blank, table = True, False
            continue
        indent = _indent(line)
        if code and indent < code:
            code = 0
        if not code and blank and indent >= outer + 4 and not line.lstrip().startswith(">>>"):
            code = indent
            found += [" " * outer + ".. code-block:: python", ""]
        if re.fullmatch(r" *=+( +=+)+", line):
            table = True
            found.append(line)
        elif code or table:
            found.append(line)
        else:
            outer = indent
            found.append(_prose(line) if not line.lstrip().startswith(">>>") else line)
        blank = False
    return found


def _joined(lines: list[str]) -> list[str]:
    """Lines, with code that is broken over two of them on the second one."""
    found: list[str] = []
    rest = ""
    for line in lines:
        if rest:
            line = " " * _indent(line) + rest + " " + line.lstrip()
            rest = ""
        if line.count("`") % 2:
            at = line.rindex("`")
            if line[:at].strip():
                line, rest = line[:at].rstrip(), line[at:]
            else:
                line, rest = "", line.strip()
                continue
        found.append(line)
    return found + ([rest] if rest else [])


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = (
        ["The rules of `jaxdrop.audit.check`."] if name.endswith(".RULES") else rewritten(lines)
    )


def setup(app: Any) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True}
