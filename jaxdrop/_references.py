"""The works that functions and layers stand on, declared beside each by keys of references.bib."""

from __future__ import annotations

import functools
import numbers
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

Cited = TypeVar("Cited")

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)


class Entry(NamedTuple):
    """An entry of references.bib."""

    kind: str
    key: str
    fields: dict[str, str]

    def __str__(self) -> str:
        fields = "".join(f"  {name} = {{{value}}},\n" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{fields}}}"


@functools.cache
def entries() -> Mapping[str, Entry]:
    """The entries of references.bib by their keys, in the order of the file."""
    text = resources.files("jaxdrop").joinpath("references.bib").read_text(encoding="utf-8")
    found = (
        Entry(kind, key, dict(_FIELD.findall(fields))) for kind, key, fields in _ENTRY.findall(text)
    )
    return MappingProxyType({entry.key: entry for entry in found})


class References(NamedTuple):
    """The keys that count always, and those that count for some values of an option."""

    always: tuple[str, ...]
    options: Mapping[str, str | Mapping[Any, str]]

    @property
    def is_any(self) -> bool:
        """Whether there is any work."""
        return bool(self.always or self.options)

    def works(self, options: Mapping[str, Any] | None = None) -> Iterator[str]:
        """The keys under these options; all keys if the options are not known."""
        yield from self.always
        for name, works in self.options.items():
            if options is None:
                yield from [works] if isinstance(works, str) else works.values()
            elif isinstance(works, str):
                if not _is_off(options[name]):
                    yield works
            elif options[name] in works:
                yield works[options[name]]


def _is_off(value: Any) -> bool:
    """Whether the value of an option, such as a rate, says that a method is not in use."""
    number = isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0
    return value is None or (number and not value)


def cites(
    *works: str | Callable[..., Any], **options: str | Mapping[Any, str]
) -> Callable[[Cited], Cited]:
    """Decorates a function or a class with the works that it stands on.

        @cites("gal2017concrete")
        @cites("graham2015efficient", pattern={"slice": "notin2020sliceout"})
        @cites(weight_rate="merity2018regularizing")

    Args:
      *works: keys of references.bib; or functions and classes that are decorated, whose works count
        too.
      **options: by the name of an option, the key that counts where the option is on; or a
        dictionary from values of the option to keys.
    """
    found: list[str] = []
    for work in works:
        if isinstance(work, str):
            found.append(work)
        else:
            more = references_of(work)
            found += more.always
            options = {**more.options, **options}

    def declared(cited: Cited) -> Cited:
        setattr(cited, "_references", References(tuple(found), options))  # noqa: B010
        return cited

    return declared


def references_of(cited: Any) -> References:
    """The works of a function, a class or an object; none if it has none. A layer has those of its
    function.
    """
    for each in (cited, getattr(cited, "_function", None)):
        found = getattr(each, "_references", None)
        if isinstance(found, References):
            return found
    return References((), {})
