"""Docstrings of the public face: arguments, results, errors and shapes, or where they are said."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from docs._extensions import docstrings

pytestmark = pytest.mark.sweep

POINTER = re.compile(
    r"\b([Aa]rguments?|[Pp]arameters?|[Aa]rgs|Returns|Raises)\b[^.]*?\b(as|of|in|see|like)\b"
    r"|\b(arguments|attributes)\b[^.]* are Flax's"
    r"|^`\w+` under its shorter name|^The results of `\w+`"
    r"|^`[\w.]+` as (a|an) \w+ (module|layer)"
    r"|\b[Ss]ee `[\w.]+`\."
)
"""What says where the rest is said: "Args and Raises: as `linear`"."""


def public() -> Iterator[tuple[str, Any]]:
    """The functions and classes of the package that a face shows, each under its first name."""
    seen = set()
    for face in docstrings.MODULES:
        module = importlib.import_module(face)
        listed = getattr(module, "__all__", None)
        for name in listed or vars(module):
            value = getattr(module, name)
            home = getattr(value, "__module__", None) or ""
            is_own = home.startswith("jaxdrop") if listed else home == face
            if callable(value) and is_own and not name.startswith("_") and id(value) not in seen:
                seen.add(id(value))
                yield f"{face}.{name}", value


PUBLIC = dict(public())


def missing(value: Any) -> list[str]:
    """What the docstring does not say."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return [f"Attributes: {name}" for name in value.__members__ if f"  {name}: " not in text]
    if inspect.isclass(value) and (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
        fields = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value)]
        described = all(_is_described(value, name) for name in fields if not name.startswith("_"))
        if described:
            return []
    sections = dict(re.findall(r"(?ms)^(\w+):\n(.*?)(?=^\w+:\n|\Z)", text))
    arguments = sections.get("Args") or sections.get("Attributes")
    points = POINTER.search(" ".join(text.split()))
    parameters = [
        parameter
        for name, parameter in inspect.signature(value).parameters.items()
        if name not in ("self", "rngs", "parent", "name") and not name.startswith("_")
    ]
    lacks = []
    if parameters and arguments is None and not points:
        lacks.append("Args")
    if arguments is not None and not POINTER.search("Args: " + " ".join(arguments.split())):
        lacks += [
            f"Args: {parameter.name}"
            for parameter in parameters
            if not re.search(rf"\b{parameter.name}\b", arguments)
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
    if not inspect.isfunction(value) or points:
        return lacks
    source = inspect.getsource(inspect.unwrap(value))
    if inspect.signature(value).return_annotation not in (None, "None", "Schedule"):
        lacks += ["Returns"] if "Returns" not in sections else []
    if re.search(r"\braise \w|\b_checks\.check|\bchecked\(", source):
        lacks += ["Raises"] if "Raises" not in sections else []
    if any("Array" in str(parameter.annotation) for parameter in parameters):
        lacks += [] if re.search(r"shape|scalar|axes|axis|\bkeys?\b|\(\w+, ", text) else ["shapes"]
    return lacks


def _is_described(value: Any, field: str) -> bool:
    classes = [c for c in value.__mro__ if c.__module__.startswith("jaxdrop")]
    return any(
        re.search(rf'(?m)^    {field}: [^\n]*\n    """', inspect.getsource(one)) for one in classes
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_is_said_or_pointed_to(name: str) -> None:
    assert missing(PUBLIC[name]) == []


def test_what_is_not_said_is_found() -> None:
    def forgotten(rate: float, x: Any) -> Any:  # noqa: D417
        """Drops.

        Args:
          x: any shape.
        """
        if rate > 1:
            raise ValueError(rate)

    assert missing(forgotten) == ["Args: rate", "Returns", "Raises"]
