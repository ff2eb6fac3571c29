"""The arguments of a function that is traced: arrays, models, the step, and everything else."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdrop.audit import _objects
from jaxdrop.audit._graph import Node
from jaxdrop.audit._modules import Probe
from jaxdrop.audit._places import is_array

Step = int | str | Sequence[int | str] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """An array among the arguments.

    Attributes:
      name: such as `params['Dense_0']['kernel']`.
      argument: the name, or the number, of the argument.
      weights: whether it belongs to a model, or stands among weights.
    """

    name: str
    argument: str
    weights: bool


class Arguments:
    """The arguments of a function, with their arrays taken out."""

    def __init__(
        self, fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], step: Step
    ) -> None:
        self.named = _names(fn, args, kwargs)
        steps = _steps(step, list(self.named))
        found, self.tree = jax.tree_util.tree_flatten_with_path(
            (tuple(args), dict(kwargs)), is_leaf=_objects.is_nnx
        )
        self.leaves = [leaf for _, leaf in found]
        self.models = [leaf for leaf in self.leaves if _objects.is_nnx(leaf)]
        self.arrays: list[Any] = []
        self.places: list[int] = []
        self.sources: list[Source] = []
        self.steps: list[bool] = []
        owners: list[str] = []  # the argument that each model is, or is in
        names, unseen = list(self.named), set(steps)
        for at, (path, leaf) in enumerate(found):
            which, *rest = path
            argument = names[rest[0].idx] if which.idx == 0 else rest[0].key
            named = {wanted for wanted in steps if _matches(argument, rest[1:], wanted)}
            stepping, unseen = bool(named), unseen - named
            if stepping and isinstance(leaf, int | float) and not isinstance(leaf, bool):
                leaf = np.asarray(leaf)
            if _objects.is_nnx(leaf):
                owners.append(argument)
            if _objects.is_nnx(leaf) or not is_array(leaf):
                continue
            self.arrays.append(leaf)
            self.places.append(at)
            name = argument + jax.tree_util.keystr(tuple(rest[1:]))
            weights = _objects.is_model(self.named[argument]) or _are_weights(argument, rest[1:])
            self.sources.append(Source(name, argument, weights))
            self.steps.append(stepping)
        if unseen:
            arrays = ", ".join(source.name for source in self.sources[:20])
            raise ValueError(
                f"step={min(unseen)!r} names no argument of the function; among the arguments' "
                f"arrays are {arrays or 'none'}"
            )
        self.graph: Any = None
        if self.models:
            from flax import nnx

            self.graph, state = nnx.split(self.models)
            flat, self.state_tree = jax.tree_util.tree_flatten_with_path(state)
            for path, leaf in flat:
                self.arrays.append(leaf)
                self.sources.append(Source(_state_name(path), owners[path[0].key], True))
                self.steps.append(False)

    def run(self, fn: Callable[..., Any], probe: Probe) -> Callable[[list[Any]], Any]:
        """The function of the arrays alone, which returns its results and its models' state."""

        def flat(arrays: list[Any]) -> Any:
            leaves = list(self.leaves)
            for at, value in zip(self.places, arrays, strict=False):
                leaves[at] = value
            models = []
            if self.models:
                from flax import nnx

                state = jax.tree.unflatten(self.state_tree, arrays[len(self.places) :])
                models = nnx.merge(self.graph, state)
                for model in models:
                    _objects.watch_nnx(probe, model)
                following = iter(models)
                leaves = [next(following) if _objects.is_nnx(leaf) else leaf for leaf in leaves]
            args, kwargs = jax.tree.unflatten(self.tree, leaves)
            for value in (*args, *kwargs.values()):
                if _objects.is_equinox(value):
                    _objects.watch_equinox(probe, value)
            result = fn(*args, **kwargs)
            state_out: Any = ()
            if models:
                from flax import nnx

                state_out = nnx.state(models)
            return _arrays_of(result), state_out

        return flat

    def changes(
        self, inputs: Sequence[Node], outputs: Sequence[Node], shapes: Any
    ) -> tuple[int, int]:
        """The sources that change from call to call, and those that are known not to."""
        renewed = frozen = 0
        for node, stepping in zip(inputs, self.steps, strict=True):
            if stepping:
                renewed |= node.deps
        results, _ = shapes
        count = len(jax.tree.leaves(results))
        pairs = list(zip(inputs[len(self.places) :], outputs[count:], strict=True))
        at, left = 0, dict(self.named)
        for result in results if isinstance(results, tuple | list) else (results,):
            size = len(jax.tree.leaves(result))
            for name, value in left.items():
                # State that comes in and goes out: a result with the structure of an argument.
                mine = [
                    node
                    for node, source in zip(inputs, self.sources, strict=True)
                    if source.argument == name
                ]
                if size == len(mine) and _same_structure(value, result):
                    pairs += zip(mine, outputs[at : at + size], strict=True)
                    del left[name]
                    break
            at += size
        for before, after in pairs:
            if before is after:
                frozen |= before.deps
            else:
                renewed |= before.deps
        return renewed, frozen & ~renewed


def _same_structure(first: Any, second: Any) -> bool:
    """Whether two values are of one structure, which is more than that of an array alone."""
    trees: list[Any] = [jax.tree.structure(_arrays_of(each)) for each in (first, second)]
    return bool(trees[0] == trees[1] != jax.tree.structure(0))


def _names(fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name; those without one by number, as `args[2]`."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for at in range(len(args)):
        parameter = parameters[at] if at < len(parameters) else None
        plain = parameter is not None and parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        names.append(parameter.name if parameter is not None and plain else f"args[{at}]")
    return dict(zip(names, args, strict=True)) | dict(kwargs)


def _steps(step: Step, names: list[str]) -> list[str]:
    if step is None:
        return []
    wanted: list[Any] = list(step) if isinstance(step, list | tuple) else [step]
    for each in wanted:
        if isinstance(each, bool) or not isinstance(each, int | str):
            raise TypeError(
                f"step must be the number or the name of an argument, such as 2 or 'state.step', "
                f"got {each!r}"
            )
        if isinstance(each, int) and not 0 <= each < len(names):
            raise ValueError(f"step={each} names no argument: the function is given {len(names)}")
    return [names[each] if isinstance(each, int) else each for each in wanted]


def _matches(argument: str, rest: Sequence[Any], wanted: str) -> bool:
    name = argument + jax.tree_util.keystr(tuple(rest))
    return name == wanted or name.startswith((f"{wanted}.", f"{wanted}["))


_WEIGHTS = frozenset(
    ["params", "kernel", "bias", "w", "b", "weight", "weights", "scale", "embedding", "v", "w1",
     "w2", "offset", "batch_stats", "opt_state"]
)  # fmt: skip


def _are_weights(argument: str, path: Sequence[Any]) -> bool:
    words = {*_words(path)}
    return bool(words & _WEIGHTS) or argument in ("params", "weights", "variables", "state")


def _state_name(path: Any) -> str:
    """The name of a model's variable, without the number of the model, which comes first."""
    return ".".join(word for word in _words(path[1:]) if word not in ("value", "raw_value"))


def _words(path: Sequence[Any]) -> list[str]:
    """The names, keys and numbers of a path in a tree."""
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _arrays_of(result: Any) -> Any:
    """The arrays of a result, in the structure in which they stand."""

    def kept(leaf: Any) -> Any:
        if _objects.is_nnx(leaf):
            from flax import nnx

            return nnx.state(leaf)
        return leaf if is_array(leaf) or isinstance(leaf, int | float) else None

    return jax.tree.map(kept, result, is_leaf=_objects.is_nnx)
