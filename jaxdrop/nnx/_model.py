"""A copy of an NNX model that runs with some of its dropout layers on, and all others off."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop._mc_dropout import calls, overrides, planning
from jaxdrop._mc_dropout.dependence import dependence, is_array
from jaxdrop._mc_dropout.overrides import Overrides
from jaxdrop._mc_dropout.planning import Layer, Plan, Probe, Seen
from jaxdrop.nnx import _forced
from jaxdrop.nnx._told import RUN, Run, Told
from jaxdrop.nnx.stacked import StackedRNN

# Variables that a call may change: those of streams, and what is looked at afterwards.
_KEPT = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate, nnx.Perturbation))


@dataclasses.dataclass(frozen=True)
class Model:
    """A copy of an NNX model, as `jaxdrop._mc_dropout.planning.Model`."""

    name: str
    graph: nnx.GraphDef[Any]
    state: nnx.State[Any, Any]
    found: Mapping[str, Layer]
    overrides: Overrides
    method: Callable[..., Any] | str | None

    def may_be_random(self) -> bool:
        """Whether a model without layers has a way to keys."""
        model = nnx.merge(self.graph, self.state, copy=True)
        call = calls.method_of(model, self.method)
        return bool(_streams(model)) or "rngs" in inspect.signature(call).parameters

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Seen:
        """Traces the model with all its layers off."""
        seen = Seen([], set())
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = {place: leaf for place, leaf in enumerate(leaves) if is_array(leaf)}

        def lost(kind: Any, inputs: tuple[jax.Array, dict[int, jax.Array]]) -> Any:
            """The variables that the call leaves behind and does not return."""
            key, arrays = inputs
            args, kwargs = jax.tree.unflatten(
                structure, [arrays.get(place, leaf) for place, leaf in enumerate(leaves)]
            )
            model, outputs = self._run(
                Plan(frozenset(), frozenset()), key, args, kwargs, "outputs", seen
            )
            returned = set(map(id, jax.tree.leaves(outputs)))
            return [
                leaf for leaf in jax.tree.leaves(nnx.state(model, kind)) if id(leaf) not in returned
            ]

        if dependence(functools.partial(lost, _KEPT), (key, arrays)).outputs:
            statistics = dependence(functools.partial(lost, nnx.BatchStat), (key, arrays)).outputs
            raise _changes(self.name, statistics)
        ran = {layer.path for layer in seen.layers}
        silent = [layer for path, layer in self.found.items() if path not in ran]
        listed = [layer._replace(text=f"{layer.text} (does not run)") for layer in silent]
        return Seen(listed + seen.layers, seen.flags)

    def keys(self) -> list[str]:
        """The paths of variables that are keys, without those of streams."""
        model = nnx.merge(self.graph, self.state, copy=True)
        return planning.paths_of_keys(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))

    def run(
        self,
        plan: Plan,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        probe: Probe = None,
    ) -> Any:
        """Runs the model."""
        return self._run(plan, key, args, kwargs, probe, Seen([], set()))[1]

    def _run(
        self,
        plan: Plan,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        probe: Probe,
        seen: Seen,
    ) -> tuple[Any, Any]:
        """The copy of the model that was called, and its output. The layers that run are added to
        `seen`.
        """
        model = nnx.merge(self.graph, self.state, copy=True)
        args, named = jax.tree.map(
            lambda leaf: leaf, (list(args), dict(kwargs))
        )  # with copies of the streams
        keys = (jax.random.fold_in(key, count) for count in itertools.count())
        for stream in _streams((model, args, named), carry=probe == "draws"):
            _restart(stream, next(keys))
        layers = list(layers_of(model))
        streams = {
            id(layer): nnx.RngStream(next(keys), tag="dropout")
            for _, layer in layers
            if layer.rngs is None
        }
        run = Run(streams, plan.on, self.found, self.overrides, seen)
        token = overrides.unknown() if probe else self.overrides.token()
        for path, layer in layers:
            told = Told(path, token) if probe or self.overrides else Told()
            _forced.settle_layer(layer, path not in plan.on, told)
        others = calls.RUNNING_STATISTICS | (calls.TRAINING if probe == "flags" else {})
        for _, module in nnx.iter_graph(model):
            if isinstance(module, nnx.Module) and not isinstance(module, _forced.LAYERS):
                _forced.settle(module, others, calls.TRAINING if probe else ())
        call = calls.method_of(model, self.method)
        signature = inspect.signature(call)
        if (
            "rngs" in signature.parameters
            and "rngs" not in signature.bind_partial(*args, **named).arguments
        ):
            named["rngs"] = nnx.Rngs(next(keys))
        if self.method is not None:
            seen.flags.update(calls.told_otherwise(call, None, args, named))
            args, named = (
                calls.told_to_drop(call, args, named) if probe == "flags" else (args, named)
            )
        before = RUN.set(run)
        try:
            return model, call(*args, **named)
        finally:
            RUN.reset(before)


def _changes(name: str, statistics: bool) -> ValueError:
    """The error of a model that changes in a call."""
    if statistics:
        return ValueError(
            f"the batch statistics of {name} change in the call, and would follow the batch rather"
            " than the training. Of a layer that does not call its setting use_running_average, or"
            " update_stats, tell the model itself, as in fn(key, x, train=False)."
        )
    return ValueError(
        f"{name} changes its own variables in the call, such as the cache of a decoder, and"
        " stochastic works on a copy, so that the changes are lost. Either\n1. tell the model not"
        " to change them: decode=False, and whole sequences;\n2. pass them, and have them"
        " returned, by a method of your own:\n   def step(model, cache, x):\n      "
        " nnx.update(model, cache)\n       return model(x), nnx.state(model, nnx.Cache)\n   y,"
        " cache = jaxdrop.nnx.stochastic(model, method=step)(key, cache, x)"
    )


def layers_of(model: Any) -> Iterator[tuple[str, Any]]:
    """The dropout layers and their paths, but for those in a StackedRNN, which tells them what to
    do.
    """
    nodes = [
        (path, node) for path, node in nnx.iter_graph(model) if isinstance(node, _forced.LAYERS)
    ]
    stacks = [path for path, node in nodes if isinstance(node, StackedRNN)]
    for path, node in nodes:
        if not any(path[: len(stack)] == stack != path for stack in stacks):
            yield "/".join(map(str, path)), node


def _streams(node: Any, carry: bool = False) -> list[nnx.RngStream]:
    """The streams in a graph; those of the first states of RNNs if `carry`."""
    streams = [stream for _, stream in nnx.iter_graph(node) if isinstance(stream, nnx.RngStream)]
    return [stream for stream in streams if carry or stream.tag != "carry"]


def _restart(stream: nnx.RngStream, key: jax.Array) -> None:
    shape = stream.count[...].shape
    stream.key.set_value(jax.random.split(key, shape) if shape else key)
    stream.count.set_value(jnp.zeros(shape, jnp.uint32))
