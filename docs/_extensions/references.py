"""The bibliography, from the file that `jaxdrop.citation` reads: the directive `references`."""

from __future__ import annotations

import html
import importlib
import re
import unicodedata
from typing import Any
from urllib.parse import quote

from docs._extensions.docstrings import public_names
from jaxdrop._references import Entry, entries, references_of

_ACCENTS = {"'": "\u0301", "`": "\u0300", '"': "\u0308", "c": "\u0327"}


def plain(text: str) -> str:
    """LaTeX's accents as letters, without its braces and dollars."""

    def letter(match: re.Match[str]) -> str:
        return unicodedata.normalize("NFC", match[2] + _ACCENTS[match[1]])

    text = re.sub(r"\\(['`\"c])\{?(\w)\}?", letter, text.replace(r"\L", "Ł"))
    return re.sub(r"[{}$]", "", text)


def authors(entry: Entry) -> str:
    """Names, the last one behind an ampersand; of more than ten, the first."""
    if entry.fields["author"].startswith("{"):
        return plain(entry.fields["author"])
    names = [
        " ".join(reversed(name.split(", ")))
        for name in plain(entry.fields["author"]).split(" and ")
    ]
    if len(names) > 10:
        return f"{names[0]} et al."
    return " & ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def line(entry: Entry, users: list[str]) -> str:
    """An entry in Markdown."""
    fields = {name: plain(value) for name, value in entry.fields.items()}
    where = [fields.get(name) for name in ("journal", "booktitle", "school", "publisher")]
    place = next((each for each in where if each and not each.startswith("arXiv")), "")
    volume = fields.get("volume", "") + (f"({fields['number']})" if "number" in fields else "")
    links = [
        ("doi", "doi:{}", "https://doi.org/{}"),
        ("eprint", "arXiv:{}", "https://arxiv.org/abs/{}"),
        ("url", "link", "{}"),
    ]
    found = [
        f"[{html.escape(text.format(value))}](<{target.format(quote(value, safe=':/()._-?=&'))}>)"
        for name, text, target in links
        if (value := entry.fields.get(name))
    ]
    source = f"*{place}* {volume}".rstrip() + ", " if place else ""
    title = fields["title"] + ("" if fields["title"].endswith("?") else ".")
    return (
        f"- {authors(entry)}, **{title}** {source}{fields['year']}. {', '.join(found)}"
        + f"{'. ' if found else ''}"
        + ", ".join(f"{{py:obj}}`{name}`" for name in users)
    )


def lines() -> list[str]:
    """The bibliography, by the names of the first authors, with the functions that stand on each
    work, and the layers that are no function.
    """
    users: dict[str, list[str]] = {key: [] for key in entries() if key != "jaxdrop"}
    for name in public_names():
        module, _, short = name.rpartition(".")
        one = getattr(importlib.import_module(module), short)
        if module != "jaxdrop.linen" and not hasattr(one, "_function"):
            for key in references_of(one).works():
                users[key].append(name)
    return [line(entries()[key], names) for key, names in users.items()]


def setup(app: Any) -> dict[str, Any]:
    # Only where the site is made is docutils installed.
    from docutils import nodes
    from docutils.parsers.rst import Directive
    from docutils.statemachine import StringList

    class References(Directive):
        def run(self) -> list[nodes.Node]:
            node = nodes.container()
            self.state.nested_parse(StringList(lines(), source="references.bib"), 0, node)
            return node.children

    app.add_directive("references", References)
    return {"parallel_read_safe": True}
