"""Breaks the plumbing of every layer of both frameworks, one thing at a time, and counts how many
of these mutants `tests/test_layers.py` notices.

    python scripts/check_layers.py

A mutant is a layer whose constructor ignores one of its fields, whose call ignores one of its
arguments, or which withholds one option, the rate, the layout or `deterministic` from its function.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).parents[1]))

from tests import test_layers

# What a mutant has in place of a field without a default.
_OTHERS = {"match": "bias$", "time_axis": 0}
Mutant = tuple[str, contextlib.AbstractContextManager[Any]]


def mutants(layer: Any) -> Iterator[Mutant]:
    """The mutants of a layer, by name, as patches of its class."""
    for field in dataclasses.fields(layer):
        if field.name in ("parent", "name", "module", *test_layers.SIZES):
            continue
        other = _OTHERS.get(field.name, 0.5 if field.name == layer.amount else 0)
        value = other if field.default is dataclasses.MISSING else field.default
        if field.name != "rngs":
            yield f"constructor ignores {field.name}", _made_with(layer, field.name, value)
    parameters = inspect.signature(layer.__call__).parameters.values()
    for parameter in parameters:
        if parameter.name != "self" and parameter.default is None:
            yield f"call ignores {parameter.name}", _called_without(layer, parameter.name)
    for option in layer._options:
        left = tuple(name for name in layer._options if name != option)
        yield f"function is not told {option}", mock.patch.object(layer, "_options", left)
    if layer.__name__ == "LayerDrop":
        return
    for name, value in (("deterministic", True), ("deterministic", False), ("spec", None)):
        yield f"function is told {name}={value}", _evaluated(layer, {name: value})
    yield "function is told another amount", _evaluated(layer, {}, 0.5)


def _controls(layer: Any) -> Iterator[Mutant]:
    """Patches of the same kinds that change nothing, so that what is noticed is the change."""
    yield "a constructor that ignores nothing", _made_with(layer, "nothing", 0)
    yield "a call that ignores nothing", _called_without(layer, "nothing")
    yield "a function that is told all", _evaluated(layer, {})


def _made_with(layer: Any, name: str, value: Any) -> contextlib.AbstractContextManager[Any]:
    if hasattr(layer, "_made"):
        made = layer._made

        def _made(self: Any, given: dict[str, Any]) -> None:
            made(self, given | {name: value})

        return mock.patch.object(layer, "_made", _made)
    post_init = layer.__post_init__

    def __post_init__(self: Any) -> None:  # noqa: N807
        object.__setattr__(self, name, value)
        post_init(self)

    return mock.patch.object(layer, "__post_init__", __post_init__)


def _called_without(layer: Any, name: str) -> contextlib.AbstractContextManager[Any]:
    call = layer.__call__

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        given = inspect.signature(call).bind(self, *args, **kwargs)
        given.arguments.pop(name, None)
        return call(*given.args, **given.kwargs)

    return mock.patch.object(layer, "__call__", __call__)


def _evaluated(
    layer: Any, changed: dict[str, Any], amount: Any = None
) -> contextlib.AbstractContextManager[Any]:
    evaluate: Callable[..., Any] = layer._evaluate

    def _evaluate(self: Any, key: Any, operands: Any, own: Any, **further: Any) -> Any:
        told = own if amount is None else amount
        return evaluate(self, key, operands, told, **further | changed)

    return mock.patch.object(layer, "_evaluate", _evaluate)


def is_noticed(package: str, name: str, mutant: contextlib.AbstractContextManager[Any]) -> bool:
    """Whether the property fails for a mutant."""
    with mutant:
        try:
            test_layers.check_layer(package, name)
        except Exception:
            return True
    return False


def main() -> int:
    """Prints the survivors. The exit status says whether there are any."""
    survivors, total = [], 0
    for package, name in test_layers.LAYERS:
        test_layers.check_layer(package, name)
        layer = getattr(test_layers.PACKAGES[package], name)
        for what, same in _controls(layer):
            assert not is_noticed(package, name, same), f"{name}: {what} is noticed"
        for what, mutant in mutants(layer):
            total += 1
            if not is_noticed(package, name, mutant):
                survivors.append(f"jaxdrop.{package}.{name}: {what}")
    print(f"{total - len(survivors)} of {total} mutants are noticed")
    print(*survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
