"""Old names warn where the user stands, and go when their version comes."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from docs._extensions.docstrings import rewritten
from jaxdrop._checks import (
    Renamed,
    _deprecation,
    deprecated,
    overdue,
    renamed_argument,
    renamed_names,
)
from jaxdrop.layers import regions
from tests.test_imports import MODULES

WHEN = {"since": "0.2", "removal": "0.4"}


def test_nothing_is_overdue() -> None:
    for name in MODULES:
        importlib.import_module(name)
    assert overdue(jaxdrop.__version__) == []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Deprecations of the tests stay among them."""
    noted: list[Any] = []
    monkeypatch.setattr(_deprecation, "DEPRECATED", noted)
    return noted


def warned(message: str, call: Callable[[], Any]) -> Any:
    """The result of a function of one line, which warns once, and at this line."""
    with pytest.warns(DeprecationWarning, match=message) as records:
        result = call()
    [record] = records
    assert (record.filename, record.lineno) == (__file__, call.__code__.co_firstlineno)
    return result


def double(x: jax.Array, factor: float = 2.0) -> jax.Array:
    """Doubles.

    Args:
      x: any array.
      factor: two.
    """
    return x * factor


X = np.ones(2, np.float32)


def test_arguments_of_functions(registry: list[Any]) -> None:
    old = renamed_argument("by", "factor", **WHEN)(double)
    said = (
        r"double\(by=\.\.\.\) is deprecated since jaxdrop 0\.2 and goes in 0\.4: use factor=\.\.\."
    )
    assert warned(said, lambda: old(X, by=3.0))[0] == 3
    assert warned(said, lambda: jax.jit(lambda x: old(x, by=3.0))(X))[0] == 3
    code = compile("lambda old, x: old(x, by=3.0)", "library.py", "eval")
    library = eval(code, {"__name__": "haiku.module"})
    assert warned(said, lambda: library(old, X))[0] == 3
    assert warned(said, lambda: jax.vmap(lambda x: old(x, by=3.0))(X))[0] == 3
    assert old(X, factor=3.0)[0] == old(X, 3.0)[0] == 3  # and no warning, which were an error
    with pytest.raises(TypeError, match="got both factor and by, its old name: give factor"):
        old(X, by=1.0, factor=2.0)
    assert overdue("0.3.9") == []
    for version in ("0.4", "0.4.0", "0.4.0.dev1", "0.10.0", "1.0"):
        assert overdue(version) == ["tests.test_deprecation.double(by=...)"]


def test_methods(registry: list[Any]) -> None:
    class Scale:
        @renamed_argument("by", "factor", **WHEN)
        def __call__(self, x: jax.Array, factor: float) -> jax.Array:
            return x * factor

        @deprecated(use="`Scale()`", **WHEN)
        def run(self, x: jax.Array) -> jax.Array:
            return self(x, 2.0)

    assert warned(r"Scale\.__call__\(by=\.\.\.\) is dep", lambda: Scale()(X, by=3.0))[0] == 3
    assert warned(r"Scale\.run is .* use `Scale\(\)`\.", lambda: Scale().run(X))[0] == 2


def test_functions_that_go(registry: list[Any]) -> None:
    old = deprecated(**WHEN)(double)
    assert warned(r"double is deprecated since .* goes in 0\.4\.$", lambda: jax.jit(old)(X))[0] == 2
    assert [each.what for each in registry] == ["tests.test_deprecation.double"]


@pytest.fixture
def renamed_field(registry: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `block_size` of DropBlock had been called `size`."""
    one: Any = regions.DropBlock
    monkeypatch.setattr(one, "__doc__", one.__doc__)
    monkeypatch.setattr(one, "size", None, raising=False)
    monkeypatch.setattr(one, "_renamed_fields", {}, raising=False)
    renamed_argument("size", "block_size", **WHEN)(one)
    assert ".. deprecated:: 0.2\n   `size` is called `block_size`. It goes in 0.4.\n" in one.__doc__


@pytest.mark.usefixtures("renamed_field")
@pytest.mark.parametrize("framework", [jaxdrop.nnx, jaxdrop.linen])
def test_fields_of_layers(framework: Any) -> None:
    said = r"^DropBlock\(size=\.\.\.\) is deprecated since jaxdrop 0\.2 .* use block_size=\.\.\.\.$"

    class Mine(framework.DropBlock):
        pass

    for cls in (framework.DropBlock, Mine):
        layer = warned(said, lambda cls=cls: cls(0.1, size=3))
        assert layer.block_size == (3,)
        assert warned(said, lambda layer=layer: layer.size) == (3,)
        assert cls(0.1, block_size=3).block_size == (3,)
        with pytest.raises(TypeError, match="got both block_size and size"):
            cls(0.1, size=3, block_size=3)


@pytest.mark.usefixtures("registry")
def test_a_public_name_is_said_as_the_user_knows_it() -> None:
    old = deprecated(use="", **WHEN)(jaxdrop.drop_block)
    said = r"^jaxdrop\.drop_block is deprecated"
    x = np.ones((1, 4, 4, 1), np.float32)
    warned(said, lambda: old(jaxdrop.key(0), x, 0.1, block_size=1))


@pytest.mark.usefixtures("registry")
def test_names_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("some.module")
    module.double, sys.modules["some.module"] = double, module
    names = {
        "twice": Renamed("double", **WHEN),
        "drop": Renamed("jaxdrop.dropout", **WHEN),
        "hsv": Renamed("colorsys.rgb_to_hsv", **WHEN),
    }
    module.__getattr__ = renamed_names("some.module", names)
    try:
        said = r"some\.module\.twice is deprecated .* use some\.module\.double\."
        assert warned(said, lambda: module.twice) is double
        assert warned("use jaxdrop.dropout", lambda: module.drop) is jaxdrop.dropout
        monkeypatch.delitem(sys.modules, "colorsys", raising=False)  # loaded on first use
        assert warned("use colorsys", lambda: module.hsv).__module__ == "colorsys"
        with pytest.warns(DeprecationWarning, match=said) as records:
            from some.module import twice
        assert twice is double
        assert {record.filename for record in records} == {__file__}
        with pytest.raises(AttributeError, match=r"'some\.module' has no attribute 'thrice'"):
            module.thrice  # noqa: B018
        module.__getattr__ = renamed_names("some.module", names, lambda name: name.upper())
        assert module.thrice == "THRICE"
    finally:
        del sys.modules["some.module"]


@pytest.mark.usefixtures("registry")
def test_the_site_shows_a_note() -> None:
    old = renamed_argument("by", "factor", **WHEN)(double)
    assert old.__doc__ is not None
    assert old.__doc__.startswith(
        "Doubles.\n\n.. deprecated:: 0.2\n   `by` is called `factor`. It goes in 0.4.\n\nArgs:\n"
    )
    assert rewritten(old.__doc__.split("\n"))[2:5] == [
        ".. deprecated:: 0.2",
        "   ``by`` is called ``factor``. It goes in 0.4.",
        "",
    ]
    assert deprecated(use="`y`", **WHEN)(lambda: None).__doc__ is None


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("since", "removal"), [("0.2", "0.2"), ("0.2", "0.3"), ("0.2", "0.3.9"), ("1.2", "1.4")]
)
def test_an_old_name_lives_for_two_minor_versions(since: str, removal: str) -> None:
    with pytest.raises(ValueError, match="lives for 2 minor versions at least, and from"):
        deprecated(since=since, removal=removal)(double)
    deprecated(since="0.9", removal="1.0")(double)
    deprecated(since="1.9", removal="2.0")(double)


@pytest.mark.usefixtures("registry")
def test_filters_of_warnings_know_the_line_and_the_module() -> None:
    """By default a line warns once; a module may be left out by its name."""
    old = deprecated(**WHEN)(double)

    def count(*rule: Any, **options: Any) -> int:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("default")
            if rule:
                warnings.filterwarnings(*rule, **options)
            for _ in range(3):
                old(X)
        return len(records)

    assert count() == 1
    assert count("always") == 3
    assert count("ignore", module=r"tests\.test_deprecation$") == 0
    with pytest.warns(DeprecationWarning, match="double is deprecated"):
        exec("old(x)", {"old": old, "x": X})  # in a module without a name
