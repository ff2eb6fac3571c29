"""Splits a function of a key into the part that does not depend on the key, the prefix, and the
rest, so that the prefix is computed once for all keys.

`jax.vmap` over keys does not batch operations that do not depend on a key. But a loop over chunks
of keys would repeat them in every turn.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, primitives

# By name, not by the primitive itself: where a version of JAX renames one of these, results stay
# right and only this saving is lost, while a missing primitive would be an error on import.
# tests/test_relies_on_flax.py fails on a name that JAX does not have.
_CHECKPOINTS = ("checkpoint", "remat", "remat2")
# Operations of one cycle an entry. If the result of one in the prefix is larger than its inputs, it
# is not stored for the rest: the rest computes it again, which takes less time than to read it.
_CHEAP = {
    *("broadcast_in_dim", "convert_element_type", "iota", "reshape", "squeeze"),
    *("add", "max", "min", "mul", "neg", "sub", "and", "not", "or", "xor"),
    *("shift_left", "shift_right_logical"),
    *("eq", "ge", "gt", "le", "lt", "ne", "select_n"),
}


class Traced(NamedTuple):
    """A traced function of a key."""

    program: Any
    """A closed jaxpr, whose argument is a key."""
    structure: Any
    """The pytree structure of its results."""

    def run(self, constants: Sequence[jax.Array], key: jax.Array) -> Any:
        """What the function returns, for the arrays that it closes over and a key."""
        return jax.tree.unflatten(
            self.structure, jax.core.eval_jaxpr(self.program.jaxpr, constants, key)
        )


class Split(NamedTuple):
    """`fn(key)` as `rest(prefix(constants), key)`."""

    constants: Sequence[jax.Array]
    """The arrays that `fn` closes over."""
    prefix: Callable[[Sequence[jax.Array]], Sequence[jax.Array]]
    rest: Callable[[Sequence[jax.Array], jax.Array], Any]


def trace(fn: Callable[[jax.Array], Any], keys: jax.Array) -> Traced:
    """Traces `fn` for one of `keys`."""
    program, shapes = jax.make_jaxpr(fn, return_shape=True)(_one_of(keys))
    return Traced(program, jax.tree.structure(shapes))


def whole(traced: Traced) -> Split:
    """A split with the whole function in the rest, for programs that `split` refuses."""
    return Split(traced.program.consts, lambda constants: constants, traced.run)


def split(traced: Traced) -> Split:
    """The function in two pure parts.

    The bodies of `jax.jit` and `jax.checkpoint` are split too, and the rest of a `jax.checkpoint`
    stays under it. A loop, and a function with a custom derivative, are not split: they belong to
    the rest if any of their inputs depends on the key.

    Raises:
      ValueError: the function has side effects, which would happen another number of times.
    """
    closed = traced.program
    if closed.effects:
        raise ValueError(f"it has the side effects {closed.effects}")
    program, drawn = _Program(), _Value(1, known=False)
    outputs = program.add(closed.jaxpr, closed.consts, [drawn])
    inputs, run_rest = _function(program.rest, outputs)
    kept = [value for value in inputs if value is not drawn]
    needed, run_prefix = _function(program.prefix, kept)

    def rest(known: Sequence[jax.Array], key: jax.Array) -> Any:
        values = dict(zip(kept, known, strict=True)) | {drawn: key}
        return jax.tree.unflatten(traced.structure, run_rest([values[value] for value in inputs]))

    return Split([program.constants[value] for value in needed], run_prefix, rest)


def _one_of(keys: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of one key, with the mesh axes over which it varies. (`keys[0]` would need an output
    layout on a mesh with explicit axes.)
    """
    found = []
    jax.eval_shape(jax.vmap(lambda key: found.append(jax.eval_shape(lambda key: key, key))), keys)
    return found[0]


@dataclasses.dataclass(eq=False)
class _Value:
    """A value in the program."""

    size: int
    """How many entries it has."""
    known: bool = True
    """Whether it does not depend on the key."""
    again: bool = False
    """Whether it is known, and still the rest computes it again."""
    literal: Any = None
    """The number, if it is a literal of the program."""


class _Step(NamedTuple):
    call: Callable[..., Sequence[jax.Array]]
    inputs: Sequence[_Value]
    outputs: Sequence[_Value]


class _Program:
    """The operations that do not depend on the key, and the others. Some cheap ones of the former
    are in both lists.
    """

    def __init__(self) -> None:
        self.constants: dict[_Value, jax.Array] = {}
        self.prefix: list[_Step] = []
        self.rest: list[_Step] = []

    def add(
        self, jaxpr: Any, constants: Sequence[jax.Array], inputs: Sequence[_Value]
    ) -> list[_Value]:
        """Adds the operations of `jaxpr`, and returns its results."""
        arrays = {_Value(math.prod(array.shape)): array for array in constants}
        self.constants |= arrays
        values: dict[Any, _Value] = dict(
            zip((*jaxpr.constvars, *jaxpr.invars), (*arrays, *inputs), strict=True)
        )

        def read(atom: Any) -> _Value:
            return _Value(1, literal=atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            used = [read(atom) for atom in equation.invars]
            known = all(value.known for value in used)
            if not known and _is_plain_jit(equation):
                inner = equation.params["jaxpr"]
                results = self.add(inner.jaxpr, inner.consts, used)
            elif not known and equation.primitive.name in _CHECKPOINTS:
                results = self._add_checkpoint(equation, used)
            else:
                sizes = [math.prod(variable.aval.shape) for variable in equation.outvars]
                again = known and equation.primitive.name in _CHEAP
                again = again and all(value.again or value.size < sizes[0] for value in used)
                results = [_Value(size, known, again) for size in sizes]
                variables, call = _alone(jaxpr, equation)
                step = _Step(call, [values[variable] for variable in variables], results)
                if known:
                    self.prefix.append(step)
                if again or not known:
                    self.rest.append(step)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _add_checkpoint(self, equation: JaxprEqn, used: Sequence[_Value]) -> list[_Value]:
        outer, self.rest = self.rest, []
        results = self.add(equation.params["jaxpr"], (), used)
        inner, self.rest = self.rest, outer
        drawn = {value: _Value(value.size, known=False) for value in results if not value.known}
        inputs, run = _function(inner, list(drawn))
        again = jax.checkpoint(
            run, prevent_cse=equation.params["prevent_cse"], policy=equation.params["policy"]
        )
        self.rest.append(_Step(lambda *values: again(values), inputs, list(drawn.values())))
        return [drawn.get(value, value) for value in results]


def _is_plain_jit(equation: JaxprEqn) -> bool:
    """Whether an operation is a `jax.jit` without layouts and without options for the compiler."""
    if equation.primitive is not primitives.jit_p:
        return False
    params = equation.params
    shardings = (*params["in_shardings"], *params["out_shardings"])
    layouts = (*params["in_layouts"], *params["out_layouts"])
    stated = any(isinstance(each, jax.sharding.Sharding) for each in shardings)
    stated = stated or any(layout is not None for layout in layouts)
    return not (stated or params["compiler_options_kvs"])


def _alone(
    jaxpr: Jaxpr, equation: JaxprEqn
) -> tuple[list[Any], Callable[..., Sequence[jax.Array]]]:
    """The variables of one equation, and the equation as a function of them."""
    variables = list(
        dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))
    )
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
    return variables, functools.partial(jax.core.eval_jaxpr, alone, ())


def _function(
    steps: Sequence[_Step], outputs: Sequence[_Value]
) -> tuple[list[_Value], Callable[[Sequence[jax.Array]], list[jax.Array]]]:
    """The values that a function of the outputs takes, and this function: it runs those of the
    steps that the outputs need.
    """
    wanted, needed = dict.fromkeys(outputs), []
    for step in reversed(steps):
        if not wanted.keys().isdisjoint(step.outputs):
            needed.append(step)
            wanted |= dict.fromkeys(step.inputs)
    needed.reverse()
    made = {value for step in needed for value in step.outputs}
    inputs = [value for value in wanted if value not in made and value.literal is None]

    def run(arguments: Sequence[jax.Array]) -> list[jax.Array]:
        values = dict(zip(inputs, arguments, strict=True))

        def read(wanted: Sequence[_Value]) -> list[Any]:
            return [values[value] if value.literal is None else value.literal for value in wanted]

        for step in needed:
            values.update(zip(step.outputs, step.call(*read(step.inputs)), strict=True))
        return read(outputs)

    return inputs, run
