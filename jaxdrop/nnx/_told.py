"""Layers of this library that `stochastic` tells what to do.

`stochastic` runs a copy of a model. In the copy it sets two attributes of a layer of this library:
`deterministic`, which says whether the layer drops, and `told`, by which the layer leaves aside
what its caller says otherwise, and asks the current run for other rates and a stream.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from flax import nnx

from jaxdrop._mc_dropout import calls
from jaxdrop._mc_dropout.overrides import Change, Overrides
from jaxdrop._mc_dropout.planning import Layer, Seen

Class = TypeVar("Class", bound=type)


@dataclasses.dataclass(frozen=True)
class Told:
    """The attribute `told` of a layer. It is part of the graph of the model: caches of `nnx.jit`
    then keep apart layers, and runs, that are told different things.
    """

    path: str | None = None
    """The path of the layer, if it notes that it runs, or may get other rates."""
    token: Any = None
    """Equal for runs in which the layers get the same rates and layouts."""


class Run(NamedTuple):
    """One call of the copy, for its layers to ask."""

    streams: Mapping[int, nnx.RngStream]
    """Streams of the layers that have none, by the id of the layer. They are not in the graph, so
    that a model that splits itself, as for a scan, does not use one for several steps.
    """
    on: frozenset[str]
    found: Mapping[str, Layer]
    overrides: Overrides
    seen: Seen

    def enter(self, layer: Any, told: Told | None, kwargs: Mapping[str, Any]) -> Change | None:
        """Notes that a layer runs. Returns the rates and the layout that it gets, or None."""
        if told is None or told.path is None:
            return None
        known = self.found[told.path]
        change = change_of(self.overrides, told.path, layer, kwargs)
        self.seen.layers.append(
            known._replace(
                sources=known.sources | (change.sources if known.chosen else frozenset())
            )
        )
        return change if told.path in self.on else None

    def stream(self, layer: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The argument `rngs` for a layer that has no stream and was given none."""
        stream = self.streams.get(id(layer))
        missing = layer.rngs is None and kwargs.get("rngs") is None
        return {"rngs": stream} if missing and stream is not None else {}


RUN: contextvars.ContextVar[Run] = contextvars.ContextVar("run")


def follow(cls: Class) -> Class:
    """Makes the call of a class of layers follow `told`."""
    if "__call__" in vars(cls):
        setattr(cls, "__call__", _following(vars(cls)["__call__"]))  # noqa: B010
    return cls


def _following(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.told is not None:
            args, kwargs = _arguments(self, call, args, kwargs)
        return call(self, *args, **kwargs)

    return called


def _arguments(
    layer: Any, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, without `deterministic`, and with what the run says."""
    run = RUN.get()
    change = run.enter(layer, layer.told, kwargs)
    settings = {"deterministic": None} | (change.arguments(kwargs) if change else {})
    given, named = calls.replaced(call, args, kwargs, settings)
    kinds = inspect.signature(call).parameters
    takes_rngs = "rngs" in kinds or any(each.kind is each.VAR_KEYWORD for each in kinds.values())
    return tuple(given), named | (run.stream(layer, named) if takes_rngs else {})


def rate_of_flax(layer: Any) -> str | None:
    """The name of the attribute with the rate, of a layer that is Flax's or inherits from it."""
    if isinstance(layer, nnx.MultiHeadAttention):
        return "dropout_rate"
    return "rate" if isinstance(layer, nnx.Dropout) else None


def change_of(replacing: Overrides, path: str, layer: Any, kwargs: Mapping[str, Any]) -> Change:
    """The rates and the layout that a call of a layer with these keyword arguments gets."""
    return replacing.of(path, layer, rate_of_flax(layer), kwargs)
