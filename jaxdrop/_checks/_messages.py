"""How messages speak of an argument: by the name that the caller knows, with its value in one short
line.
"""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LONGEST = 60
_NONE: Mapping[str, str] = MappingProxyType({})
_names: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("names", default=_NONE)


class renamed:  # noqa: N801
    """Within it, messages call arguments by other names: `renamed(x="inputs")` where `inputs` is
    handed on as `x`.

    A mapping may be given in place of keywords, and is not copied: every call of a layer comes
    here.
    """

    def __init__(self, mapping: Mapping[str, str] = _NONE, /, **names: str) -> None:
        self.names = names or mapping

    def __enter__(self) -> None:
        names, outer = self.names, _names.get()
        if outer:
            names = {**outer, **{inner: outer.get(name, name) for inner, name in names.items()}}
        self.token = _names.set(names)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _names.reset(self.token)


def shown(name: str) -> str:
    """The argument `name` by the name that the caller knows."""
    return _names.get().get(name, name)


def quoted(value: Any) -> str:
    """A value in one short line: as Python prints it, with its type where that does not tell it."""
    if isinstance(value, jax.core.Tracer):
        return f"a traced {value.aval.str_short()}"
    if isinstance(value, (np.floating, np.integer, np.bool_)):
        return str(value)  # repr would print np.float64(1.5)
    if isinstance(value, (jax.Array, np.ndarray)):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return f"keys of shape {value.shape}" if value.ndim else "a key"
        return (
            f"an array of {value.dtype}{list(value.shape)}"
            if value.ndim
            else f"{value.dtype} {value}"
        )
    try:
        text = " ".join(repr(value).split())
    except (
        Exception
    ):  # a foreign repr may do anything, and Python prints no integer of more than 4300 digits
        text = "..."
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    kind = type(value).__name__
    if type(value).__module__.startswith("flax."):
        return kind
    if text.startswith("<") and not isinstance(value, type):
        return f"{kind} {getattr(value, '__name__', '')}".strip()
    literal = type(value).__module__ == "builtins" and not text.startswith("<")
    return short if literal or isinstance(value, type) or f"{kind}(" in text else f"{kind} {short}"


def check_not_traced(value: Any, name: str, way: str = "") -> None:
    """Raises a TypeError where a value is traced that has to be known. `way` is another way out
    than a static argument.
    """
    if isinstance(value, jax.core.Tracer):
        name = shown(name)
        static = f"ark it static: jax.jit(f, static_argnames='{name}')"
        raise TypeError(
            f"{name} must be known when the function is traced, but it is a traced value. "
            + (f"Either\n1. m{static};\n2. {way}." if way else f"M{static}.")
        )
