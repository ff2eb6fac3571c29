"""Layers of an NNX model that follow their own settings, whatever their callers say."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxdrop._mc_dropout import calls
from jaxdrop._mc_dropout.overrides import Change, Overrides
from jaxdrop._mc_dropout.planning import Layer
from jaxdrop.functional import elements
from jaxdrop.nnx._base import RngSource, Stochastic
from jaxdrop.nnx.attention import dot_product_attention

LAYERS = (Stochastic, nnx.Dropout, nnx.MultiHeadAttention)


class Seen(NamedTuple):
    """What a trace of the model meets."""

    layers: list[Layer]
    flags: set[str]


class Run(NamedTuple):
    """What the layers of a copy know of the run."""

    streams: Mapping[int, nnx.RngStream]
    """For the id of each layer that has none. A model that takes its graph apart does not know
    them, so they are not in it.
    """
    on: frozenset[str]
    found: Mapping[str, Layer]
    overrides: Overrides
    seen: Seen

    def enter(self, layer: Any, kwargs: Mapping[str, Any]) -> Change | None:
        """Notes that a layer runs. Returns what it gets in place of its own."""
        site = getattr(layer, "jaxdrop_site", None)
        if site is None:
            return None
        known = self.found[site.path]
        change = change_of(self.overrides, site.path, layer, kwargs)
        self.seen.layers.append(
            known._replace(
                sources=known.sources | (change.sources if known.chosen else frozenset())
            )
        )
        return change if site.path in self.on else None


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a layer is, as part of the graph, so that no cache of nnx.jit takes a layer for
    another, or what it gets.
    """

    path: str
    token: Any


RUN: contextvars.ContextVar[Run] = contextvars.ContextVar("run")


class _Dropout(nnx.Dropout):
    """Flax's layer, where its own code could not do it: that compares its rate, and has no layout.
    The mask is the same.
    """

    jaxdrop_change: Change | None = None

    def __call__(
        self, inputs: jax.Array, *, deterministic: bool | None = None, rngs: RngSource | None = None
    ) -> jax.Array:
        if self.jaxdrop_change is None:
            return super().__call__(inputs, deterministic=deterministic, rngs=rngs)
        layer: Any = self
        key = Stochastic._key(layer, layer.rngs if rngs is None else rngs)
        spec = self.jaxdrop_change.spec
        return elements.dropout(
            key, inputs, layer.rate, broadcast_dims=layer.broadcast_dims, spec=spec
        )


def settle(module: Any, settings: Mapping[str, Any], watched: Collection[str] = ()) -> None:
    """Makes a module follow `settings`, whatever its constructor and its caller say.

    A module that has one of the flags in `watched` notes what they are when it is called.
    """
    attributes, arguments = calls.settled(module, settings)
    for name, value in attributes.items():
        setattr(module, name, value)
    cls: Any = type(module)
    takes = callable(module) and calls.takes(cls.__call__, {*settings, *watched})
    if (
        isinstance(module, LAYERS)
        or takes
        or (callable(module) and not vars(module).keys().isdisjoint(watched))
    ):
        # Another class, rather than a wrapper around the module, so that it is still found by its
        # type and its attributes.
        object.__setattr__(module, "__class__", _settled_class(cls, tuple(arguments.items())))


@functools.cache
def _settled_class(cls: Any, arguments: tuple[tuple[str, Any], ...]) -> Any:
    bases: tuple[Any, ...] = (cls,)
    if issubclass(cls, nnx.Dropout):
        bases = (
            (_Dropout,) if cls is nnx.Dropout else (cls, _Dropout)
        )  # what super() finds in a subclass

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = RUN.get()
        if not isinstance(self, LAYERS):
            run.seen.flags.update(
                calls.told_otherwise(functools.partial(cls.__call__, self), self, args, kwargs)
            )
            own, kwargs = calls.replaced(cls.__call__, args, kwargs, dict(arguments))
            return cls.__call__(self, *own, **kwargs)
        change = run.enter(self, kwargs)
        ours = change.arguments(kwargs) if change and not _flax_rate(self) else {}
        own, kwargs = calls.replaced(cls.__call__, args, kwargs, {**dict(arguments), **ours})
        if self.rngs is None and kwargs.get("rngs") is None:
            kwargs["rngs"] = run.streams.get(id(self))
        layer = _changed(self, change) if change and _flax_rate(self) else self
        return bases[0].__call__(layer, *own, **kwargs)

    return type(cls)(
        cls.__name__,
        bases,
        {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__},
    )


def _flax_rate(layer: Any) -> str | None:
    """The name of the rate of a layer that is Flax's."""
    if isinstance(layer, nnx.MultiHeadAttention):
        return "dropout_rate"
    return "rate" if isinstance(layer, nnx.Dropout) else None


def change_of(replacing: Overrides, path: str, layer: Any, kwargs: Mapping[str, Any]) -> Change:
    """What a call of a layer with these keyword arguments gets in place of its own."""
    return replacing.of(path, layer, _flax_rate(layer), kwargs)


def _changed(layer: Any, change: Change) -> Any:
    """A layer that is Flax's, with other attributes."""
    attributes = change.rates | {"jaxdrop_change": change}
    if isinstance(layer, nnx.MultiHeadAttention):
        attributes = change.attention(
            layer.jaxdrop_site.path, layer, nnx.dot_product_attention, dot_product_attention
        )
    # Flax does not let a layer from outside of a transformation be assigned to, not even a copy.
    copied = copy.copy(layer)
    copied.__dict__.update(attributes)
    return copied
