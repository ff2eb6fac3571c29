"""Examples in docstrings run, and every public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import jaxdrop
from docs._extensions import docstrings
from tests.test_imports import MODULES


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Public functions, classes and their public methods that a module defines."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            own = {method: body for method, body in vars(value).items() if inspect.isfunction(body)}
            yield from (
                (f"{module.__name__}.{name}.{method}", body)
                for method, body in own.items()
                if method == "__call__"
                or (not method.startswith("_") and body.__module__ == module.__name__)
            )


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert [path for path, value in public(module) if not (value.__doc__ or "").strip()] == []


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in MODULES if "._" not in name])
def test_everything_listed_exists(name: str) -> None:
    module = importlib.import_module(name)
    for listed in getattr(module, "__all__", ()):
        assert getattr(module, listed) is not None


@pytest.mark.sweep
@pytest.mark.parametrize("name", docstrings.MODULES)
def test_dir_shows_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert {*dir(module)} - {"__version__"} == {*module.__all__}


@pytest.mark.sweep
def test_help_begins_with_what_there_is() -> None:
    listed = {*re.findall(r"\w+", jaxdrop.__doc__ or "")}
    assert {*jaxdrop.__all__} <= listed


def test_some_example_is_found() -> None:
    assert any(test.examples for test in doctest.DocTestFinder().find(jaxdrop))
