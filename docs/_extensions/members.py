"""What Sphinx does not find out by itself about public values and the fields of classes."""

from __future__ import annotations

import sys
from typing import Any

from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer


def _of_rule(rule: Any) -> str:
    severity = rule.severity.name.lower()
    return f"- `{rule.id}`, `{rule.name}`, {severity}. {rule.title}. {rule.why} Do: {rule.fix}"


def _of_value(full: str, obj: Any) -> list[str]:
    """The docstring of a public value, which stands below it in the module that defines it."""
    if full == "jaxdrop.audit.RULES":
        return ["The rules of `jaxdrop.audit.check`, by id.", "", *map(_of_rule, obj.values())]
    name = full.rpartition(".")[2]
    for module in [each for each in sys.modules if each.startswith("jaxdrop.")]:
        if getattr(sys.modules[module], name, None) is obj:
            documented = ModuleAnalyzer.for_module(module).find_attr_docs()
            if found := documented.get(("", name)):
                return [*found]
    return []


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "data":
        lines[:] = _of_value(name, obj) or lines


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a named tuple say no more than "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    # Before the extension `docstrings`, which rewrites them.
    app.connect("autodoc-process-docstring", _process, priority=300)
    app.connect("autodoc-skip-member", _skip)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True}
