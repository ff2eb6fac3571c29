"""The part of a function of a key that does not depend on the key, told from the rest, so that it
is computed once.

`jax.vmap` over keys leaves that part unbatched by itself. A loop over chunks of keys would repeat
it in every turn.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, primitives

_CHECKPOINTS = ("checkpoint", "remat", "remat2")
# Where the result is larger than all that is stored and goes in, these are done again: cheaper than
# to store it and read it.
_CHEAP = {
    *("broadcast_in_dim", "convert_element_type", "iota", "reshape", "squeeze"),
    *(
        "add",
        "max",
        "min",
        "mul",
        "neg",
        "sub",
        "and",
        "not",
        "or",
        "xor",
        "shift_left",
        "shift_right_logical",
    ),
    *("eq", "ge", "gt", "le", "lt", "ne", "select_n"),
}


class Traced(NamedTuple):
    """A function of a key as JAX sees it."""

    program: Any
    """A closed jaxpr of one key."""
    structure: Any
    """The pytree that its results make."""

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
    """All of the function as the rest: correct for every program, and slower."""
    return Split(traced.program.consts, lambda constants: constants, traced.run)


def split(traced: Traced) -> Split:
    """The function in two pure parts.

    What stands under `jax.jit` and `jax.checkpoint` is split as well, and the rest of the latter
    still saves nothing for the backward pass. A loop, or a function with a derivative of its own,
    depends on the key as a whole or not at all.

    Raises:
      ValueError: the function has side effects, which would be lost or done another number of
        times.
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
    """The type of one key, which says along which mapped axes it varies. (To index `keys`, its
    layout would have to be said.)
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
    """Whether it is known and yet formed again in the rest."""
    literal: Any = None
    """Itself, if it stands in the program as a number."""


class _Step(NamedTuple):
    call: Callable[..., Sequence[jax.Array]]
    inputs: Sequence[_Value]
    outputs: Sequence[_Value]


class _Program:
    """The operations that can be done without the key, and those that are left. Some cheap ones are
    in both.
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
    """Whether it is a `jax.jit` that says nothing but what to compute: no layouts, no options."""
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
    """One equation as a function of its variables."""
    variables = list(
        dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))
    )
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
    return variables, functools.partial(jax.core.eval_jaxpr, alone, ())


def _function(
    steps: Sequence[_Step], outputs: Sequence[_Value]
) -> tuple[list[_Value], Callable[[Sequence[jax.Array]], list[jax.Array]]]:
    """The steps that the outputs need, as a function, and the values that it takes."""
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
