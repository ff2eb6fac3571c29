"""The values of a traced program: one node a value, and equal values share their node.

Two equations with the same operation, parameters and operands give the same node, in whichever call
or loop they stand. So two keys are known to be equal if they are one node, and what the backward
pass computes again is the node of the forward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

HELD = 1
"""The source that stands for the arrays of numbers that a function holds in its closure."""
_LIMIT = 20_000  # values that a search looks at


@dataclasses.dataclass(slots=True)
class Mask:
    """What a random boolean, or a number made of it, says.

    Attributes:
      draw: the draw that it is made of.
      true: the probability of the entry that is not 0, or None if it is not known in tracing.
      scale: the product of the constants that it was multiplied by.
      traced: whether the probability is a value of the program.
    """

    draw: Draw
    true: float | None
    scale: float = 1.0
    traced: bool = False


@dataclasses.dataclass(slots=True)
class Draw:
    """Random bits of one key.

    Attributes:
      key: the node of the key.
      bits: the node of the bits.
      generator: the name of the key's generator.
      places: where the program draws them, outside of the backward pass.
      again: whether the backward pass draws them again.
      in_remat: whether the draw stands in a part that the backward pass computes again.
    """

    key: Node
    bits: Node
    generator: str
    places: list[Any] = dataclasses.field(default_factory=list)
    again: bool = False
    in_remat: bool = False


@dataclasses.dataclass(eq=False, slots=True)
class Node:
    """A value.

    Attributes:
      number: the place in the order of the program.
      op: the name of the operation, or of the kind of source.
      params: the parameters that distinguish it.
      inputs: the operands.
      shape, dtype: those of the value.
      deps: the sources that it depends on, as bits of a number; `HELD` is one.
      const: the value, if it is one number in all entries and known.
      rand: the draw of which it is an elementwise function, and of no other array.
      drawn: the draw that begins with this value.
      words: the key whose raw words it is a function of.
      mask: set for random booleans, and for numbers made of one.
      range: how many values random words take, from 0 on, each equally often; of random floats the
        width of the interval, from 0 on, in which they are uniform; 0 if neither is known.
      backward: whether it is computed in the backward pass.
      users: the nodes that take it as an operand.
    """

    number: int
    op: str
    params: Any
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: Any
    deps: int
    const: Any = None
    rand: Draw | None = None
    drawn: Draw | None = None
    words: Node | None = None
    mask: Mask | None = None
    range: float = 0.0
    backward: bool = False
    users: list[Node] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)

    @property
    def known(self) -> bool:
        """Whether the program needs no argument to compute it."""
        return self.const is not None or (self.deps & ~HELD == 0 and self.rand is None)

    @property
    def is_data(self) -> bool:
        """Whether it may be dropped from: whether it is computed from an argument, or from an array
        of numbers that the function holds.
        """
        return self.const is None and self.deps != 0

    @property
    def is_key(self) -> bool:
        return not isinstance(self.dtype, np.dtype) and "key<" in str(self.dtype)


class Graph:
    """All nodes of a program, with the table that finds equal ones."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._table: dict[Any, tuple[Node, ...]] = {}
        self._literals: dict[Any, Node] = {}
        self.kept: list[Any] = []  # constants, whose addresses stand in the table

    def node(
        self,
        op: str,
        params: Any,
        inputs: tuple[Node, ...],
        aval: Any,
        deps: int,
        backward: bool = False,
    ) -> Node:
        """A new node, whether or not there is an equal one."""
        found = Node(
            len(self.nodes), op, params, inputs, aval.shape, aval.dtype, deps, backward=backward
        )
        self.nodes.append(found)
        for each in inputs:
            each.users.append(found)
        return found

    def equal(
        self, op: str, params: dict[str, Any], inputs: tuple[Node, ...], avals: Any, backward: bool
    ) -> tuple[tuple[Node, ...], bool]:
        """The nodes of the results of an operation, and whether they are new."""
        key = (
            op,
            tuple(params.values()),
            tuple(each.number for each in inputs),
            tuple((aval.shape, aval.dtype) for aval in avals),
        )
        found = self._table.get(key)
        if found is not None:
            if not backward:
                for each in found:
                    each.backward = False
            return found, False
        deps = sources_of(inputs)
        made = tuple(
            self.node(op if i == 0 else f"{op}.{i}", params, inputs, aval, deps, backward)
            for i, aval in enumerate(avals)
        )
        self._table[key] = made
        return made, True

    def literal(self, value: Any, aval: Any) -> Node:
        """The node of a constant: equal for equal numbers, and for arrays that are one object."""
        number = scalar(value, aval.dtype) if np.size(value) == 1 else None
        address: Any = id(value) if number is None else number.tobytes()
        key = (address, str(aval.dtype), aval.shape)
        if key not in self._literals:
            made = self.node("constant", {"value": value}, (), aval, 0)
            made.const = number
            if number is None and jnp.issubdtype(aval.dtype, jnp.inexact):
                made.deps = HELD
            self._literals[key] = made
            self.kept.append(value)
        return self._literals[key]


def sources_of(nodes: Iterable[Node]) -> int:
    """All that these values depend on."""
    return functools.reduce(operator.or_, (each.deps for each in nodes), 0)


def scalar(value: Any, dtype: Any) -> Any:
    """A number as NumPy has it in a dtype; None for keys and other values that are no number."""
    try:
        return np.asarray(value).reshape(()).astype(dtype)
    except (TypeError, ValueError):
        return None


def ancestors(start: Node, limit: int = _LIMIT) -> Iterator[Node]:
    """The values that a value is computed from in the forward pass, the nearest first."""
    yield from _search(
        (start,), lambda node: (each for each in node.inputs if not each.backward), limit
    )


def descendants(
    start: Node, limit: int = _LIMIT, ends: Callable[[Node], bool] = lambda node: False
) -> Iterator[Node]:
    """The values of the forward pass that are computed from a value, the nearest first; behind a
    value at which the search `ends` there are none.
    """

    def step(node: Node) -> Iterable[Node]:
        return () if ends(node) else (user for user in node.users if not user.backward)

    yield from _search((start,), step, limit)


def _search(start: Iterable[Node], step: Any, limit: int) -> Iterator[Node]:
    queue, seen = list(start), set()
    for node in queue:
        for following in step(node):
            if following.number not in seen:
                seen.add(following.number)
                yield following
                queue.append(following)
                if len(queue) > limit:
                    return


# Operations that move or convert entries, and compute nothing.
MOVES = frozenset(
    [
        "broadcast_in_dim",
        "checkpoint_name",
        "convert_element_type",
        "copy",
        "copy_p",
        "expand_dims",
        "name",
        "optimization_barrier",
        "pvary",
        "pcast",
        "reduce_precision",
        "reshape",
        "sharding_constraint",
        "reshard",
        "squeeze",
        "stop_gradient",
        "tile",
        "transpose",
    ]
)


def moved_from(node: Node) -> Node:
    """The value that others are moved copies of."""
    while node.op in MOVES:
        node = node.inputs[0]
    return node


def rows_of(array: Node) -> tuple[Node, ...]:
    """The values that an array was put together from along its first axis; itself if it was not."""
    if array.op == "stack" and array.params.get("axis") == 0:
        return array.inputs
    if array.op == "concatenate" and array.params["dimension"] == 0:
        rows = tuple(each.inputs[0] for each in array.inputs if each.op in MOVES)
        if [row.shape for row in rows] == [array.shape[1:]] * len(array.inputs):
            return rows
    return (array,)


def parts_of(mask: Node) -> Iterator[Node]:
    """The parts of random arrays that a mask is made of: the elements that a loop gets of an array,
    the part of a device.
    """
    node: Node | None = mask
    while node is not None:
        if node.op in ("element", "shard"):
            yield node
        node = next((each for each in node.inputs if each.rand is mask.rand), None)
