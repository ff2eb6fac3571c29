"""`citation`: the BibTeX of the methods that a model or an experiment uses."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxdrop import _checks, _elsewhere, _optional
from jaxdrop._references import Entry, entries, references_of

__all__ = ["Citation", "citation"]

_Use = tuple[str, list[str]]
"""The name of a function or layer, and the keys of its works."""


class Citation(str):
    """BibTeX. It is a string, which a prompt and a notebook show as lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def citation(*used: Any) -> Citation:
    """The BibTeX of jaxdrop, and of the methods that are used.

        >>> import jaxdrop
        >>> print(jaxdrop.citation(jaxdrop.concrete_dropout))  # doctest: +ELLIPSIS
        % jaxdrop ...
        @software{jaxdrop,
        ...
        % jaxdrop.concrete_dropout
        @inproceedings{gal2017concrete,
          author = {Gal, Yarin and Hron, Jiri and Kendall, Alex},
          title = {Concrete dropout},
        ...

    A comment above each entry names what uses it.

    ==============================  ================================================================
    an argument                     stands for
    ==============================  ================================================================
    function, layer, class          itself. The options of a layer count: an `RNN` cites zoneout if
                                    it has a rate of zoneout. So do those of a `functools.partial`
    a name                          the same: `"drop_path"`, `"nnx.RNN"`, `"mc.acquisition.bald"`
    model of NNX                    all layers of this library in it, and Flax's dropout
    model of Linen                  the same, if its layers are attributes, as in `nn.Sequential`
    `jaxdrop.audit.check(fn, ...)`  all that `fn` drops, whatever it is made of. Options are not
                                    known
    result of `jaxdrop.mc`          the function that made it
    list, tuple, dictionary         its items
    ==============================  ================================================================

    Args:
      *used: any number of these. Without any, jaxdrop itself is cited, as it is always.

    Returns:
      A string, for a file such as `references.bib`.

    Raises:
      AttributeError: there is no such name.
      TypeError: an argument is something else, such as an array.
      ValueError: a Linen model makes layers when it runs, so that they cannot be found in it.
    """
    uses: dict[str, list[str]] = {}
    for name, keys in _found(used):
        for key in keys:
            names = uses.setdefault(key, [])
            names += [] if name in names else [name]
    known = entries()
    itself = known["jaxdrop"]
    version: str = sys.modules["jaxdrop"].__version__
    own = itself._replace(fields={**itself.fields, "version": version})
    parts = [_part(own, [f"jaxdrop {version}"])]
    return Citation("\n".join(parts + [_part(known[key], names) for key, names in uses.items()]))


def _part(entry: Entry, names: list[str]) -> str:
    return f"% {', '.join(names)}\n{entry}\n"


def _found(used: Any) -> Iterator[_Use]:
    """The functions and layers in an argument, with their works."""
    if isinstance(used, str):
        yield _use(_named(used))
    elif (flax := _framework(used)) is not None:
        yield from _of_nnx(used, flax) if flax.__name__ == "flax.nnx" else _of_linen(used, flax)
    elif _optional.is_a("jaxdrop.audit", "Report", used):
        yield from _of_sites(used.sites)
    elif _is_own(used):
        yield _use(used)
    elif isinstance(used, Mapping):
        yield from _found(tuple(used.values()))
    elif isinstance(used, list | tuple):
        for each in used:
            yield from _found(each)
    else:
        raise TypeError(_unknown(used))


def _use(used: Any) -> _Use:
    """One function, class or object of this library."""
    if isinstance(used, functools.partial):
        given = inspect.signature(used.func).bind_partial(*used.args, **used.keywords)
        given.apply_defaults()
        return _name(used.func), list(references_of(used.func).works(given.arguments))
    if isinstance(used, type) or inspect.isroutine(used):
        return _name(used), list(references_of(used).works())
    references = references_of(used)
    values = {name: getattr(used, name) for name in references.options}
    return _name(type(used)), list(references.works(values))


def _name(used: Any) -> str:
    """The shortest name of a function or class."""
    rooms, name = used.__module__.split("."), used.__qualname__
    for length in range(1, len(rooms) + 1):
        room = ".".join(rooms[:length])
        if getattr(sys.modules.get(room), name, None) is used:
            return f"{room}.{name}"
    return f"{used.__module__}.{name}"


def _named(name: str) -> Any:
    """The function or class with this name."""
    found: Any = sys.modules["jaxdrop"]
    parts = name.removeprefix("jaxdrop.").split(".")
    for at, part in enumerate(parts):
        listed = getattr(found, "__all__", ())
        if part not in listed:
            where = ".".join(["jaxdrop", *parts[:at]])
            hint = _elsewhere.hint(part, listed, where)
            raise AttributeError(f"citation found no {name!r}: {where} has no {part!r}{hint}")
        found = getattr(found, part)
    if inspect.ismodule(found):
        raise TypeError(f"{name!r} is a module: name one of its functions or classes")
    return found


def _is_own(used: Any) -> bool:
    """Whether an object is of this library, or a function or class in it, or derived from one."""
    one = used.func if isinstance(used, functools.partial) else used
    if references_of(one).is_any:
        return True
    kind = one if isinstance(one, type) or inspect.isroutine(one) else type(one)
    home = getattr(kind, "__module__", None) or ""
    return home.split(".")[0] == "jaxdrop" and "<locals>" not in kind.__qualname__


def _framework(used: Any) -> Any | None:
    """The module of Flax that a model is made with, if it is one."""
    names = ("flax.nnx", "flax.linen")
    return next((sys.modules[name] for name in names if _optional.is_a(name, "Module", used)), None)


def _of_nnx(model: Any, flax: Any) -> Iterator[_Use]:
    """The layers of an NNX model."""
    for _, module in flax.iter_modules(model):
        yield from _of_layer(module, flax, vars(module).values())


def _of_linen(module: Any, flax: Any) -> Iterator[_Use]:
    """The layers of a Linen model that are attributes of it, and of each other."""
    for cls in type(module).__mro__:
        if cls.__module__.split(".")[0] not in ("flax", "jaxdrop") and any(
            name == "setup" or getattr(value, "compact", False) for name, value in vars(cls).items()
        ):
            raise ValueError(
                f"{type(module).__name__} makes its layers when it runs. Let the audit find them:"
                " jaxdrop.citation(jaxdrop.audit.check(lambda key: model.apply(variables, x,"
                ' rngs={"dropout": key}), jaxdrop.key(0)))'
            )
    names = [name for name in module.__dataclass_fields__ if name != "parent"]
    values = [getattr(module, name, None) for name in names]
    yield from _of_layer(module, flax, values)
    for each in _leaves(values):
        if isinstance(each, flax.Module):
            yield from _of_linen(each, flax)


def _leaves(value: Any) -> Iterator[Any]:
    """All that is in containers, however deep, in their order."""
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    else:
        yield value


def _of_layer(module: Any, flax: Any, values: Iterable[Any]) -> Iterator[_Use]:
    """A layer of this library or Flax's own dropout, and its functions, such as `attention_fn`."""
    dropout = sys.modules["jaxdrop"].dropout
    if _is_own(module):
        yield _use(module)
    elif isinstance(module, flax.Dropout):
        yield _name(type(module)), list(references_of(dropout).works())
    for value in values:
        # A layer of this library may hold `dropout` to drop weights with; its works are on units.
        counts = value is not dropout or not _is_own(module)
        if counts and callable(value) and _framework(value) is None and _is_own(value):
            yield _use(value)


def _of_sites(sites: Iterable[Any]) -> Iterator[_Use]:
    """What an audit found. It calls what other libraries drop by this one's names, with spaces."""
    library = sys.modules["jaxdrop"]
    for site in sites:
        name = site.variant.replace(" ", "_")
        if site.active and name in library.__all__:
            yield _use(getattr(library, name))
        elif site.active and name in library.nnx.__all__:
            yield name, list(references_of(getattr(library.nnx, name)).works())


def _unknown(used: Any) -> str:
    said = (
        "citation takes functions, layers and results of jaxdrop, their names, models of Flax, and"
        f" reports of jaxdrop.audit.check, got {_checks.quoted(used)}."
    )
    if hasattr(used, "dtype"):
        return f"{said} An array does not tell what made it: give the function."
    if callable(used):
        return f"{said} What it drops: jaxdrop.citation(jaxdrop.audit.check(fn, *arguments))."
    return said
