"""Facts about a function that the layers of every framework need, beside the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import jax

from jaxdrop._checks._numbers import check_one_rate, check_rate
from jaxdrop._checks._settings import check_count, check_integer, check_one_of

Function = TypeVar("Function", bound=Callable[..., Any])
Check: TypeAlias = Callable[[Any, str], Any]
"""Of a value and the name of its argument: returns the value in its plain form, or raises."""


class Facts(NamedTuple):
    """Properties of a function that a layer uses without calling it."""

    draws_nothing_at: tuple[int, ...] = (0, 1)
    """Rates (or other amounts) at which the function needs no key, where they are known numbers."""
    checks: Mapping[str, Check] = MappingProxyType({})
    """For the name of an argument, the check that needs no array. Those of flags, of names and of
    axes follow from their types: see `jaxdrop.layers`.
    """


def facts(
    *, draws_nothing_at: tuple[int, ...] = (0, 1), **checks: Check
) -> Callable[[Function], Function]:
    """Decorates a function with facts. The function itself makes the same checks."""

    def noted(function: Function) -> Function:
        vars(function)["facts"] = Facts(draws_nothing_at, checks)
        return function

    return noted


def facts_of(function: Callable[..., Any]) -> Facts:
    """The facts that a function is decorated with."""
    return cast(Facts, getattr(function, "facts", Facts()))


def axis(value: Any, name: str) -> int:
    """Checks the number of an axis, of an array that is not known yet."""
    return check_integer(value, name, "the number of an axis")


def at_least(least: int, kind: str = "an integer") -> Check:
    """The check of an integer."""
    return lambda value, name: check_count(value, name, least=least, kind=kind)


def optional(check: Check) -> Check:
    """The check of an argument that may also be None."""
    return lambda value, name: None if value is None else check(value, name)


def one_of(names: Any) -> Check:
    """The check of a name out of a Literal type."""

    def check(value: Any, name: str) -> Any:
        check_one_of(value, name, names)
        return value

    return check


def one_rate(rule: str) -> Callable[[Any, str], float | jax.Array]:
    """The check of a rate without axes. `rule` says who takes one rate, for the message."""

    def check(value: Any, name: str) -> float | jax.Array:
        rate = check_rate(value, name)
        check_one_rate(rate, rule, name)
        return rate

    return check
