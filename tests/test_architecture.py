"""Who may import whom, and what is public.

A room is a module or a package directly in `jaxdrop`. Data flows one way, from layers down to bits:
a room imports rooms on lower floors only, and of another room only what that room says is public.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from scripts import check_mutants
from tests.test_imports import FILES, MODULES, PACKAGE

pytestmark = pytest.mark.sweep

SOURCES = dict(zip(MODULES, FILES, strict=True))

# The lowest floor first. Rooms on one floor do not import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_source_lines",),
    (
        "_checks",
        "_compiler",
        "_elsewhere",
        "_equations",
        "_in_full",
        "_kernel",
        "_layouts",
        "_leaf_names",
        "_lengths",
        "_numerics",
        "_optional",
        "_references",
        "_shapes",
        "_tables",
        "_variates",
    ),
    ("_citation", "_mapped_axes", "schedules"),
    ("random",),
    ("_key_types", "masks"),
    ("subsets",),
    ("functional",),
    ("layers",),
    ("_mc_dropout", "_replacing"),
    ("audit", "linen", "mc", "nnx"),
    ("testing",),
    ("_serialization",),
    ("__init__",),
)

# Private modules that another room imports, with the reason. An entry that is needed no more fails.
PRIVATE_IMPORTS: dict[str, set[str]] = {
    # Pickled keys in files name this module.
    "jaxdrop._key_types": {"jaxdrop.random._key_types"},
    # The coordinates of a mask are made without a key, by the arithmetic of positions.
    "jaxdrop.masks._placement": {"jaxdrop.random._positions"},
    # A kernel of Pallas takes no keys, and draws its bits by the arithmetic of `random`.
    "jaxdrop.functional.attention._flat": {"jaxdrop.random._drawing", "jaxdrop.random._positions"},
    "jaxdrop.functional.attention._problem": {
        "jaxdrop.random._positions",
        "jaxdrop.random._words",
    },
    # `mc.keys` is the public face of the keys of samples.
    "jaxdrop.mc._sampling": {"jaxdrop.random._samples"},
}

# Public modules that do not yet say what is public. An entry that is needed no more fails.
WITHOUT_ALL: set[str] = set()

# Files of more than 300 lines. An entry that is needed no more fails.
TOO_LONG: set[str] = set()


class Import(NamedTuple):
    """A module that a file imports, and the names that it takes from it."""

    module: str
    names: frozenset[str]


def imports(tree: ast.Module) -> Iterator[Import]:
    """The imports of a file from this package, each with what is used of it."""
    used: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxdrop":
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                if module in SOURCES:
                    yield Import(module, frozenset(used.get(alias.asname or alias.name, ())))
                else:
                    yield Import(str(node.module), frozenset([alias.name]))
        elif isinstance(node, ast.Import):
            yield from (
                Import(alias.name, frozenset())
                for alias in node.names
                if alias.name.split(".")[0] == "jaxdrop"
            )


def imports_of(module: str) -> list[Import]:
    return list(imports(ast.parse(SOURCES[module].read_text())))


def room(module: str) -> str:
    """The part of the name behind `jaxdrop`; `__init__` for `jaxdrop` itself."""
    return [*module.split("."), "__init__"][1]


def upward(importer: str, found: list[Import]) -> set[str]:
    """The imported modules that do not stand on a lower floor."""
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms}
    here = room(importer)
    return {
        module for module, _ in found if room(module) != here and floor[room(module)] >= floor[here]
    }


def is_within(importer: str, package: str) -> bool:
    return f"{importer}.".startswith(f"{package}.")


def private(importer: str, found: list[Import]) -> set[str]:
    """The imported modules that are private to a package that the importer is not part of."""
    hidden = set()
    for module, names in found:
        parts = module.split(".")
        first = next((at for at, part in enumerate(parts) if part.startswith("_")), None)
        if first is not None and not is_within(importer, ".".join(parts[:first])):
            hidden.add(module)
        if any(name.startswith("_") and not name.startswith("__") for name in names) and not (
            is_within(importer, module)
        ):
            hidden.add(module)
    return hidden


def unlisted(importer: str, found: list[Import]) -> set[str]:
    """The names that the importer takes from another room, and that it does not list as public."""
    return {
        f"{module}.{name}"
        for module, names in found
        if room(module) != room(importer)
        for name in names
        if name not in getattr(importlib.import_module(module), "__all__", [name])
    }


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} == {name for rooms in FLOORS for name in rooms}


def broken(rule: Callable[[str, list[Import]], set[str]]) -> dict[str, set[str]]:
    """What breaks a rule, by the module that imports it."""
    found = {module: rule(module, imports_of(module)) for module in MODULES}
    return {module: imported for module, imported in found.items() if imported}


def test_imports_go_down() -> None:
    assert broken(upward) == {}


def test_private_modules_stay_in_their_room() -> None:
    assert broken(private) == PRIVATE_IMPORTS


def test_rooms_take_from_each_other_what_is_listed() -> None:
    assert broken(unlisted) == {}


@pytest.mark.parametrize(
    ("importer", "code", "rule"),
    [
        ("jaxdrop.masks", "from jaxdrop.functional import elements", upward),
        ("jaxdrop.random._keys", "from jaxdrop import _checks, masks", upward),
        ("jaxdrop.nnx._layers", "from jaxdrop.linen.recurrent import RNN", upward),
        ("jaxdrop.mc", "import jaxdrop.nnx", upward),
        ("jaxdrop.functional.paths", "from jaxdrop.random import _words", private),
        ("jaxdrop.mc._inputs", "from jaxdrop.random._keys import fast", private),
        ("jaxdrop.mc._inputs", "from jaxdrop.random import fast, _extend", private),
        ("jaxdrop.functional.paths", "from jaxdrop import masks\nmasks._GRID", private),
        ("jaxdrop.mc._sampling", "from jaxdrop.random import gumbel", unlisted),
        ("jaxdrop.functional.paths", "from jaxdrop import masks\nmasks.materialize(x)", unlisted),
    ],
)
def test_the_rules_see_what_breaks_them(importer: str, code: str, rule: object) -> None:
    found = list(imports(ast.parse(code)))
    rules = (upward, private, unlisted)
    assert [check for check in rules if check(importer, found)][:1] == [rule]


PUBLIC = [module for module in MODULES if "._" not in module]


def test_every_public_module_says_what_is_public() -> None:
    missing = {name for name in PUBLIC if not hasattr(importlib.import_module(name), "__all__")}
    assert missing == WITHOUT_ALL


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in WITHOUT_ALL])
def test_what_is_listed_exists_and_what_looks_public_is_listed(name: str) -> None:
    module = importlib.import_module(name)
    listed = module.__all__
    assert len(listed) == len(set(listed))
    assert [entry for entry in listed if not hasattr(module, entry)] == []
    public = {
        entry
        for entry, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
        and not entry.startswith("_")
    }
    assert public <= set(listed)


def test_no_file_is_long() -> None:
    long = {
        str(file.relative_to(PACKAGE)) for file in FILES if len(file.read_text().splitlines()) > 300
    }
    assert long == TOO_LONG


def test_mutants_of_every_module_have_tests() -> None:
    """`scripts/check_mutants.py` stops at a module for which it has none."""
    for path in FILES:
        assert check_mutants.tests(path.relative_to(PACKAGE.parent))
