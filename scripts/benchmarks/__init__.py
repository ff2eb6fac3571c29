"""Benchmarks by suite. Each module or package here without a leading underscore is a suite, and
holds `MEASUREMENTS`.
"""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks._figures import Measurement


def names() -> list[str]:
    """The suites there are."""
    return [
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    ]


def measurements(suite: str) -> dict[str, Measurement]:
    """What a suite measures, by name."""
    return {
        measure.__name__: measure
        for measure in importlib.import_module(f"benchmarks.{suite}").MEASUREMENTS
    }
