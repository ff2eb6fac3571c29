"""Walks a traced program, and notes where it draws random bits and what it drops with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxdrop import _equations
from jaxdrop.audit import _elementwise
from jaxdrop.audit._applications import Application, applied
from jaxdrop.audit._graph import HELD, Draw, Graph, Node, sources_of
from jaxdrop.audit._places import Place, function_is_library, is_backward, key_type

# Reductions over an axis of devices: their result is the same on all of them.
_COLLECTIVES = frozenset(
    ["all_gather", "all_gather_invariant", "all_gather_reduced", "pmax", "pmin", "psum",
     "psum2", "psum_invariant"]
)  # fmt: skip
# What a second call need not return again.
_IMPURE = frozenset(["new_ref", "get", "swap", "addupdate", "freeze", "io_callback"])
_WRITES = frozenset(["swap", "addupdate"])


class Walk:
    """One pass over a program. `handlers` are for the equations that run programs of their own.

    Attributes:
      graph: its values.
      draws: what it draws, by the key and the bits.
      applications: what it does with the masks, in the order of the program.
      kept: masks that the backward pass gets from the forward pass, with the place and with what
        hands them on.
      written: what the program writes to references that it was given, a result as well.
      axes: the sources that stand for the axes of a mesh.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self.graph = Graph()
        self.draws: dict[tuple[int, int], Draw] = {}
        self.applications: list[Application] = []
        self.kept: list[tuple[Node, Place, str]] = []
        self.written: list[Node] = []
        self._held: dict[int, list[Node]] = {}  # what each reference may hold
        self.recording = True
        self._source = HELD
        self.axes: dict[str, int] = {}
        self._scopes: dict[Any, str] = {}

    def source(self) -> int:
        """A bit for something that values depend on."""
        self._source *= 2
        return self._source

    def axis(self, name: str) -> int:
        """The source that stands for an axis of a mesh."""
        if name not in self.axes:
            self.axes[name] = self.source()
        return self.axes[name]

    def closed(self, jaxpr: Any, inputs: Sequence[Node], place: Place) -> list[Node]:
        """The results of a program inside the program."""
        consts: Sequence[Any] = getattr(jaxpr, "consts", ())
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        env: dict[Any, Node] = {}
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.graph.literal(value, var.aval)
        for var, node in zip(jaxpr.invars, inputs, strict=True):
            env[var] = node

        def read(atom: Any) -> Node:
            if isinstance(atom, Literal):
                return self.graph.literal(atom.val, atom.aval)
            return env[atom]

        for eqn in jaxpr.eqns:
            found = self.equation(eqn, tuple(map(read, eqn.invars)), self.at(eqn, place))
            for var, node in zip(eqn.outvars, found, strict=True):
                env[var] = node
        return [read(atom) for atom in jaxpr.outvars]

    def at(self, eqn: Any, place: Place) -> Place:
        """The place of an equation in a program that stands at a place."""
        stack = eqn.source_info.name_stack
        text = self._scopes.get(stack)
        if text is None:
            text = self._scopes[stack] = str(stack)
        return Place(
            (*place.scopes, text) if text else place.scopes,
            place.source if place.held else eqn.source_info,
            place.loops,
            place.backward or is_backward(text),
            place.remat,
            place.held,
            place.call,
        )

    def equation(self, eqn: Any, inputs: tuple[Node, ...], place: Place) -> Sequence[Node]:
        """The results of an equation; what it draws and drops is noted."""
        name = eqn.primitive.name
        params = eqn.params
        if place.backward:
            for loop in place.loops:
                loop.differentiates = loop.differentiates or not loop.place.backward
        handler = self._handlers.get(name)
        if handler is not None:
            return handler(self, eqn, inputs, place)
        inner = None if name == "pallas_call" else _equations.called(params, len(inputs))
        if inner is not None:
            return self.closed(inner, inputs, entered(inner, place, eqn))
        if name == "axis_index":
            (out,), _ = self.graph.equal(
                name, params, inputs, [eqn.outvars[0].aval], place.backward
            )
            for axis in _names(params["axis_name"]):
                out.deps |= self.axis(axis)
            return (out,)
        avals = [var.aval for var in eqn.outvars]
        if name in _IMPURE or not all(hasattr(aval, "shape") for aval in avals):
            return self._opaque(eqn, inputs, place)
        outs, new = self.graph.equal(name, params, inputs, avals, place.backward)
        if new:
            if name in _COLLECTIVES:
                self._reduced(params, outs)
            self._settle(name, params, outs, inputs)
        if name == "squeeze" and outs[0].is_key:
            outs = (self._row_of_split(outs[0], eqn.outvars[0].aval, place),)
        self._note(name, outs, inputs, place)
        return outs

    def _row_of_split(self, node: Node, aval: Any, place: Place) -> Node:
        """A key taken from a split, as the key that folding its number in gives, if they are equal:
        those of threefry, in the mode that is JAX's default.
        """
        config: Any = jax.config
        rows = node.inputs[0]
        split = rows.inputs[0] if rows.op == "slice" else None
        if (
            split is None
            or split.op != "random_split"
            or key_type(node.dtype) != "threefry2x32"
            or len(split.shape) != 1
            or not config.jax_threefry_partitionable
        ):
            return node
        number = self.graph.literal(
            np.uint32(rows.params["start_indices"][0]), jax.ShapeDtypeStruct((), np.uint32)
        )
        inputs = (split.inputs[0], number)
        (folded,), _ = self.graph.equal("random_fold_in", {}, inputs, [aval], place.backward)
        return folded

    def _opaque(self, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
        """The results of an operation with effects. A value that is read from a reference depends
        on all values that were written to it before.
        """
        name = eqn.primitive.name
        sources = (*inputs, *(held for each in inputs for held in self._held.get(each.number, ())))
        deps = sources_of(sources)
        if name in _WRITES:
            self._held.setdefault(inputs[0].number, []).append(inputs[1])
            if inputs[0].op != "new_ref":
                self.written.append(inputs[1])
        return [
            self.graph.node(name, {}, sources, Shaped(var.aval), deps, place.backward)
            for var in eqn.outvars
        ]

    def _reduced(self, params: dict[str, Any], outs: Sequence[Node]) -> None:
        if params.get("axis_index_groups") is not None:
            return
        for axis in _names(params.get("axes", params.get("axis_name"))):
            for out in outs:
                out.deps &= ~self.axis(axis)

    def _settle(
        self, name: str, params: dict[str, Any], outs: Sequence[Node], inputs: tuple[Node, ...]
    ) -> None:
        if name == "random_bits":
            outs[0].rand = outs[0].drawn = self.draw(inputs[0], outs[0])
            outs[0].range = 2.0 ** int(params["bit_width"])
        elif name == "rng_bit_generator":
            outs[1].rand = outs[0].drawn = self.draw(inputs[0], outs[1])
            outs[1].range = 2.0 ** (8 * outs[1].dtype.itemsize)
        elif name == "random_unwrap":
            outs[0].words = inputs[0]
        elif name != "random_split":
            for out in outs:
                _elementwise.settle(self.graph, out, self._made_of_words)

    def _made_of_words(self, bits: Node) -> Draw:
        assert bits.words is not None
        return self.draw(bits.words, bits)

    def draw(self, key: Node, bits: Node) -> Draw:
        """The draw of these bits from this key."""
        found = self.draws.get((key.number, bits.number))
        if found is None:
            generator = key_type(key.dtype) if key.is_key else "raw words"
            found = self.draws[key.number, bits.number] = Draw(key, bits, generator)
        return found

    def _note(
        self,
        name: str,
        outs: Sequence[Node],
        inputs: tuple[Node, ...],
        place: Place,
    ) -> None:
        """Notes where bits are drawn, and where a mask meets an array."""
        if not self.recording or not outs:
            return
        if outs[0].drawn is not None:
            self._drawn(outs[0].drawn, place)
        if place.backward:
            return
        application = applied(name, outs[0], inputs, place)
        if application is not None:
            self.applications.append(application)

    @staticmethod
    def _drawn(draw: Draw, place: Place) -> None:
        if place.backward:
            draw.again = True
        else:
            draw.places.append(place)
            draw.in_remat = draw.in_remat or place.remat


def entered(inner: Any, place: Place, eqn: Any) -> Place:
    """The place of a program inside an equation."""
    jaxpr = getattr(inner, "jaxpr", inner)
    # Whether a checkpoint is `differentiated` says nothing: in the forward scan of a gradient it
    # is, too.
    return dataclasses.replace(
        place,
        held=place.held or function_is_library(jaxpr),
        remat=place.remat or "differentiated" in eqn.params,
        call=place.call if place.variant else eqn,
    )


def _names(axis: Any) -> list[str]:
    return [each for each in (axis if isinstance(axis, tuple | list) else (axis,)) if each]


@dataclasses.dataclass(frozen=True)
class Shaped:
    """The shape and the dtype of what may be no array, such as a reference or a token."""

    aval: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.aval, "shape", ()))

    @property
    def dtype(self) -> Any:
        return getattr(self.aval, "dtype", np.dtype(np.float32))


Handler = Callable[[Walk, Any, tuple[Node, ...], Place], Sequence[Node]]
