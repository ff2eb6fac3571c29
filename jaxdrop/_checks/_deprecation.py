"""Old names that still work, and say what to use: see docs/stability.md.

A name, an argument or a function that is deprecated is noted in `DEPRECATED`, and
`tests/test_deprecation.py` fails from the version on in which it has to go.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from jaxdrop import _source_lines

Decorated = TypeVar("Decorated")

_LIFE = 2  # minor versions for which an old name works, at least
_INSIDE = ("jaxdrop", "importlib", *_source_lines.PACKAGES)


class Deprecation(NamedTuple):
    """What is deprecated.

    Attributes:
      what: how the user knows it, such as `jaxdrop.drop_block(size=...)`.
      since: the first version that warns.
      removal: the version in which it goes.
      use: what to use in its place; empty if there is nothing.
    """

    what: str
    since: str
    removal: str
    use: str

    def __str__(self) -> str:
        instead = f": use {self.use}" if self.use else ""
        return (
            f"{self.what} is deprecated since jaxdrop {self.since} and goes in {self.removal}"
            f"{instead}."
        )

    def warn(self) -> None:
        """Warns at the line of the user's code, however many frames of this library and of others
        for JAX are between.
        """
        frame = sys._getframe(1)
        while frame.f_back is not None and (
            frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE
            or frame.f_code.co_filename == "<string>"  # the constructor of a dataclass
        ):
            frame = frame.f_back
        warnings.warn_explicit(
            str(self),
            DeprecationWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
            module=frame.f_globals.get("__name__"),
            registry=frame.f_globals.setdefault("__warningregistry__", {}),
        )


DEPRECATED: list[Deprecation] = []
"""All that is deprecated in the modules that are imported."""


class Renamed(NamedTuple):
    """The new name, and the versions of `Deprecation`."""

    new: str
    since: str
    removal: str


def overdue(version: str) -> list[str]:
    """What has to be gone in a version."""
    now = _numbers(version)
    return [each.what for each in DEPRECATED if _numbers(each.removal) <= now]


def deprecated(*, since: str, removal: str, use: str = "") -> Callable[[Decorated], Decorated]:
    """Decorates a function or a method that goes. `use` says what to use in its place."""

    def decorate(function: Decorated) -> Decorated:
        note = _noted(_called(function), since, removal, use)

        @functools.wraps(cast(Callable[..., Any], function))
        def call(*args: Any, **kwargs: Any) -> Any:
            note.warn()
            return cast(Callable[..., Any], function)(*args, **kwargs)

        return cast(Decorated, _documented(call, note, use and f"Use {use}."))

    return decorate


def renamed_argument(
    old: str, new: str, *, since: str, removal: str
) -> Callable[[Decorated], Decorated]:
    """Decorates a function, a method or a layer, one of whose arguments was called `old`.

    A description of a layer in `jaxdrop.layers` passes it on to both frameworks: to constructors,
    and to the attribute of that name.
    """

    def decorate(one: Decorated) -> Decorated:
        note = _noted(f"{_called(one)}({old}=...)", since, removal, f"{new}=...")
        names, text = {old: (new, note)}, f"`{old}` is called `{new}`."
        if isinstance(one, type):
            names = {**getattr(one, "_renamed_fields", {}), **names}
            setattr(one, "_renamed_fields", names)  # noqa: B010
            setattr(one, old, _attribute(new, note))
            return cast(Decorated, _documented(one, note, text))
        function = cast(Callable[..., Any], one)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **_current(names, function.__qualname__, kwargs))

        return cast(Decorated, _documented(call, note, text))

    return decorate


def renamed_fields(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a layer's constructor, by their present names."""
    return _current(getattr(cls, "_renamed_fields", {}), cls.__name__, given)


def renamed_names(
    module: str, names: Mapping[str, Renamed], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """The `__getattr__` of a module in which functions or classes were renamed.

        __getattr__ = renamed_names(__name__, {"old": Renamed("new", since="0.2", removal="0.4")})

    Args:
      module: its name.
      names: by old names. A new name with dots is full, such as `jaxdrop.masks.draw`.
      otherwise: the `__getattr__` for other names.
    """
    notes = {
        old: _noted(f"{module}.{old}", since, removal, new if "." in new else f"{module}.{new}")
        for old, (new, since, removal) in names.items()
    }

    def attribute(name: str) -> Any:
        if name not in notes:
            if otherwise is not None:
                return otherwise(name)
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        notes[name].warn()
        place, _, new = notes[name].use.rpartition(".")
        return getattr(importlib.import_module(place), new)

    return attribute


def _noted(what: str, since: str, removal: str, use: str) -> Deprecation:
    first, last = _numbers(since), _numbers(removal)
    # From 1.0 on, only a major version breaks.
    if last[0] <= first[0] and (first[0] > 0 or last[1] < first[1] + _LIFE):
        raise ValueError(
            f"{what}: an old name lives for {_LIFE} minor versions at least, and from 1.0 on until"
            " the next major one"
        )
    note = Deprecation(what, since, removal, use)
    DEPRECATED.append(note)
    return note


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch; a version in development counts as that which it becomes."""
    major, minor, *patch = map(int, re.findall(r"\d+", version)[:3])
    return (major, minor, *(patch or (0,)))


def _called(one: Any) -> str:
    """The name by which the user knows a function or class."""
    room = str(one.__module__).partition("._")[0]
    if room.startswith("jaxdrop.functional"):  # all of them are public at the top
        room = "jaxdrop"
    name = one.__qualname__.rpartition("<locals>.")[2]
    return name if room.startswith("jaxdrop.layers") else f"{room}.{name}"


def _current(
    names: Mapping[str, tuple[str, Deprecation]], who: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments by their present names."""
    found = dict(given)
    for old in names.keys() & given.keys():
        new, note = names[old]
        if new in found:
            raise TypeError(f"{who} got both {new} and {old}, its old name: give {new}")
        note.warn()
        found[new] = found.pop(old)
    return found


def _attribute(new: str, note: Deprecation) -> property:
    def read(self: Any) -> Any:
        note.warn()
        return getattr(self, new)

    return property(read, doc=str(note))


def _documented(one: Any, note: Deprecation, text: str) -> Any:
    """A note for Sphinx and `help`, behind the first paragraph of the docstring."""
    if one.__doc__:
        first, blank, rest = inspect.cleandoc(one.__doc__).partition("\n\n")
        goes = f"{text} It goes in {note.removal}.".strip()
        one.__doc__ = f"{first}\n\n.. deprecated:: {note.since}\n   {goes}{blank}{rest}"
    return one
