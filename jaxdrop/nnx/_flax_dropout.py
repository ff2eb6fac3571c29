"""Flax's NNX dropout, and classes that inherit from it, with the arithmetic of this library.

A layer of Flax, or of a subclass that a user wrote, becomes one of these by another class: the
attributes, the random stream and `isinstance` stay what they were.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
from flax import nnx

from jaxdrop import masks
from jaxdrop._mc_dropout.overrides import Change
from jaxdrop.functional import elements
from jaxdrop.nnx._base import RngSource, Stochastic


class FlaxDropout(nnx.Dropout):
    """Flax's layer, which `stochastic` may give a traced rate, which Flax's code would compare, and
    a layout. The mask is the same.
    """

    jaxdrop_change: Change | None = None
    jaxdrop_replaces: ClassVar[bool] = False
    """Whether this library draws the mask in any case, and not only for a change."""

    def __call__(
        self, inputs: jax.Array, *, deterministic: bool | None = None, rngs: RngSource | None = None
    ) -> jax.Array:
        """As Flax's layer is called."""
        layer: Any = self
        change = self.jaxdrop_change
        if change is None and not (self.jaxdrop_replaces and _draws(layer, deterministic)):
            return super().__call__(inputs, deterministic=deterministic, rngs=rngs)
        key = Stochastic._key(layer, layer.rngs if rngs is None else rngs)
        return elements.dropout(
            key,
            inputs,
            layer.rate,
            broadcast_dims=layer.broadcast_dims,
            spec=None if change is None else change.spec,
        )


class ReplacedDropout(FlaxDropout):
    """Flax's layer, whose masks this library draws wherever one is drawn."""

    jaxdrop_replaces = True


def _draws(layer: Any, deterministic: bool | None) -> bool:
    off = layer.deterministic if deterministic is None else deterministic
    nothing = any(masks.is_number(layer.rate, value) for value in (0, 1))
    return not (off is None or off or nothing)  # None is Flax's error to raise


@functools.cache
def subclass(cls: Any, kind: Any) -> Any:
    """A class like `cls`, which is `nnx.Dropout` or inherits from it, in which `super().__call__`
    finds `kind` before `nnx.Dropout`. `cls` itself if it does so already.
    """
    if issubclass(cls, kind):
        return cls
    if cls is nnx.Dropout or issubclass(kind, cls):
        return kind
    names = ("__module__", "__doc__", "__qualname__")
    return type(cls)(cls.__name__, (cls, kind), {name: getattr(cls, name) for name in names})
