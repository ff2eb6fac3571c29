"""What a function makes of its input: whether its outputs, and what is drawn in it, depend on it.

The function is traced under `jax.vmap` over many inputs. What depends on the input has an axis of
that length then, whatever loops, branches and calls lie between, and what does not has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

# A length that hardly an array of keys has. (Not longer: callbacks are traced as often as that.)
_LENGTH = 31
_DRAWS = ("random_bits", "random_unwrap")


class Dependence(NamedTuple):
    """What depends on the input."""

    outputs: bool
    """Whether any output does."""
    draws: int
    """How many draws do."""
    fixed: int
    """How many do not."""


def dependence(fn: Callable[[Any], Any], x: Any) -> Dependence:
    """Traces `fn`, and looks. `x` is a pytree of arrays."""
    mapped: list[bool] = []

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
        return watched(*(leaf for leaf in jax.tree.leaves(fn(x)) if is_array(leaf)))

    def many(x: Any) -> Any:
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (_LENGTH, *leaf.shape)), x)
        return jax.vmap(traced)(copies)

    program = jax.make_jaxpr(many)(x)
    follow = [_LENGTH in shape for shape in _drawn_from(program.jaxpr)]
    return Dependence(any(mapped), sum(follow), len(follow) - sum(follow))


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
