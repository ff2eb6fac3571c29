"""Whether the outputs of a function, and the random numbers drawn in it, depend on its input.

The function is traced under `jax.vmap` over many inputs. Every array that depends on the input then
has an axis of that length, even through loops, branches and calls. No other array has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

# An unusual length, so that hardly any other axis of an array of keys has it. A short one, because
# a callback is traced once for each input.
_LENGTH = 31
_DRAWS = ("random_bits", "random_unwrap")


class Dependence(NamedTuple):
    """How a function depends on its input."""

    outputs: bool
    """Whether any output depends on it, or all are empty: of no examples there is nothing to draw.
    """
    draws: int
    """The number of random draws whose key depends on it."""
    fixed: int
    """The number of random draws whose key does not."""


def dependence(fn: Callable[[Any], Any], x: Any) -> Dependence:
    """Traces `fn` at `x`, a pytree of arrays."""
    mapped: list[bool] = []
    empty: list[bool] = []

    @jax.custom_batching.custom_vmap
    def watched(*outputs: jax.Array) -> tuple[jax.Array, ...]:
        return outputs

    @watched.def_vmap
    def watch(
        size: int, is_mapped: Sequence[bool], *outputs: jax.Array
    ) -> tuple[tuple[jax.Array, ...], tuple[bool, ...]]:
        mapped.extend(is_mapped)
        return outputs, tuple(is_mapped)

    def traced(x: Any) -> tuple[jax.Array, ...]:
        outputs = [leaf for leaf in jax.tree.leaves(fn(x)) if is_array(leaf)]
        empty.append(are_empty(outputs))
        return watched(*outputs)

    def many(x: Any) -> Any:
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (_LENGTH, *leaf.shape)), x)
        return jax.vmap(traced)(copies)

    program = jax.make_jaxpr(many)(x)
    follow = [_LENGTH in shape for shape in _drawn_from(program.jaxpr)]
    return Dependence(any(mapped) or any(empty), sum(follow), len(follow) - sum(follow))


def are_empty(outputs: Sequence[Any]) -> bool:
    """Whether there are outputs, arrays or types of arrays, and none has an entry."""
    return bool(outputs) and all(0 in x.shape for x in outputs)


def is_array(x: Any) -> bool:
    """Whether `x` is an array of JAX or NumPy, rather than a setting."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def _drawn_from(program: Jaxpr) -> Iterator[tuple[int, ...]]:
    """The shapes of all keys that a program draws from."""
    for equation in program.eqns:
        if equation.primitive.name in _DRAWS:
            aval: Any = equation.invars[0].aval
            yield aval.shape
        for parameter in equation.params.values():
            for part in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                if isinstance(part, (Jaxpr, ClosedJaxpr)):
                    yield from _drawn_from(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
