"""Activations of several operations, whose moments as a whole have a closed form.

Each function of one variable has a name, equal for equal chains of operations and numbers. A chain
is known by its name: that of a program which is traced from the activation itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxdrop.mc._analytic import _operations
from jaxdrop.mc._analytic._values import Function, Moments, Points

Name = Callable[..., int]
"""Returns a number, equal for equal arguments."""

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def itself(name: Name, x: Moments) -> Function:
    """The function that returns its argument."""
    return Function(name("variable"), x)


def chained(name: Name, eqn: Any, values: Sequence[Any]) -> tuple[Function, ...]:
    """The functions that an operation on functions of one value, and on numbers, returns."""
    points = [x for x in values if isinstance(x, Points)]
    found = []
    for of in [function.of for function in points[0].functions]:
        operands = [
            next((f.name for f in x.functions if f.of is of), None)
            if isinstance(x, Points)
            else _number(x)
            for x in values
        ]
        if None not in operands:
            found.append(Function(_named(name, eqn, operands), of))
    return tuple(found)


def _named(name: Name, eqn: Any, operands: Sequence[Any]) -> int:
    return name("function", eqn.primitive.name, str(eqn.params), *operands)


def _number(x: Any) -> tuple[str, float] | None:
    """An operand that is a number that is known; None for others."""
    if isinstance(x, jax.core.Tracer) or np.size(x) != 1:
        return None
    return ("number", float(np.asarray(x).item()))


def gelu_of(name: Name, functions: Sequence[Function]) -> Moments | None:
    """The value of which one of the functions is the GELU, exact or by a tanh; None if none is."""
    if not functions:
        return None
    gelus = frozenset(_gelus(name))
    return next((function.of for function in functions if function.name in gelus), None)


def _gelus(name: Name) -> Iterator[int]:
    # float64 is float32 where JAX has no 64 bits.
    for dtype in dict.fromkeys(jax.dtypes.canonicalize_dtype(each).name for each in _DTYPES):
        for approximate in (True, False):
            jaxpr = _traced(dtype, approximate)
            names: dict[Any, Any] = {jaxpr.invars[0]: name("variable")}
            for eqn in jaxpr.eqns:
                operands = [
                    _number(x.val) if isinstance(x, Literal) else names[x] for x in eqn.invars
                ]
                same = eqn.primitive.name in _operations.SAME
                names[eqn.outvars[0]] = operands[0] if same else _named(name, eqn, operands)
            yield names[jaxpr.outvars[0]]


@functools.cache
def _traced(dtype: str, approximate: bool) -> Any:
    like = jax.ShapeDtypeStruct((), np.dtype(dtype))
    return jax.make_jaxpr(functools.partial(jax.nn.gelu, approximate=approximate))(like).jaxpr
