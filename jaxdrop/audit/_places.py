"""Where an operation of a traced program stands: module path, line of the user's code, loops."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax

from jaxdrop import _source_lines

_WRAPPED = re.compile(
    r"\b(?:jvp|vmap|transpose|jit|pjit|pmap|shard_map|remat\w*|checkpoint|scan|while|cond|linearize)"
    r"\(([^()]*)\)"
)
_DROPPED = frozenset(
    ["", "body", "branch", "checkpoint", "closed_call", "cond", "rematted_computation", "while"]
)
_OURS = "jaxdrop."
_EQUINOX = "eqx.nn."
# What scopes begin with that stand for a module of NNX or Equinox, followed by its whole path.
WATCHED = "model:"


@dataclasses.dataclass
class Loop:
    """A loop, or a part of a program that runs on many devices.

    Attributes:
      kind: `scan`, `while` or `shard_map`.
      bit: the source that stands for the number of the iteration, or for the axis.
      carried: the source that stands for what an iteration gets from the one before; of devices,
        `bit`.
      length: the number of iterations; None if it is not known in tracing.
      name: the axis of a mesh.
      place: where the loop stands.
      differentiates: whether gradients are computed inside.
      carries: whether an iteration depends on the one before.
      stacks: whether weights are among what it goes over, as in a loop over layers.
    """

    kind: str
    bit: int
    carried: int
    length: int | None
    name: str
    place: Place
    differentiates: bool = False
    carries: bool = False
    stacks: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an equation stands.

    Attributes:
      scopes: the text of the name stacks of the calls around it, and its own.
      source: what knows the line of the user's code.
      loops: the loops around it, the outer one first.
      backward: whether it belongs to a backward pass.
      remat: whether it stands in a part that the backward pass computes again.
      held: whether the line is that of a call around it, because the code inside is a library's.
      call: the equation that calls the code around it; within a function of this library, the one
        that calls the function.
    """

    scopes: tuple[str, ...] = ()
    source: Any = None
    loops: tuple[Loop, ...] = ()
    backward: bool = False
    remat: bool = False
    held: bool = False
    call: Any = None

    @property
    def path(self) -> tuple[str, ...]:
        """The modules around it, the outer one first."""
        parts = [part for part in self._parts() if not part.startswith((_OURS, _EQUINOX))]
        watched = [part.removeprefix(WATCHED) for part in parts if part.startswith(WATCHED)]
        return tuple(watched[-1].split(".") if watched else parts)

    def within(self, path: str) -> bool:
        """Whether it stands in the module with this path."""
        parts = self._parts()
        if WATCHED + path.replace("/", ".") in parts or not path:
            return True
        wanted = [part for part in path.split("/") if part != "~"]
        return any(parts[at : at + len(wanted)] == wanted for at in range(len(parts)))

    @property
    def variant(self) -> str | None:
        """The name of this library's function, if it is one."""
        ours = [part for part in self._parts() if part.startswith(_OURS)]
        return ours[0].removeprefix(_OURS) if ours else None

    @property
    def site(self) -> tuple[Any, ...]:
        """What all draws of one call of this library have in common."""
        return self.variant, id(self.call), id(self.source)

    @property
    def line(self) -> str | None:
        """`file:line` in the user's code; None if no frame of it is known."""
        return _source_lines.user_line(self.source)

    @property
    def where(self) -> str:
        """The module path, or the line; both if there are both."""
        path, line = "/".join(self.path), self.line
        return f"{path} ({line})" if path and line else path or line or "?"

    @property
    def repeats(self) -> int:
        """How often the loops around it run it."""
        return math.prod(loop.length or 1 for loop in self.loops)

    def runs(self, deps: int) -> int:
        """How many values the loops around it make of one that depends on these sources."""
        return math.prod(loop.length or 1 for loop in self.loops if loop.bit & deps)

    def _parts(self) -> list[str]:
        return _parts_of("/".join(self.scopes))


@functools.cache
def _parts_of(text: str) -> list[str]:
    """The names in a name stack, without those of transformations."""
    while (found := _WRAPPED.sub(r"\1", text)) != text:
        text = found
    return [part for part in text.split("/") if part not in _DROPPED]


def function_is_library(jaxpr: Any) -> bool:
    """Whether a traced function was written by a library. Its trace may be an old one, made for
    another call, whose lines are those of that call.
    """
    text = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None)
    return isinstance(text, str) and _source_lines.names_library(text)


def is_backward(scopes: str) -> bool:
    """Whether a name stack is that of a backward pass."""
    return "transpose(" in scopes or "rematted_computation" in scopes


def key_type(dtype: Any) -> str:
    """The name of a key's generator, such as `threefry2x32`."""
    tag = str(dtype).removeprefix("key<").removesuffix(">")
    return {"fry": "threefry2x32", "urbg": "unsafe_rbg"}.get(tag, tag)


def is_array(value: Any) -> bool:
    """Whether a value is an array, or the shape of one."""
    return isinstance(value, jax.Array | jax.ShapeDtypeStruct) or (
        hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")
    )
