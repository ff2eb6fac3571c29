"""Which layers of a model are on.

The model is traced with all layers off, which shows the layers in the order in which they run. The
decision is kept for inputs of the same shapes and dtypes.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop._mc_dropout import messages
from jaxdrop._mc_dropout.dependence import dependence, is_array
from jaxdrop._mc_dropout.examples import InAxes, check_axes, over_examples
from jaxdrop._mc_dropout.overrides import Change, Overrides, Source

Layers: TypeAlias = str | Sequence[str] | Callable[[str, Any], bool]
"""`"all"`, `"last"`, glob patterns for paths, or a predicate of (path, module)."""
Probe: TypeAlias = Literal["outputs", "draws", "flags"] | None
"""What a model is traced for; None for a call of the user. No cache may keep such a trace.

"outputs": whether its outputs depend on the key. "draws": whether all its draws do; then all
streams follow the key, even those of first states. "flags": whether more would be random if the
model were told to train; then the flags of `calls.TRAINING` are set.
"""


class Layer(NamedTuple):
    """A dropout layer of a model."""

    path: str
    text: str
    chosen: bool
    rng_collection: str
    sources: frozenset[Source]
    """The arguments of `stochastic` that name it, or change it."""


class Plan(NamedTuple):
    """How a model runs."""

    on: frozenset[str]
    """The paths of the layers that are on."""
    rng_collections: frozenset[str]
    """The collections from which the layers take keys."""


class Seen(NamedTuple):
    """What a trace of a model meets."""

    layers: list[Layer]
    """The layers, in the order in which they run."""
    flags: set[str]
    """The flags by which other code would be told to drop, as text."""


class Model(Protocol):
    """A model of a framework, as `function` needs it."""

    @property
    def name(self) -> str:
        """The name of the model's class, for messages."""

    @property
    def overrides(self) -> Overrides:
        """Rates and layouts for its layers."""

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Seen:
        """Traces the model with all its layers off."""

    def keys(self) -> Iterable[str]:
        """The paths of variables that are keys, without those of streams."""

    def run(
        self,
        plan: Plan,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        probe: Probe = None,
    ) -> Any:
        """Runs the model."""


def function(
    model: Model, choice: Choice, shared_mask: bool, in_axes: InAxes, out_axes: int
) -> Callable[..., Any]:
    """The function of (key, *inputs) that runs `model` with the chosen layers on."""
    plans: dict[Any, Plan] = {}
    check_axes(shared_mask, in_axes, out_axes)
    if shared_mask:
        model.overrides.check_one_example(out_axes)

    # The key is positional: a model may have an argument `key` itself, as attention has.
    def run(key: jax.Array | None = None, /, *args: Any, **kwargs: Any) -> Any:
        if key is None:
            raise TypeError(
                f"the function of {model.name} takes a key first, and without a name: fn(key,"
                " *inputs). An argument key=... goes to the model."
            )
        key = _checks.check_key(key, f"stochastic({model.name})")
        form = _form((key, args, kwargs))
        plan = plans.get(form) or _plan(model, choice, key, args, kwargs)
        if form is not None:
            plans[form] = plan
        return model.run(plan, key, args, kwargs)

    return over_examples(run, in_axes, out_axes) if shared_mask else run


class Choice:
    """The argument `layers` of `stochastic`. For `"last"` every layer is chosen here, and `_plan`
    finds the last one that changes the output.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        patterns: Sequence[Any] = layers if isinstance(layers, list | tuple) else [layers]
        if not callable(layers) and (
            not patterns or not all(isinstance(pattern, str) for pattern in patterns)
        ):
            raise ValueError(
                "layers must be 'all', 'last', a pattern such as 'encoder/*', a list of patterns,"
                f" or a function of (path, module), got {layers!r}"
            )
        self.patterns = () if self.is_open or callable(layers) else tuple(patterns)

    @property
    def is_open(self) -> bool:
        """Whether no layer is named."""
        return self.layers in ("all", "last")

    def layer(self, path: str, module: Any, change: Change) -> Layer:
        """A layer, with the arguments of `stochastic` that concern it."""
        named = {
            ("layers", pattern) for pattern in self.patterns if fnmatch.fnmatchcase(path, pattern)
        }
        chosen = (
            bool(self.layers(path, module))
            if callable(self.layers)
            else self.is_open or bool(named)
        )
        sources = change.sources if chosen else frozenset()
        text = messages.layer(path, module, change.rates if chosen else {})
        return Layer(
            path, text, chosen, getattr(module, "rng_collection", "dropout"), sources | named
        )

    def check(self, name: str, found: Collection[Layer]) -> None:
        """Checks that some layers of the model `name` are chosen, and that every pattern fits."""
        if not self.is_open and not any(layer.chosen for layer in found):
            raise messages.none_chosen(name, self.layers, found)
        _check_sources(name, [("layers", pattern) for pattern in self.patterns], found)


def _check_sources(name: str, sources: Iterable[Source], found: Collection[Layer]) -> None:
    said = frozenset().union(*(layer.sources for layer in found))
    for source in sources:
        if source not in said:
            raise messages.speaks_of_none(name, source, found)


def _plan(
    model: Model, choice: Choice, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Plan:
    found: dict[str, Layer] = {}
    layers, flags = model.layers(key, args, kwargs)
    for layer in layers:
        before = found.pop(layer.path, None)  # found in the order of their last calls
        found[layer.path] = layer._replace(
            sources=layer.sources | (before.sources if before else frozenset())
        )
    choice.check(model.name, found.values())
    _check_sources(model.name, model.overrides.sources(), found.values())
    chosen = [layer.path for layer in found.values() if layer.chosen]
    collections = frozenset(layer.rng_collection for layer in found.values())
    last = choice.layers == "last" and chosen
    choices: list[Collection[str]] = [[path] for path in reversed(chosen)] if last else [chosen]
    for on in choices:
        plan = Plan(frozenset(on), collections)
        run = functools.partial(model.run, plan, args=args, kwargs=kwargs)
        seen = dependence(functools.partial(run, probe="outputs"), key)
        fixed = _fixed_keys(model, plan, key, args, kwargs) if seen.fixed else ""
        if seen.outputs or model.overrides.may_silence:
            if fixed:
                warnings.warn(messages.some_fixed(model.name, fixed), stacklevel=3)
            if flags and found and _draws(functools.partial(run, probe="flags"), key) > seen.draws:
                warnings.warn(messages.beside_layers(model.name, flags), stacklevel=3)
            return plan
    raise messages.nothing_random(model.name, found.values(), fixed)


def _draws(run: Callable[[jax.Array], Any], key: jax.Array) -> int:
    """How many draws follow the key. 0 if the model raises an error, as it may if it is told to
    train: batch statistics cannot be updated here.
    """
    try:
        return dependence(run, key).draws
    except Exception:
        return 0


def _fixed_keys(
    model: Model, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Where the keys come from that do not follow `key` and from which the model draws, for
    messages; "" if there are none.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path((args, kwargs))
    follow = {
        place: leaf
        for place, (_, leaf) in enumerate(flat)
        if is_key(leaf) and _may_follow(leaf, key)
    }

    def run(keys: tuple[jax.Array, dict[int, jax.Array]]) -> Any:
        key, others = keys
        leaves = [others.get(place, leaf) for place, (_, leaf) in enumerate(flat)]
        args, kwargs = jax.tree.unflatten(structure, leaves)
        return model.run(plan, key, args, kwargs, probe="draws")

    if not dependence(run, (key, follow)).fixed:
        return ""
    still = [
        messages.argument(path)
        for place, (path, leaf) in enumerate(flat)
        if is_key(leaf) and place not in follow
    ]
    return messages.places(still, list(model.keys()))


def paths_of_keys(variables: Any) -> list[str]:
    """The paths of the keys in a pytree of variables."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in leaves
        if is_key(leaf)
    ]


def is_key(x: Any) -> bool:
    """Whether `x` is a typed key, or has the dtype and shape of a legacy one."""
    return is_array(x) and (
        jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        or (x.dtype == "uint32" and x.shape[-1:] == (2,))
    )


def _may_follow(x: jax.Array, key: jax.Array) -> bool:
    """Whether `x` may change together with `key`. It cannot if `key` is traced and `x` is not, or
    if they are traced by different transformations.
    """
    return not isinstance(key, jax.core.Tracer) or type(x) is type(key)


def _form(inputs: Any) -> Any:
    """All that a trace sees of the inputs, as the key of a dict: structure, shapes, dtypes, and the
    values that are no arrays. None if one of them cannot be hashed.
    """
    leaves, structure = jax.tree.flatten(inputs)
    form = (
        structure,
        *((type(leaf), jax.typeof(leaf) if is_array(leaf) else leaf) for leaf in leaves),
    )
    try:
        hash(form)
    except TypeError:
        return None
    return form
