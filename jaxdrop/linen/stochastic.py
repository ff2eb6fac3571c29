"""A Linen model with its dropout on and all else as in evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from jaxdrop import _stochastic
from jaxdrop._stochastic import RUNNING_STATISTICS, Layer, Plan
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen.recurrent import RNN, StackedRNN

_LAYERS = (Stochastic, RNN, StackedRNN, nn.Dropout, nn.MultiHeadDotProductAttention)
# A number for each trace that no cache may know. (Flax compares hashes only, and an object's may be that of one before it.)
_PROBES = itertools.count()


def stochastic(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    layers: _stochastic.Layers = "all",
    shared_mask: bool = False,
    in_axes: _stochastic.InAxes = 0,
    out_axes: int = 0,
    method: Callable[..., Any] | str | None = None,
    rng_collections: Sequence[str] = ("dropout",),
) -> Callable[..., Any]:
    """A pure function `fn(key, *inputs, **kwargs)` of a trained model, in which dropout is random and nothing else is.

        fn = jaxdrop.linen.stochastic(model, variables)
        keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
        samples = jaxdrop.mc.predict(lambda key: fn(key, x), keys)

    The model stays as it is: the function settles for each layer what its constructor or its caller says otherwise, as in
    `nn.Dropout(0.5, deterministic=True)`, `nn.BatchNorm(use_running_average=False)`, or `model(x, train=False)`.

    ===========  ===================================================================================================
    on           the chosen layers among all of `jaxdrop.linen`, `nn.Dropout`, and the dropout in Flax's attention
    off          the other ones of these
    evaluation   normalization: what has `use_running_average` uses its running statistics, `update_stats` is False
    as it is     all else. Functions that the model calls itself, such as `jaxdrop.dropout(self.make_rng("dropout"),
                 x, 0.5, deterministic=not train)`, get keys, and follow the model's arguments: `fn(key, x, train=True)`
    ===========  ===================================================================================================

    The same key gives the same output: that of `module.apply(variables, x, rngs={"dropout": key})` with dropout on. Each layer
    has its own masks, also each one that is stacked by `nn.scan`. Run the function under `jax.jit`, and under `jax.vmap` for many
    keys. Variables are not changed. Those of a large model are better not constants of the compiled program:
    `jax.jit(lambda variables, key, x: jaxdrop.linen.stochastic(model, variables)(key, x))`.

    Args:
      module: any Linen module.
      variables: all its collections, such as `{"params": ..., "batch_stats": ...}`.
      layers: which dropout layers are on, as in `jaxdrop.nnx.stochastic`. Layers that are stacked by `nn.scan` are one layer.
      shared_mask: whether all examples of a batch share one mask, as there.
      in_axes: with `shared_mask`, where the batch is in the inputs, as there.
      out_axes: with `shared_mask`, where it is in the outputs.
      method: what to call in place of `__call__`: a name, or a function of (module, *inputs).
      rng_collections: the collections that the model's own code takes keys from; those of layers are found. `"dropout"` gets the
        key itself, and others get keys that are derived from it.

    Returns:
      The function. Its first call for each form of the inputs traces the model twice more, to find its layers.

    Raises:
      TypeError: `module` is no Linen module.
      ValueError: `layers` is none of the above. The function raises it, with a list of the layers, if `layers` chooses none, or
        if the output does not depend on the key: there is no layer, or all rates are 0.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a Linen module, got {type(module).__name__}. For NNX there is jaxdrop.nnx.stochastic.")
    model = _Model(module, variables, _stochastic.chooser(layers), method, frozenset(rng_collections))
    return _stochastic.function(model, layers, shared_mask, in_axes, out_axes)


@dataclasses.dataclass(frozen=True)
class _Model:
    module: nn.Module
    variables: Mapping[str, Any]
    chooses: Callable[[str, Any], bool]
    method: Callable[..., Any] | str | None
    rng_collections: frozenset[str]

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def layers(self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Layer]:
        found: list[Layer] = []

        def note(path: str, module: nn.Module) -> None:
            found.append(_stochastic.describe(path, module, self.chooses(path, module)))

        plan = Plan(frozenset(), frozenset())
        jax.eval_shape(lambda key: self._apply(plan, next(_PROBES), note, key, args, kwargs), key)
        return found

    def run(self, plan: Plan, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any], probe: bool = False) -> Any:
        return self._apply(plan, next(_PROBES) if probe else tuple(sorted(plan.on)), lambda path, module: None, key, args, kwargs)

    def _apply(
        self,
        plan: Plan,
        flag: Any,
        note: Callable[[str, nn.Module], None],
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # nn.jit remembers what it has traced by the scope's flags, among other things, but not by who intercepts.
            module.scope.flags = module.scope.flags.copy({"jaxdrop.stochastic": flag})
            if callable(self.method):
                return getattr(self.method, "__func__", self.method)(module, *args, **kwargs)
            return getattr(module, self.method or "__call__")(*args, **kwargs)

        rngs = {name: _key(key, name) for name in self.rng_collections | plan.rng_collections}
        with nn.intercept_methods(_interceptor(plan.on, note)):
            return self.module.apply(self.variables, *args, rngs=rngs, method=call, **kwargs)


def _key(key: jax.Array, collection: str) -> jax.Array:
    return key if collection == "dropout" else jax.random.fold_in(key, zlib.crc32(collection.encode()))


def _interceptor(on: frozenset[str], note: Callable[[str, nn.Module], None]) -> Callable[..., Any]:
    """Settles each call of a layer, and lets `note` know of those that drop."""

    def intercept(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module, settings = context.module, RUNNING_STATISTICS
        # A StackedRNN tells its layers what to do.
        if isinstance(module, _LAYERS) and not isinstance(module.parent, StackedRNN):
            path = "/".join(module.path)
            note(path, module)
            settings = {**settings, "deterministic": path not in on}
        attributes, arguments = _stochastic.settled(module, settings)
        args, kwargs = _stochastic.replaced(type(module).__call__, args, kwargs, arguments)
        with _with_attributes(module, attributes):
            return call(*args, **kwargs)

    return intercept


@contextlib.contextmanager
def _with_attributes(module: nn.Module, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Sets attributes of a module, which is frozen otherwise, for as long as it is called."""
    before = {name: getattr(module, name) for name in attributes}
    try:
        for name, value in attributes.items():
            object.__setattr__(module, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
