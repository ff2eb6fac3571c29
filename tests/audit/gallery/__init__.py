"""Deliberately broken models, each with a correct twin: what `jaxdrop.audit` is measured on.

A case is a function of one flag. `case(True)` is a call of the broken model, `case(False)` the same
call of its twin. A broken model was committed before the rule that finds it. `source` is the
address of the public code that the case is rebuilt from.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdrop import audit


class Call(NamedTuple):
    """What is handed to `jaxdrop.audit.check`."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]


class Case(NamedTuple):
    """A broken model and its twin.

    Attributes:
      name: the function's name.
      rule: the finding that the broken model must have, and the twin must not.
      framework: `linen`, `nnx`, `equinox`, `haiku`, or `jax` for plain functions.
      make: the call of the broken model (True) or of its twin (False).
      source: where the fault stands in public code; None if it was made up.
      also: other findings that the fault brings along.
      both: findings that the broken model and its twin have, because the source has them too.
    """

    name: str
    rule: str
    framework: str
    make: Callable[[bool], Call]
    source: str | None
    also: frozenset[str]
    both: frozenset[str]


CASES: list[Case] = []
KEY = jax.eval_shape(lambda: jax.random.key(0))
STEP = jax.ShapeDtypeStruct((), jnp.int32)


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def call(fn: Callable[..., Any], *args: Any, **options: Any) -> Call:
    return Call(fn, args, options)


def case(
    rule: str,
    framework: str,
    source: str | None = None,
    also: tuple[str, ...] = (),
    both: tuple[str, ...] = (),
) -> Callable[[Callable[[bool], Call]], Callable[[bool], Call]]:
    def register(make: Callable[[bool], Call]) -> Callable[[bool], Call]:
        name, others = make.__name__, (frozenset(also), frozenset(both))
        CASES.append(Case(name, rule, framework, make, source, *others))
        return make

    return register


def load() -> list[Case]:
    """All cases of the frameworks that are installed."""
    needed = {"_haiku": "haiku", "_equinox": "equinox"}
    for module in ("_linen", "_nnx", "_equinox", "_haiku", "_jax", "_public", "_threads"):
        if importlib.util.find_spec(needed.get(module, "flax")):
            importlib.import_module(f"{__name__}.{module}")
    return CASES


class Figures(NamedTuple):
    """How well the audit does on cases.

    Attributes:
      recall: the part of the broken models whose fault is found.
      precision: the part of the findings that are right. A finding is wrong if the model is a twin,
        or if the fault does not bring it along.
      cases, public: the number of cases, and of those from public code.
      misses: a line for each fault that is not found, and each finding that is wrong.
    """

    recall: float
    precision: float
    cases: int
    public: int
    misses: list[str]


def measure(cases: list[Case]) -> Figures:
    """Audits all cases and their twins."""
    found = right = wrong = 0
    misses = []
    for each in cases:
        for broken in (True, False):
            made = each.make(broken)
            ids = [one.id for one in audit.check(made.fn, *made.args, **made.options).findings]
            true = {*each.both, *(each.also | {each.rule} if broken else ())}
            false = [name for name in ids if name not in true]
            right, wrong = right + len(ids) - len(false), wrong + len(false)
            if broken:
                found += each.rule in ids
                if each.rule not in ids:
                    misses.append(f"{each.name}: {each.rule} is not found")
            misses += [f"{each.name}, {'broken' if broken else 'twin'}: {name}" for name in false]
    public = sum(each.source is not None for each in cases)
    return Figures(found / len(cases), right / (right + wrong), len(cases), public, misses)
