"""Docstrings are written to be read in a terminal, in Markdown's way. Sphinx reads
reStructuredText, so each is rewritten before it does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

MODULES = (
    "jaxdrop",
    *(f"jaxdrop.{name}" for name in ("nnx", "linen", "masks", "random", "subsets", "schedules")),
    *(f"jaxdrop.{name}" for name in ("audit", "testing", "mc")),
    *(f"jaxdrop.mc.{name}" for name in ("acquisition", "conformal", "metrics", "plots")),
)

_FIELDS = ("attribute", "data", "property")
_written: dict[str, list[str]] = {}

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


def _marked(match: re.Match[str], near: Mapping[str, str]) -> str:
    """Code in one pair of backticks: a link if it is a public name, or one of those that are near,
    and literal text if not. Before other signs that reStructuredText would read, a backslash.
    """
    text, behind = match.groups()
    if text is None:
        return "\\" + match[0]
    name = text.removesuffix("()")
    full = targets().get(name) or near.get(name)
    found = f":py:obj:`{text} <{full}>`" if full else f"``{text}``"
    return found + ("\\ " + behind if behind else "")


def _prose(line: str, near: Mapping[str, str]) -> str:
    return re.sub(r"`([^`]+)`(\w?)|\*|(?<=\w)_(?!\w)", lambda match: _marked(match, near), line)


def neighbors(full: str, obj: Any) -> dict[str, str]:
    """Full names of the objects beside this one in its module, by their last names, which its
    docstring may use alone. Names of its parameters mean these. Since `Dropout` or `relu` may be
    Flax's, in `jaxdrop` only names with an underscore count, in `jaxdrop.nnx` and `.linen` none.
    """
    module = next((each for each in reversed(MODULES) if full.startswith(f"{each}.")), "")
    if module in ("", "jaxdrop.nnx", "jaxdrop.linen"):
        return {}
    parameters = (
        inspect.signature(obj).parameters if inspect.isroutine(obj) or inspect.isclass(obj) else {}
    )
    found = {name.removeprefix(f"{module}."): name for name in _in(module) if name != full}
    return {
        short: name
        for short, name in found.items()
        if short not in parameters and (module != "jaxdrop" or "_" in short)
    }


@functools.cache
def _in(module: str) -> tuple[str, ...]:
    return tuple(name for name in public_names() if name.rpartition(".")[0] == module)


def _apart(lines: list[str]) -> Iterator[str]:
    """Lines, with an entry for each attribute where several share one. Napoleon does so for
    arguments alone.
    """
    rest = [*lines]
    section: int | None = None
    while rest:
        line = rest.pop(0)
        if line.strip() and section is not None and _indent(line) <= section:
            section = None
        if line.strip() == "Attributes:":
            section = _indent(line)
        while section is not None and rest and re.fullmatch(r" +(\w+, )*\w+,", line):
            line = f"{line} {rest.pop(0).lstrip()}"
        shared = re.fullmatch(r"( +)(\w+(?:, \w+)+):(.*)", line) if section is not None else None
        if shared is None:
            yield line
            continue
        more = []
        while rest and rest[0].strip() and _indent(rest[0]) > len(shared[1]):
            more.append(rest.pop(0))
        for name in shared[2].split(", "):
            yield from (f"{shared[1]}{name}:{shared[3]}", *more)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def rewritten(lines: list[str], near: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The docstring in reStructuredText. Backticks may enclose what stands on two lines."""
    found: list[str] = []
    outer, code, blank, table = 0, 0, True, False
    for line in _joined([*_apart(lines)]):
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
            found.append(_prose(line, near) if not line.lstrip().startswith(">>>") else line)
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
    lines[:] = rewritten(lines, neighbors(name, obj))
    if what in _FIELDS:
        _written[name] = [*lines]


def _restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the first line of a field for its type."""
    from sphinx.ext.napoleon import GoogleDocstring

    if what in _FIELDS:
        lines[:] = GoogleDocstring(_written.pop(name), app.config).lines()


def setup(app: Any) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
    return {"parallel_read_safe": True}
