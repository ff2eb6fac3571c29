"""Operations that run programs of their own: calls, branches and loops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _equations
from jaxdrop.mc._analytic import _operations
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._elementwise import chosen
from jaxdrop.mc._analytic._values import UNKNOWN, Hidden, Moments, is_random

Run = Callable[[Any, Sequence[Any]], list[Any]]
"""Runs a closed jaxpr on values."""

# With sources of variance, each turn of a loop is a program of its own.
_MOST_TURNS = 512


@dataclasses.dataclass(frozen=True)
class _Form:
    """The arrays that stand for a value in a loop: none of a hidden one, mean and variance of a
    random one. Of words it says how many values one takes, if that is known.
    """

    kind: str
    count: float | None = None


_KNOWN, _RANDOM = _Form("known"), _Form("random")


def branches(context: Context, run: Run, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of `cond` or `switch`: all branches run, and one is taken."""
    which, *operands = values
    results = [run(branch, operands) for branch in eqn.params["branches"]]
    if isinstance(which, Hidden):
        raise unknown("a choice of a branch", context.where)
    found: list[Any] = []
    for var, parts in zip(eqn.outvars, zip(*results, strict=True), strict=True):
        if any(isinstance(part, Hidden) for part in parts):
            found.append(_words(context, var.aval))
        elif is_random(which) or any(map(is_random, parts)):
            found.append(chosen(context, which, parts))
        else:
            index = jnp.broadcast_to(jnp.asarray(which).astype(jnp.int32), var.aval.shape)
            found.append(lax.select_n(index, *parts))
    return found


def scan(context: Context, run: Run, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of `scan`."""
    params = eqn.params
    body, length = params["jaxpr"], params["length"]
    constants, carry, stacked = _divided(values, *_equations.scan_parts(eqn))
    if context.unrolled:
        return _unrolled(context, run, eqn, constants, carry, stacked)
    masks = any(var.aval.dtype == jnp.bool_ for var in eqn.outvars)
    if _is_of_words(eqn, values) and not masks:
        return [_words(context, var.aval) for var in eqn.outvars]
    fixed = [_form(x) for x in constants]
    rows = [_form(x) for x in stacked]
    fixed_arrays = [_arrays(context, x, form) for x, form in zip(constants, fixed, strict=True)]
    row_arrays = [_arrays(context, x, form) for x, form in zip(stacked, rows, strict=True)]

    def turn(forms: Sequence[_Form], carried: Any, row: Any) -> tuple[list[Any], list[Any]]:
        avals = [var.aval for var in body.jaxpr.invars]
        inputs = [
            _value(context, arrays, form, aval)
            for arrays, form, aval in zip(
                [*fixed_arrays, *carried, *row], [*fixed, *forms, *rows], avals, strict=True
            )
        ]
        found = run(body, inputs)
        return found[: len(carry)], found[len(carry) :]

    forms = [_form(x) for x in carry]
    while True:
        seen: list[Any] = []
        starts = [_arrays(context, x, form) for x, form in zip(carry, forms, strict=True)]

        def step(carried: Any, row: Any, forms: Any = tuple(forms), seen: Any = seen) -> Any:
            after, results = turn(forms, carried, row)
            joined = [_joined(form, _form(x)) for form, x in zip(forms, after, strict=True)]
            out_forms = [_form(x) for x in results]
            seen[:] = [joined, out_forms]
            return (
                [_arrays(context, x, form) for x, form in zip(after, joined, strict=True)],
                [_arrays(context, x, form) for x, form in zip(results, out_forms, strict=True)],
            )

        first = jax.tree.map(lambda array: array[0], row_arrays)
        jax.eval_shape(step, starts, first)
        if seen[0] == forms:
            break
        forms = seen[0]
    after, results = lax.scan(
        step, starts, row_arrays, length=length, reverse=params["reverse"], unroll=params["unroll"]
    )
    kinds = [*forms, *seen[1]]
    return [
        _value(context, arrays, form, var.aval)
        for arrays, form, var in zip([*after, *results], kinds, eqn.outvars, strict=True)
    ]


def loop(context: Context, run: Run, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of `while`."""
    if _is_of_words(eqn, values):
        return [_words(context, var.aval) for var in eqn.outvars]
    raise unknown("a while loop with random values, such as one that rejects draws", context.where)


def _is_of_words(eqn: Any, values: Sequence[Any]) -> bool:
    """Whether a loop makes keys and words of keys and words."""
    return all(isinstance(x, Hidden) for x in values if is_random(x)) and not any(
        _operations.is_number(var.aval.dtype) for var in eqn.outvars
    )


def _words(context: Context, aval: Any, count: float = UNKNOWN) -> Hidden:
    """A result that is a key or random words."""
    return Hidden(tuple(aval.shape), aval.dtype, context.fresh(), count)


def _divided(values: Sequence[Any], constants: int, carried: int) -> tuple[Any, Any, Any]:
    return (
        values[:constants],
        values[constants : constants + carried],
        values[constants + carried :],
    )


def _unrolled(
    context: Context, run: Run, eqn: Any, constants: Any, carry: Any, stacked: Any
) -> list[Any]:
    length = eqn.params["length"]
    if length > _MOST_TURNS:
        raise unknown(
            f"a loop of {length} turns with its covariances, which would be as many programs"
            ' (use precision="diagonal")',
            context.where,
        )
    order = range(length)[:: -1 if eqn.params["reverse"] else 1]
    rows: dict[int, list[Any]] = {}
    for number in order:
        row = [_row(context, x, number) for x in stacked]
        found = run(eqn.params["jaxpr"], [*constants, *carry, *row])
        carry, rows[number] = found[: len(carry)], found[len(carry) :]
    results: list[Any] = []
    for place, var in enumerate(eqn.outvars[len(carry) :]):
        column = [rows[number][place] for number in range(length)]
        if any(isinstance(x, Hidden) for x in column):
            results.append(_words(context, var.aval))
        elif any(map(is_random, column)):
            moments = [context.moments(x) for x in column]
            results.append(
                context.linear(
                    jnp.stack([x.mean for x in moments]), jnp.stack([x.variance for x in moments])
                )
            )
        else:
            results.append(jnp.stack(column))
    return [*carry, *results]


def _row(context: Context, x: Any, number: int) -> Any:
    if isinstance(x, Hidden):
        name = context.name("row", number, x)
        value = None if x.value is None else x.value[number]
        return Hidden(x.shape[1:], x.dtype, name, x.count, x.set_bits, value)
    if is_random(x):
        moments = context.moments(x)
        return context.linear(moments.mean[number], moments.variance[number])
    return x[number]


def _form(x: Any) -> _Form:
    if isinstance(x, Hidden):
        return _Form("hidden", None if math.isnan(x.count) else x.count)
    return _RANDOM if is_random(x) else _KNOWN


def _joined(a: _Form, b: _Form) -> _Form:
    if a == b:
        return a
    if "hidden" in (a.kind, b.kind):
        return _Form("hidden")
    return _RANDOM


def _arrays(context: Context, x: Any, form: _Form) -> Any:
    if form.kind == "hidden":
        return ()
    if form.kind == "known":
        return (x,)
    moments = context.moments(x)
    return (moments.mean, moments.variance)


def _value(context: Context, arrays: Any, form: _Form, aval: Any) -> Any:
    if form.kind == "hidden":
        return _words(context, aval, UNKNOWN if form.count is None else form.count)
    if form.kind == "known":
        return arrays[0]
    return Moments(*arrays)
