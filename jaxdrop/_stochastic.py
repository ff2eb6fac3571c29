"""Models with their dropout on and all else as in evaluation: what `jaxdrop.linen.stochastic` and `jaxdrop.nnx.stochastic` share.

Which layers are on is decided before the model runs, by tracing it with all of them off, once for each form of its inputs.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import random

Layers: TypeAlias = str | Sequence[str] | Callable[[str, Any], bool]
"""`"all"`, `"last"`, glob patterns for paths, or a predicate of (path, module)."""
InAxes: TypeAlias = int | Sequence[int | None] | None

RUNNING_STATISTICS = {"use_running_average": True, "update_stats": False}
"""Settings of normalization layers, by the names that Flax gives them, with which statistics are used and stay as they are."""

_SHOWN = 30


class Layer(NamedTuple):
    """A dropout layer of a model."""

    path: str
    text: str
    chosen: bool
    rng_collection: str


class Plan(NamedTuple):
    """How a model runs."""

    on: frozenset[str]
    """The paths of the layers that are random."""
    rng_collections: frozenset[str]
    """The collections that its layers take keys from."""


class Model(Protocol):
    """What a framework provides."""

    @property
    def name(self) -> str:
        """The model's, for messages."""

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Layer]:
        """Traces the model with all its layers off. They are returned in the order in which they run."""

    def run(self, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any], probe: bool = False) -> Any:
        """Runs the model; `probe` says that it is traced for another purpose than to run, so that no cache may remember it."""


def function(model: Model, layers: Layers, shared_mask: bool, in_axes: InAxes, out_axes: int) -> Callable[..., Any]:
    """The function of (key, *inputs) that runs `model` with the layers on that `layers` chooses."""
    plans: dict[Any, Plan] = {}

    def run(key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        key = random.checked(key, f"stochastic({model.name})")
        form = _form((key, args, kwargs))
        plan = plans.get(form) or _plan(model, layers, key, args, kwargs)
        if form is not None:
            plans[form] = plan
        return model.run(plan, key, args, kwargs)

    return _over_examples(run, in_axes, out_axes) if shared_mask else run


def chooser(layers: Layers) -> Callable[[str, Any], bool]:
    """Whether `layers` chooses the layer (path, module). `"last"` chooses none and `_plan` decides."""
    if callable(layers):
        return lambda path, module: bool(layers(path, module))
    patterns: Sequence[Any] = layers if isinstance(layers, list | tuple) else [layers]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"layers must be 'all', 'last', a pattern such as 'encoder/*', a list of patterns, or a function of (path, module),"
            f" got {layers!r}"
        )
    if layers in ("all", "last"):
        return lambda path, module: True
    return lambda path, module: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def describe(path: str, module: Any, chosen: bool) -> Layer:
    """A layer, with its rates for a message."""
    rates = {name: value for name, value in vars(module).items() if _is_rate(name, value)}
    nonzero = {name: value for name, value in rates.items() if value} or rates
    text = f"{path or '(the model itself)'}: {type(module).__name__}({', '.join(f'{n}={v:g}' for n, v in nonzero.items())})"
    return Layer(path, text, chosen, getattr(module, "rng_collection", "dropout"))


def _is_rate(name: str, value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (name == "dropout" or name.endswith(("rate", "zoneout")))


# -- the arguments of a layer's call


def settled(module: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a module is made to follow `settings`, whatever its constructor and its caller say.

    Returns:
      Attributes to set, and arguments for `replaced`: None, which is to say not given, where there is an attribute too.
    """
    attributes = {name: value for name, value in settings.items() if name in vars(module)}
    return attributes, {name: None if name in attributes else value for name, value in settings.items()}


def replaced(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call of the method `call`, with `arguments` in place of those of the same names."""
    parameters = _parameters(call)
    names = [name for name, kind in parameters.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][1 : len(args) + 1]
    given = [arguments.get(name, arg) for name, arg in zip(names, args, strict=False)] + list(args[len(names) :])
    named = {name: arguments.get(name, value) for name, value in kwargs.items()}
    more = {name: value for name, value in arguments.items() if value is not None and name in parameters and name not in names}
    return given, named | more


def takes(call: Callable[..., Any], names: Collection[str]) -> bool:
    """Whether the method `call` has one of these parameters."""
    return not _parameters(call).keys().isdisjoint(names)


def _parameters(call: Callable[..., Any]) -> dict[str, Any]:
    """The names of a method's parameters, and their kinds."""
    return {name: parameter.kind for name, parameter in inspect.signature(call).parameters.items()}


# -- deciding which layers are on


def _plan(model: Model, layers: Layers, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Plan:
    found: dict[str, Layer] = {}
    for layer in model.layers(key, args, kwargs):
        found.pop(layer.path, None)  # what counts is when it runs for the last time
        found[layer.path] = layer
    chosen = [layer.path for layer in found.values() if layer.chosen]
    if layers not in ("all", "last") and not chosen:
        raise none_chosen(model.name, layers, found.values())
    collections = frozenset(layer.rng_collection for layer in found.values())
    choices: list[Collection[str]] = [[path] for path in reversed(chosen)] if layers == "last" and chosen else [chosen]
    for choice in choices:
        plan = Plan(frozenset(choice), collections)
        if varies(functools.partial(model.run, plan, args=args, kwargs=kwargs, probe=True), key):
            return plan
    raise nothing_random(model.name, found.values())


def varies(fn: Callable[[Any], Any], x: Any) -> bool:
    """Whether what `fn(x)` returns depends on `x`: whether under `jax.vmap` over `x` any of it has the mapped axis."""
    mapped: list[bool] = []

    @jax.custom_batching.custom_vmap
    def watched(*outputs: jax.Array) -> tuple[jax.Array, ...]:
        return outputs

    @watched.def_vmap
    def watch(size: int, is_mapped: Sequence[bool], *outputs: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[bool, ...]]:
        mapped.extend(is_mapped)
        return outputs, tuple(is_mapped)

    def traced(x: Any) -> tuple[jax.Array, ...]:
        return watched(*(leaf for leaf in jax.tree.leaves(fn(x)) if is_array(leaf)))

    jax.eval_shape(lambda x: jax.vmap(traced)(jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), x)), x)
    return any(mapped)


def is_array(x: Any) -> bool:
    """Whether `x` is an array of JAX or NumPy, rather than a setting."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def _form(inputs: Any) -> Any:
    """What tracing can see of the inputs; None if that cannot be remembered."""
    leaves, structure = jax.tree.flatten(inputs)
    form = structure, *((type(leaf), jax.typeof(leaf) if is_array(leaf) else leaf) for leaf in leaves)
    try:
        hash(form)
    except TypeError:
        return None
    return form


def none_chosen(name: str, layers: Layers, found: Collection[Layer]) -> ValueError:
    """The error of a choice that leaves nothing."""
    return ValueError(
        f"layers={layers!r} chooses no dropout layer of {name}.{_listing(found)}"
        " Patterns are compared with whole paths, and * stands for any characters, / too: layers='encoder/*'."
        " 'all' chooses every layer, 'last' the last one that runs."
    )


def nothing_random(name: str, found: Collection[Layer]) -> ValueError:
    """The error of a model in which nothing depends on the key."""
    advice = (
        "1. give a chosen layer a rate above 0;"
        if found
        else "1. add a layer that drops, such as Dropout of jaxdrop.linen, jaxdrop.nnx or Flax, and train with it;"
    )
    return ValueError(
        f"nothing is random in {name}: its output does not depend on the key.{_listing(found)} Either\n{advice}\n"
        "2. if the model calls functions such as jaxdrop.dropout itself, tell it to, as in fn(key, x, train=True), and let their"
        " keys come from make_rng (Linen) or from an nnx.Rngs (NNX)."
    )


def _listing(found: Collection[Layer]) -> str:
    if not found:
        return " It has no dropout layer."
    some = any(layer.chosen for layer in found)
    lines = [f"  {layer.text}{' (not chosen)' if some and not layer.chosen else ''}" for layer in found][:_SHOWN]
    more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "\n".join(["\nIts dropout layers are:", *lines]) + more + "\n"


# -- one mask for the whole batch


def _over_examples(run: Callable[..., Any], in_axes: InAxes, out_axes: int) -> Callable[..., Any]:
    """`run` on one example at a time, by `jax.vmap`, all with the same key: this is what shares a mask of any kind."""

    def shared(key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        axes = _leaf_axes(in_axes, args, kwargs)
        mapped = {place: axis for place, axis in enumerate(axes) if axis is not None}
        if not mapped:
            raise ValueError("shared_mask=True needs an input with a batch axis, but none of the inputs has one")

        def example(own: dict[int, jax.Array]) -> Any:
            batches = {place: jnp.expand_dims(leaf, mapped[place]) for place, leaf in own.items()}
            args, kwargs = jax.tree.unflatten(structure, [batches.get(place, leaf) for place, leaf in enumerate(leaves)])
            return jax.tree.map(functools.partial(_only, axis=out_axes), run(key, *args, **kwargs))

        return jax.vmap(example, in_axes=(mapped,), out_axes=out_axes)({place: leaves[place] for place in mapped})

    return shared


def _leaf_axes(in_axes: InAxes, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int | None]:
    """The batch axis of each leaf of (args, kwargs), None where it has none."""
    axes = list(in_axes) if isinstance(in_axes, Sequence) else [in_axes] * len(args)
    if len(axes) != len(args):
        raise ValueError(f"in_axes={in_axes!r} names {len(axes)} inputs, but the call has {len(args)} behind the key")
    return [
        axis if is_array(leaf) and np.ndim(leaf) else None
        for inputs, axis in zip((*args, kwargs), (*axes, 0), strict=True)
        for leaf in jax.tree.leaves(inputs)
    ]


def _only(output: jax.Array, axis: int) -> jax.Array:
    """The one example of a batch of one."""
    shape = np.shape(output)
    if not -len(shape) <= axis < len(shape) or shape[axis] != 1:
        raise ValueError(
            f"shared_mask=True runs the model on one example at a time, and its output of shape {shape} has no batch axis of"
            f" length 1 at out_axes={axis}. Inputs without a batch axis are named in in_axes, as in in_axes=(0, None)."
        )
    return jnp.squeeze(output, axis)
