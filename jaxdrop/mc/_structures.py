"""The structure of results as JSON, so that files can be read without the code that wrote them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
from typing import Any

import jax

RESERVED = "inputs_crc32"
"""A text that is not the name of a leaf."""

_SETTINGS = (bool, int, float, str)


class _Name(str):
    """The name of an array, as the leaf that takes its place."""


def names(tree: Any) -> list[str]:
    """A name for each leaf, from its path: `logits`, `nested.1.sum`. A sole array is `samples`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = [jax.tree_util.keystr(at, simple=True, separator=".") or "samples" for at, _ in leaves]
    if len({*paths, RESERVED}) <= len(paths):  # as of {"a": {"b": ...}, "a.b": ...}
        paths = [f"{place}.{path}" for place, path in enumerate(paths)]
    return paths


def to_json(tree: Any) -> Any:
    """The structure of a pytree as JSON. A structure that JSON cannot hold is described as a
    dictionary of the arrays by name.
    """
    named = [_Name(name) for name in names(tree)]
    described = _describe(jax.tree.unflatten(jax.tree.structure(tree), named))
    if jax.tree.leaves(from_json(described)) == named:
        return described
    return ["dict", [[name, ["array", name]] for name in named]]


def from_json(described: Any) -> Any:
    """The pytree of names that `to_json` described.

    This library's classes come back as such, other classes as named tuples with the same fields.
    """
    kind, content = described
    if kind == "array":
        return _Name(content)
    if kind == "setting":
        return content
    if kind == "dict":
        return {key: from_json(child) for key, child in content}
    if kind == "fields":
        name, fields = content
        return _class(name, tuple(fields))(**{key: from_json(fields[key]) for key in fields})
    return {"list": list, "tuple": tuple}[kind](map(from_json, content))


def _describe(tree: Any) -> Any:
    if isinstance(tree, _Name):
        return ["array", str(tree)]
    if isinstance(tree, dict):
        return ["dict", [[key, _describe(child)] for key, child in tree.items()]]
    if dataclasses.is_dataclass(tree) or hasattr(tree, "_fields"):
        fields = getattr(tree, "_fields", None) or [each.name for each in dataclasses.fields(tree)]
        described = {name: _describe(getattr(tree, name)) for name in fields}
        return ["fields", [type(tree).__name__, described]]
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return [kind, [_describe(child) for child in tree]]
    return ["setting", tree if isinstance(tree, _SETTINGS) else None]


@functools.cache
def _class(name: str, fields: tuple[str, ...]) -> Any:
    public = importlib.import_module("jaxdrop.mc")
    known = getattr(public, name, None) if name in public.__all__ else None
    if dataclasses.is_dataclass(known) and fields == tuple(
        field.name for field in dataclasses.fields(known)
    ):
        return known
    return collections.namedtuple(name, fields)
