"""A Linen model that runs with some of its dropout layers on, and all others off."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax
import jax
from flax import linen as nn

from jaxdrop._mc_dropout import calls, overrides, planning
from jaxdrop._mc_dropout.overrides import Change, Overrides
from jaxdrop._mc_dropout.planning import Choice, Plan, Probe, Seen
from jaxdrop.functional import elements
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen._forced import Forced, with_attributes_set
from jaxdrop.linen.attention import MultiHeadDotProductAttention, dot_product_attention
from jaxdrop.linen.recurrent import RNN
from jaxdrop.linen.stacked import StackedRNN

OWN = (Stochastic, RNN, StackedRNN, MultiHeadDotProductAttention)
_LAYERS = (*OWN, nn.Dropout, nn.MultiHeadDotProductAttention)
FLAX_DROPOUT = inspect.unwrap(nn.Dropout.__call__)


@dataclasses.dataclass(frozen=True)
class Model:
    """A Linen model, as `jaxdrop._mc_dropout.planning.Model`."""

    module: nn.Module
    variables: Mapping[str, Any]
    choice: Choice
    overrides: Overrides
    method: Callable[..., Any] | str | None
    rng_collections: frozenset[str]
    mutable: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return type(self.module).__name__

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Seen:
        """Traces the model with all its layers off."""
        seen = Seen([], set())
        plan = Plan(frozenset(), frozenset())
        jax.eval_shape(lambda key: self._apply(plan, "outputs", seen, key, args, kwargs), key)
        return seen

    def keys(self) -> list[str]:
        """The paths of variables that are keys, without those of streams."""
        return planning.paths_of_keys(self.variables)

    def run(
        self,
        plan: Plan,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        probe: Probe = None,
    ) -> Any:
        """Runs the model."""
        return self._apply(plan, probe, Seen([], set()), key, args, kwargs)

    def _apply(
        self,
        plan: Plan,
        probe: Probe,
        seen: Seen,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        mark = overrides.unknown() if probe else (tuple(sorted(plan.on)), self.overrides.token())

        # args and kwargs of the model go in as two arguments: `apply` has names of its own.
        def call(scope: flax.core.Scope, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            # Bound and unbound, modules among the attributes are copies too. `clone` alone would
            # share them.
            copied, _ = self.module.bind({}).unbind()
            module = copied.clone(parent=scope)
            method = calls.method_of(module, self.method)
            if callable(self.method):
                seen.flags.update(calls.told_otherwise(method, None, args, kwargs))
                if probe == "flags":
                    args, kwargs = calls.told_to_drop(method, args, kwargs)
            return method(*args, **kwargs)

        rngs = {name: _key(key, name) for name in self.rng_collections | plan.rng_collections}
        mutable = list(self.mutable) or False
        try:
            with nn.intercept_methods(self._interceptor(plan.on, probe, seen)):
                # As `module.apply`, with flags: `nn.jit` looks a program up by the flags of the
                # scope, among other things, but not by the interceptors.
                apply = flax.core.apply(call, mutable=mutable, flags={"jaxdrop.stochastic": mark})
                return apply(self.variables, args, kwargs, rngs=rngs)
        except flax.errors.ModifyScopeVariableError as error:
            error.add_note(
                "stochastic leaves variables as they are. Either\n1. tell the model not to change"
                " them, as in fn(key, x, train=False) or decode=False;\n2. have the changes"
                " returned: stochastic(..., mutable=['cache']) returns (outputs, changed)."
            )
            raise

    def _interceptor(self, on: frozenset[str], probe: Probe, seen: Seen) -> Callable[..., Any]:
        """Replaces arguments and attributes in each call of a module, and notes the layers."""
        others = calls.RUNNING_STATISTICS | (calls.TRAINING if probe == "flags" else {})

        def intercept(
            call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: Any
        ) -> Any:
            module, name = context.module, context.method_name
            method = getattr(type(module), name, None)
            is_layer = isinstance(module, _LAYERS)
            if not callable(method) or (is_layer and name != "__call__"):
                return call(*args, **kwargs)
            if not is_layer:
                bound = functools.partial(method, module)
                seen.flags.update(calls.told_otherwise(bound, module, args, kwargs))
                return _called(call, method, module, others, args, kwargs)
            if isinstance(module.parent, StackedRNN):  # which tells its layers what to do
                return call(*args, **kwargs)
            path = "/".join(module.path)
            change = self.overrides.of(path, module, _flax_rate(module), kwargs)
            layer = self.choice.layer(path, module, change)
            seen.layers.append(layer)
            # Told to drop, the model may run layers that it does not run otherwise.
            is_on = path in on or (
                probe == "flags" and layer.chosen and self.choice.layers != "last"
            )
            changed = change if path in on else None
            if isinstance(module, OWN):
                more = changed.arguments(kwargs) if changed else {}
                settings = {"deterministic": Forced(not is_on), **more}
                given, named = calls.replaced(method, args, kwargs, settings)
                return call(*given, **named)
            attributes: dict[str, Any] = {}
            if changed and isinstance(module, nn.Dropout):
                attributes = changed.rates
                if getattr(context.orig_method, "func", None) is FLAX_DROPOUT:
                    call = functools.partial(_dropout, module, changed)
            elif changed:
                attributes = changed.attention(
                    path, module, nn.dot_product_attention, dot_product_attention
                )
            settings = {"deterministic": not is_on}
            return _called(call, method, module, settings, args, kwargs, attributes)

        return intercept


def _called(
    call: Callable[..., Any],
    method: Callable[..., Any],
    module: nn.Module,
    settings: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    attributes: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """A call of the method of a module that is not of this library, which follows `settings`."""
    own, arguments = calls.settled(module, settings)
    given, named = calls.replaced(method, args, kwargs, arguments)
    with with_attributes_set(module, own | dict(attributes)):
        return call(*given, **named)


def _flax_rate(layer: Any) -> str | None:
    """The name of the attribute with the rate, of a layer that is Flax's or inherits from it."""
    if isinstance(layer, nn.MultiHeadDotProductAttention):
        return "dropout_rate"
    return "rate" if isinstance(layer, nn.Dropout) else None


def _dropout(
    layer: nn.Dropout,
    change: Change,
    inputs: jax.Array,
    deterministic: bool | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """A call of Flax's layer that is on, with the same mask. Flax's code compares the rate, which
    may be traced, and takes no layout.
    """
    key = layer.make_rng(layer.rng_collection) if rng is None else rng
    return elements.dropout(
        key, inputs, layer.rate, broadcast_dims=layer.broadcast_dims, spec=change.spec
    )


def _key(key: jax.Array, collection: str) -> jax.Array:
    return (
        key if collection == "dropout" else jax.random.fold_in(key, zlib.crc32(collection.encode()))
    )
