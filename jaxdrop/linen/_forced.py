"""How Linen layers are made to follow settings: an argument by which `stochastic` turns the layers
of this library on or off, and attributes that hold during one call.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxdrop import _checks


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Forced:
    """A value of the argument `deterministic` that takes precedence over the attribute. As a plain
    bool it must not be given where the attribute is set, as in Flax's layers.

    It is static in JAX's transformations, so that `nn.jit` and `nn.remat` of a layer do not trace
    it.
    """

    off: bool


def is_off(layer: Any, deterministic: Any) -> bool:
    """Whether a layer drops nothing in a call with this argument."""
    if isinstance(deterministic, Forced):
        return deterministic.off
    merged = nn.merge_param("deterministic", layer.deterministic, deterministic)
    return _checks.check_flag(merged, "deterministic")


@contextlib.contextmanager
def with_attributes_set(module: nn.Module, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Sets attributes of a module, which is otherwise frozen, during one call."""
    before = {name: getattr(module, name) for name in attributes}
    try:
        for name, value in attributes.items():
            object.__setattr__(module, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
