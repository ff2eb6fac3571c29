"""The former names of `jaxdrop._checks`, for the modules that still use them."""

from __future__ import annotations

from typing import Any, TypeVar

import jax

from jaxdrop import _checks
from jaxdrop._checks import Site as Site
from jaxdrop._checks import check_inexact as inexact
from jaxdrop._checks import check_site as site

__all__ = ["Site", "array", "axis", "count", "either", "inexact", "integer", "integers", "is_true", "one_of", "site"]

T = TypeVar("T")


def array(x: Any, caller: str, name: str) -> jax.Array:
    """See `jaxdrop._checks`."""
    return _checks.check_array(x, name, caller=caller)


def integers(ids: Any, caller: str) -> jax.Array:
    """See `jaxdrop._checks`."""
    return _checks.check_ids(ids, caller)


def integer(name: str, value: Any, kind: str = "an integer") -> int:
    """See `jaxdrop._checks`."""
    return _checks.check_integer(value, name, kind)


def count(name: str, value: Any, *, least: int = 1) -> int:
    """See `jaxdrop._checks`."""
    return _checks.check_count(value, name, least=least)


def axis(name: str, value: Any, ndim: int) -> int:
    """See `jaxdrop._checks`."""
    return _checks.check_axis(value, name, ndim)


def one_of(name: str, value: Any, names: Any) -> None:
    """See `jaxdrop._checks`."""
    _checks.check_one_of(value, name, names)


def is_true(deterministic: Any) -> bool:
    """See `jaxdrop._checks`."""
    return _checks.check_flag(deterministic, "deterministic")


def either(call: T | None, module: T) -> T:
    """The argument of a call, if there is one, or else the module's."""
    return module if call is None else call
