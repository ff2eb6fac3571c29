"""Flax's own layers, and other modules, that are made to follow settings whatever their callers
say.

They cannot be told: a caller's argument takes precedence over their attributes. So in the copy of
the model that `stochastic` runs, such a module gets a subclass of its class as its class, whose
call replaces the arguments. A wrapper around the module would hide its type and attributes.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

from flax import nnx

from jaxdrop._mc_dropout import calls
from jaxdrop._mc_dropout.overrides import Change
from jaxdrop.layers.attention import with_attributes
from jaxdrop.nnx._base import Stochastic
from jaxdrop.nnx._flax_dropout import FlaxDropout, subclass
from jaxdrop.nnx._told import RUN, Told, rate_of_flax
from jaxdrop.nnx.attention import MultiHeadAttention, dot_product_attention

OWN = (Stochastic, MultiHeadAttention)
LAYERS = (*OWN, nnx.Dropout, nnx.MultiHeadAttention)


def settle_layer(layer: Any, off: bool, told: Told) -> None:
    """Turns a dropout layer on or off, whatever its constructor and its caller say."""
    if isinstance(layer, OWN):
        layer.deterministic = off
        layer.told = told
    else:
        layer.jaxdrop_told = told
        settle(layer, {"deterministic": off})


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
        # By plain assignment, Flax before 0.12.12 would list `__class__` among the attributes of
        # the graph.
        object.__setattr__(module, "__class__", _settled_class(cls, tuple(arguments.items())))


@functools.cache
def _settled_class(cls: Any, arguments: tuple[tuple[str, Any], ...]) -> Any:
    base = subclass(cls, FlaxDropout) if issubclass(cls, nnx.Dropout) else cls

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = RUN.get()
        given, named = calls.replaced(cls.__call__, args, kwargs, dict(arguments))
        if not isinstance(self, LAYERS):
            bound = functools.partial(cls.__call__, self)
            run.seen.flags.update(calls.told_otherwise(bound, self, args, kwargs))
            return bound(*given, **named)
        change = run.enter(self, self.jaxdrop_told, kwargs)
        layer = _changed(self, change) if change else self
        return base.__call__(layer, *given, **named, **run.stream(self, named))

    return type(cls)(
        cls.__name__,
        (base,),
        {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__},
    )


def _changed(layer: Any, change: Change) -> Any:
    """A layer of Flax with other rates, and with another layout."""
    if rate_of_flax(layer) == "rate":
        return with_attributes(layer, **change.rates, jaxdrop_change=change)
    path, theirs = layer.jaxdrop_told.path, nnx.dot_product_attention
    return with_attributes(layer, **change.attention(path, layer, theirs, dot_product_attention))
