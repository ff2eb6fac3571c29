"""Runs a traced program on values of which mean and variance are known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxdrop import _equations
from jaxdrop.mc._analytic import _draws, _elementwise, _linear, _operations, _programs, _windows
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._values import Hidden, Moments, Uniform, is_random

_ONE_RESULT = {
    "conv_general_dilated": _linear.bilinear,
    "dot_general": _linear.bilinear,
    "reduce_and": _linear.all_or_any,
    "reduce_max": _linear.largest,
    "reduce_min": _linear.largest,
    "reduce_or": _linear.all_or_any,
    "reduce_window": _windows.combined,
    "reduce_window_max": _windows.largest,
    "reduce_window_min": _windows.largest,
    **dict.fromkeys(_operations.SUMS, _linear.summed),
}
_OPAQUE = {
    "pallas_call": "a kernel",
    "shard_map": "a function on parts of arrays (move mc.analytic into it)",
}
# Constants of more entries are computed when the program runs.
_FEW = 16


class Interpreter:
    """Runs programs, with what `context` has seen so far."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def run(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        """The results of a closed jaxpr, or of a jaxpr without constants."""
        jaxpr, constants = (
            (program.jaxpr, program.consts) if isinstance(program, ClosedJaxpr) else (program, ())
        )
        values: dict[Any, Any] = {}

        def write(atoms: Sequence[Any], found: Sequence[Any]) -> None:
            for atom, value in zip(atoms, found, strict=True):
                event = isinstance(value, Moments) and atom.aval.dtype == jnp.bool_
                values[atom] = self.context.event(value.mean) if event else value

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        write((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs))
        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            if any(map(is_random, operands)):
                with self.context.at(eqn):
                    found = self._equation(eqn, operands)
            else:
                found = _known(jaxpr, eqn, operands)
                self.context.remember(eqn, operands, found)
            write(eqn.outvars, found)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        context, name = self.context, eqn.primitive.name
        if name in _OPAQUE:
            raise unknown(_OPAQUE[name], context.where)
        if name == "cond":
            return _programs.branches(context, self.run, eqn, values)
        if name == "scan":
            return _programs.scan(context, self.run, eqn, values)
        if name == "while":
            return _programs.loop(context, self.run, eqn, values)
        inner = _equations.called(eqn.params, len(values))
        if inner is not None and name in _operations.CALLS:
            return self.run(inner, values)
        if name == "sort" and isinstance(values[0], Hidden | Uniform):
            return _draws.sorted_by_words(context, eqn, values)
        # Of constants that a coin chooses, too.
        keys = any(_operations.is_key(getattr(var.aval, "dtype", bool)) for var in eqn.outvars)
        if keys or any(isinstance(value, Hidden) for value in values):
            return _draws.hidden(context, eqn, values)
        if any(isinstance(value, Uniform) for value in values):
            found = _draws.uniform(context, eqn, values)
            if found is not None:
                return found
        if name == "stop_gradient":
            tag = getattr(values[0], "tag", None)
            if tag is None or tag.kind != "max":
                return [values[0]]
            # The number that a softmax subtracts from all logits, without effect on its value.
            return [_elementwise.subtracted(context, values[0])]
        if name in _operations.SAME:
            return list(values)
        if name in _operations.ELEMENTWISE:
            return [_elementwise.elementwise(context, eqn, values)]
        if name in _operations.MOVES:
            return _linear.moved(context, eqn, values)
        if name in _ONE_RESULT:
            return [_ONE_RESULT[name](context, eqn, values)]
        if name in ("argmax", "argmin"):
            return _linear.largest_index(context, eqn, values)
        return _linear.by_jacobian(context, eqn, values)


def _known(jaxpr: Jaxpr, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation of arrays. Few numbers that are known stay known inside `jax.jit`,
    since rules ask for their values: the limits of a uniform variable, the width of a shift.
    """
    size = sum(var.aval.size for var in eqn.outvars if hasattr(var.aval, "size"))
    few = isinstance(size, int) and size <= _FEW  # or the size is a symbol, in an export
    plain = eqn.primitive.name in _operations.ELEMENTWISE | _operations.MOVES
    variables: dict[Any, Any] = {
        atom: value
        for atom, value in zip(eqn.invars, operands, strict=True)
        if not isinstance(atom, Literal)
    }
    alone = jaxpr.replace(
        constvars=[], invars=list(variables), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    # Operations on tracers are traced all the same.
    with jax.ensure_compile_time_eval() if plain and few else contextlib.nullcontext():
        return jax.core.eval_jaxpr(alone, (), *variables.values())
