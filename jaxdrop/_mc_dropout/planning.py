"""Which layers of a model are on.

This is decided before the model runs, by tracing it with all of them off, once for each form of its
inputs.
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
"""What a model is traced for, if not to run: no cache may remember it.

For "draws" every key follows that may, and for "flags" all code but the layers' is told to drop.
"""


class Layer(NamedTuple):
    """A dropout layer of a model."""

    path: str
    text: str
    chosen: bool
    rng_collection: str
    sources: frozenset[Source]
    """Which arguments of `stochastic` speak of it."""


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

    @property
    def overrides(self) -> Overrides:
        """What its layers get in place of their own."""

    def layers(
        self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Layer], set[str]]:
        """Traces the model with all its layers off.

        Returns:
          The layers, in the order in which they run, and the flags by which other code is told not
          to drop.
        """

    def keys(self) -> Iterable[str]:
        """Where the model holds keys that are not those of a stream."""

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

    # Its own parameter has no name: all names are the model's, of which attention has a key too.
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
    """Which layers `layers` chooses. `"last"` chooses all, and `_plan` decides."""

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
        """A layer, and what is said of it."""
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
        """Checks that there are such layers among those of the model `name`."""
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
        before = found.pop(layer.path, None)  # what counts is when it runs for the last time
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
    """How many draws follow the key; 0 if the model does not run so: statistics in training may be
    forbidden to it.
    """
    try:
        return dependence(run, key).draws
    except Exception:
        return 0


def _fixed_keys(
    model: Model, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Where the keys are that the model draws from although they do not follow `key`; "" if there
    is none.
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


def is_key(x: Any) -> bool:
    """Whether `x` is a key, or looks like a legacy one."""
    return is_array(x) and (
        jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        or (x.dtype == "uint32" and x.shape[-1:] == (2,))
    )


def _may_follow(x: jax.Array, key: jax.Array) -> bool:
    """Whether `x` may change together with `key`: not so if only `key` is traced, or the two by
    different transformations.
    """
    return not isinstance(key, jax.core.Tracer) or type(x) is type(key)


def _form(inputs: Any) -> Any:
    """What tracing can see of the inputs; None if that cannot be remembered."""
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
