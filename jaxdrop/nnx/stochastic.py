"""An NNX model with its dropout on and all else as in evaluation."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop import _stochastic
from jaxdrop._stochastic import RUNNING_STATISTICS, Layer, Plan
from jaxdrop.nnx._base import Stochastic
from jaxdrop.nnx.recurrent import StackedRNN

_LAYERS = (Stochastic, nnx.Dropout, nnx.MultiHeadAttention)


def stochastic(
    model: nnx.Module,
    *,
    layers: _stochastic.Layers = "all",
    shared_mask: bool = False,
    in_axes: _stochastic.InAxes = 0,
    out_axes: int = 0,
    method: Callable[..., Any] | str | None = None,
) -> Callable[..., Any]:
    """A pure function `fn(key, *inputs, **kwargs)` of a trained model, in which dropout is random and nothing else is.

        fn = jaxdrop.nnx.stochastic(model)
        keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
        samples = jaxdrop.mc.predict(lambda key: fn(key, x), keys)

    The function has a copy of the model as it is now. Neither the model's variables nor its random streams are read later or
    changed ever. It does not matter whether the model is in `eval()` or `train()` mode, nor what the constructor of a layer or
    its caller says, as in `nnx.Dropout(0.5, deterministic=True)`, `self.drop(x, deterministic=True)`, or
    `self.norm(x, use_running_average=False)`.

    ===========  ===================================================================================================
    on           the chosen layers among all of `jaxdrop.nnx`, `nnx.Dropout`, and the dropout in Flax's attention
    off          the other ones of these
    evaluation   normalization: what has `use_running_average` uses its running statistics, `update_stats` is False
    as it is     all else. Functions that the model calls itself, such as `jaxdrop.dropout(self.rngs.dropout(), x, 0.5,
                 deterministic=not train)`, get keys, and follow the model's arguments: `fn(key, x, train=True)`
    ===========  ===================================================================================================

    The same key gives the same output. All random streams, those of the model and those among the inputs, start from keys of
    their own that are derived from `key`, stacked ones from as many keys. A model whose call takes `rngs` gets an `nnx.Rngs` made
    from `key`, unless one is given. A layer takes its key as in training, from its caller's `rngs` or from its own stream; one
    that has neither gets a stream. Keys among the inputs are used as they are. A stream with the tag `carry` is for the first
    state of an RNN, and stays.

    Run the function under `jax.jit`, and under `jax.vmap` for many keys. The variables of a large model are better not constants
    of the compiled program: `nnx.jit(lambda model, key, x: jaxdrop.nnx.stochastic(model)(key, x))`.

    Args:
      model: any NNX module.
      layers: which dropout layers are on. `"all"`; `"last"`, the last one that runs and drops something, so that all before it
        need be computed once only; a pattern, or a list of patterns, for paths as in `"encoder/*"`, in which `*` stands for any
        characters, `/` too; or a function of (path, module). A layer that is called twice is one layer, and so are layers that
        are stacked by `nnx.vmap`.
      shared_mask: if False, each example has masks of its own. If True, all examples of a batch share one, whatever the kind of
        dropout, so that a key stands for a function, as in Thompson sampling, BatchBALD or for smooth curves. The model then runs
        under `jax.vmap` on batches of one.
      in_axes: with `shared_mask`, where the batch is, as in `jax.vmap`: an axis for all inputs, or one for each, None for an
        input that has no batch axis. That of keyword arguments is axis 0. Scalars, and what is no array, go to every example.
      out_axes: with `shared_mask`, where the batch is in the outputs.
      method: what to call in place of `__call__`: a name, or a function of (model, *inputs).

    Returns:
      The function. Its first call for each form of the inputs traces the model three times more, to find its layers.

    Raises:
      TypeError: `model` is no NNX module.
      ValueError: `layers` is none of the above, or chooses no layer; there is no layer and no random stream. The function raises
        it, with a list of the layers, if the output does not depend on the key, for all rates are 0, or if batch statistics
        change in the call.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an NNX module, got {type(model).__name__}. For Linen there is jaxdrop.linen.stochastic.")
    chooses = _stochastic.chooser(layers)
    found = [_stochastic.describe(path, module, chooses(path, module)) for path, module in _layers(model)]
    name = type(model).__name__
    if layers not in ("all", "last") and not any(layer.chosen for layer in found):
        raise _stochastic.none_chosen(name, layers, found)
    graph, state = nnx.split(nnx.clone(model))
    own = _Model(name, graph, state, {layer.path: layer for layer in found}, method)
    if not found and not own.may_be_random():
        raise _stochastic.nothing_random(name, found)
    return _stochastic.function(own, layers, shared_mask, in_axes, out_axes)


@dataclasses.dataclass(frozen=True)
class _Model:
    name: str
    graph: nnx.GraphDef[Any]
    state: nnx.State[Any, Any]
    found: Mapping[str, Layer]
    method: Callable[..., Any] | str | None

    def may_be_random(self) -> bool:
        """Whether a model without layers has a way to keys."""
        model = nnx.merge(self.graph, self.state, copy=True)
        return bool(list(_streams(model))) or "rngs" in inspect.signature(self._call(model)).parameters

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Layer]:
        paths: list[str] = []
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = {place: leaf for place, leaf in enumerate(leaves) if _stochastic.is_array(leaf)}

        def statistics(inputs: tuple[jax.Array, dict[int, jax.Array]]) -> Any:
            key, arrays = inputs
            args, kwargs = jax.tree.unflatten(structure, [arrays.get(place, leaf) for place, leaf in enumerate(leaves)])
            model, _ = self._run(Plan(frozenset(), frozenset()), key, args, kwargs, paths)
            return nnx.state(model, nnx.BatchStat)

        if _stochastic.varies(statistics, (key, arrays)):
            raise ValueError(
                f"the batch statistics of {self.name} change in the call, and would follow the batch rather than the training."
                " Of a layer that does not call its setting use_running_average, or update_stats, tell the model itself, as in"
                " fn(key, x, train=False)."
            )
        return [self.found[path] for path in paths]

    def run(self, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any], probe: bool = False) -> Any:
        return self._run(plan, key, args, kwargs, [] if probe else None)[1]

    def _run(
        self, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any], paths: list[str] | None
    ) -> tuple[nnx.Module, Any]:
        """The copy of the model that was called, and its output. The layers that run are added to `paths`."""
        model = nnx.merge(self.graph, self.state, copy=True)
        args, named = jax.tree.map(lambda leaf: leaf, (list(args), dict(kwargs)))  # with copies of the streams
        keys = (jax.random.fold_in(key, count) for count in itertools.count())
        for stream in _streams((model, args, named)):
            _restart(stream, next(keys))
        layers = list(_layers(model))
        run = _Run({id(layer): nnx.RngStream(next(keys), tag="dropout") for _, layer in layers if layer.rngs is None}, paths)
        for path, layer in layers:
            if paths is not None:
                layer.jaxdrop_site = _Site(path)
            _settle(layer, {"deterministic": path not in plan.on})
        for _, module in nnx.iter_graph(model):
            if isinstance(module, nnx.Module) and not isinstance(module, _LAYERS):
                _settle(module, RUNNING_STATISTICS)
        call = self._call(model)
        signature = inspect.signature(call)
        if "rngs" in signature.parameters and "rngs" not in signature.bind_partial(*args, **named).arguments:
            named["rngs"] = nnx.Rngs(next(keys))
        token = _RUN.set(run)
        try:
            return model, call(*args, **named)
        finally:
            _RUN.reset(token)

    def _call(self, model: nnx.Module) -> Callable[..., Any]:
        if callable(self.method):
            return functools.partial(getattr(self.method, "__func__", self.method), model)
        return getattr(model, self.method or "__call__")


def _layers(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    """The dropout layers and their paths, but for those in a StackedRNN, which tells them what to do."""
    nodes = [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, _LAYERS)]
    stacks = [path for path, node in nodes if isinstance(node, StackedRNN)]
    for path, node in nodes:
        if not any(path[: len(stack)] == stack != path for stack in stacks):
            yield "/".join(map(str, path)), node


def _streams(node: Any) -> list[nnx.RngStream]:
    """The streams in a graph, but for those of the first states of RNNs."""
    return [stream for _, stream in nnx.iter_graph(node) if isinstance(stream, nnx.RngStream) and stream.tag != "carry"]


def _restart(stream: nnx.RngStream, key: jax.Array) -> None:
    shape = stream.key.get_value().shape
    stream.key.set_value(jax.random.split(key, shape) if shape else key)
    stream.count.set_value(jnp.zeros(shape, jnp.uint32))


# -- a layer that follows its own settings, whatever its caller says


class _Run(NamedTuple):
    """What the layers of a copy know of the run."""

    streams: Mapping[int, nnx.RngStream]
    """For the id of each layer that has none. A model that takes its graph apart does not know them, so they are not in it."""
    paths: list[str] | None
    """Where a layer notes that it runs."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Site:
    """Where a layer is. As part of the graph it is equal to no other, so that no cache of nnx.jit has the layer already."""

    path: str


_RUN: contextvars.ContextVar[_Run] = contextvars.ContextVar("run")


def _settle(module: Any, settings: Mapping[str, Any]) -> None:
    attributes, arguments = _stochastic.settled(module, settings)
    for name, value in attributes.items():
        setattr(module, name, value)
    cls: Any = type(module)
    if isinstance(module, _LAYERS) or (callable(module) and _stochastic.takes(cls.__call__, settings)):
        # Another class, rather than a wrapper around the module, so that it is still found by its type and its attributes.
        object.__setattr__(module, "__class__", _settled_class(cls, tuple(arguments.items())))


@functools.cache
def _settled_class(cls: Any, arguments: tuple[tuple[str, Any], ...]) -> Any:
    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        own, kwargs = _stochastic.replaced(cls.__call__, args, kwargs, dict(arguments))
        if isinstance(self, _LAYERS):
            run = _RUN.get()
            if run.paths is not None:
                run.paths.append(self.jaxdrop_site.path)
            if self.rngs is None and kwargs.get("rngs") is None:
                kwargs["rngs"] = run.streams.get(id(self))
        return cls.__call__(self, *own, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__})
