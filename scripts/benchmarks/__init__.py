"""Benchmarks by suite. Each module or package here without a leading underscore is a suite, and
holds `MEASUREMENTS`; and `DEVICES`, if it needs that many devices of a CPU.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path

from benchmarks._figures import Measurement

# In order of value: where time runs out, the last ones are not reached.
_ORDER = ("core", "attention", "mc", "training", "growth", "devices", "recurrent", "compute")


def names() -> list[str]:
    """The suites there are, the most valuable ones first."""
    found = [
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    ]
    return sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def measurements(suite: str) -> dict[str, Measurement]:
    """What a suite measures, by name."""
    return {
        measure.__name__: measure
        for measure in importlib.import_module(f"benchmarks.{suite}").MEASUREMENTS
    }


def about(suite: str) -> str:
    """What a suite measures, in a sentence or two, by its docstring. Nothing is imported."""
    found = importlib.util.find_spec(f"benchmarks.{suite}")
    source = Path(str(found and found.origin)).read_text()
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split())


def devices_of(suite: str) -> int | None:
    """How many devices of a CPU a suite needs, if it is more than one."""
    return getattr(importlib.import_module(f"benchmarks.{suite}"), "DEVICES", None)
