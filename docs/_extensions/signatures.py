"""Signatures as they are called: defaults by the names that a user would write, and without what
Flax fills in itself.
"""

from __future__ import annotations

import inspect
import re
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

_NAMES = {jnp.float32: "jnp.float32", jax.nn.relu: "jax.nn.relu"}


class _Written:
    """A value that prints as the text it was given."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _text(value: object) -> str | None:
    """How a user would write a default whose own text is that of an object in memory."""
    if isinstance(value, (FrozenDict, MappingProxyType)):
        return repr(dict(value))
    if not callable(value):
        return None
    if known := _NAMES.get(value):
        return known
    name = value.__qualname__
    # JAX makes its initializers with parameters inside of a function of its own.
    return "lecun_normal()" if name.startswith("variance_scaling.") else name


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    text = None if parameter.default is parameter.empty else _text(parameter.default)
    return parameter if text is None else parameter.replace(default=_Written(text))


def _process(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: Any
) -> tuple[str, Any] | None:
    if what not in ("class", "function") or not re.search(r"<|\w\({", signature or ""):
        return None
    found = inspect.signature(obj)
    # Linen's module tree sets `parent`, and no user does.
    parameters = [_shown(each) for each in found.parameters.values() if each.name != "parent"]
    plain = [each.replace(annotation=each.empty) for each in parameters]
    return str(found.replace(parameters=plain, return_annotation=found.empty)), returned


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-signature", _process)
    return {"parallel_read_safe": True}
