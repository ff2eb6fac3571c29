"""A Linen model with its dropout on and all else as in evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
from flax import linen as nn

from jaxdrop import masks
from jaxdrop._mc_dropout import calls, overrides, planning
from jaxdrop._mc_dropout.examples import InAxes
from jaxdrop._mc_dropout.overrides import Change, Overrides
from jaxdrop._mc_dropout.planning import Choice, Layer, Plan, Probe
from jaxdrop.functional import elements
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen.attention import dot_product_attention
from jaxdrop.linen.recurrent import RNN
from jaxdrop.linen.stacked import StackedRNN

_LAYERS = (Stochastic, RNN, StackedRNN, nn.Dropout, nn.MultiHeadDotProductAttention)
_FLAX_DROPOUT = inspect.unwrap(nn.Dropout.__call__)


def stochastic(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    layers: planning.Layers = "all",
    rate: masks.Rate | None = None,
    rates: Mapping[str, masks.Rate] | None = None,
    spec: overrides.Spec = None,
    shared_mask: bool = False,
    in_axes: InAxes = 0,
    out_axes: int = 0,
    method: Callable[..., Any] | str | None = None,
    rng_collections: Sequence[str] = ("dropout",),
    mutable: Sequence[str] = (),
) -> Callable[..., Any]:
    """A pure function `fn(key, *inputs, **kwargs)` of a trained model, in which dropout is random
    and nothing else is.

        fn = jaxdrop.linen.stochastic(model, variables)
        keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
        samples = jaxdrop.mc.predict(lambda key: fn(key, x), keys)

    The model stays as it is: the function settles for each layer what its constructor or its caller
    says otherwise, as in `nn.Dropout(0.5, deterministic=True)`,
    `nn.BatchNorm(use_running_average=False)`, or `model(x, train=False)`.

    ===========  ===================================================================================
    on           the chosen layers among all of `jaxdrop.linen`, `nn.Dropout`, and the dropout in
                 Flax's attention
    off          the other ones of these
    evaluation   normalization: what has `use_running_average` uses its running statistics,
                 `update_stats` is False
    as it is     all else. Functions that the model calls itself, such as
                 `jaxdrop.dropout(self.make_rng("dropout"), x, 0.5, deterministic=not train)`, get
                 keys, and follow the model's arguments: `fn(key, x, train=True)`. A warning says if
                 that would turn more of the model on
    ===========  ===================================================================================

    The same key gives the same output: that of `module.apply(variables, x, rngs={"dropout": key})`
    with dropout on. Each layer has its own masks, also each one that is stacked by `nn.scan`. Run
    the function under `jax.jit`, and under `jax.vmap` for many keys. Variables are not changed.
    Those of a large model are better not constants of the compiled program: `jax.jit(lambda
    variables, key, x: jaxdrop.linen.stochastic(model, variables)(key, x))`.

    Args:
      module: any Linen module.
      variables: all its collections, such as `{"params": ..., "batch_stats": ...}`.
      layers: which dropout layers are on, as in `jaxdrop.nnx.stochastic`. Layers that are stacked
        by `nn.scan` are one layer.
      rate: in place of the rates of the layers that are on, as there.
      rates: the same by patterns of paths, as there.
      spec: inside `shard_map` and `pmap`, the layout of the layers' inputs, as there.
      shared_mask: whether all examples of a batch share one mask, as there.
      in_axes: with `shared_mask`, where the batch is in the inputs, as there.
      out_axes: with `shared_mask`, where it is in the outputs.
      method: what to call in place of `__call__`: a name, or a function of (module, *inputs).
      rng_collections: the collections that the model's own code takes keys from; those of layers
        are found. `"dropout"` gets the key itself, and others get keys that are derived from it.
      mutable: collections that the call may change, such as the `"cache"` of a decoder. The
        function then returns `(outputs, changed)`, as `apply` does. All others stay as they are.

    Returns:
      The function. Its first call for each form of the inputs traces the model a few times more, to
      find its layers.

    Raises:
      TypeError, ValueError: as `jaxdrop.nnx.stochastic`, but that all layers are found when the
        function is called.
      flax.errors.ModifyScopeVariableError: the model changes a collection that is not in `mutable`.

    Warns:
      UserWarning: as `jaxdrop.nnx.stochastic`.
    """
    if not isinstance(module, nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(
            f"module must be a Linen module, got {what}. For NNX there is jaxdrop.nnx.stochastic."
        )
    choice = Choice(layers)
    replacing = Overrides.checked(rate, rates, spec)
    calls.check_method(method, module)
    keys, changed = calls.names("rng_collections", rng_collections), calls.names("mutable", mutable)
    model = _Model(module, variables, choice, replacing, method, frozenset(keys), changed)
    return planning.function(model, choice, shared_mask, in_axes, out_axes)


class _Seen(NamedTuple):
    """What a trace of the model meets."""

    layers: list[Layer]
    flags: set[str]


@dataclasses.dataclass(frozen=True)
class _Model:
    module: nn.Module
    variables: Mapping[str, Any]
    choice: Choice
    overrides: Overrides
    method: Callable[..., Any] | str | None
    rng_collections: frozenset[str]
    mutable: tuple[str, ...]

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def layers(
        self, key: jax.Array, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Layer], set[str]]:
        seen = _Seen([], set())
        plan = Plan(frozenset(), frozenset())
        jax.eval_shape(lambda key: self._apply(plan, "outputs", seen, key, args, kwargs), key)
        return seen.layers, seen.flags

    def keys(self) -> list[str]:
        leaves = jax.tree_util.tree_leaves_with_path(self.variables)
        return [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, leaf in leaves
            if planning.is_key(leaf)
        ]

    def run(
        self,
        plan: Plan,
        key: jax.Array,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        probe: Probe = None,
    ) -> Any:
        return self._apply(plan, probe, _Seen([], set()), key, args, kwargs)

    def _apply(
        self,
        plan: Plan,
        probe: Probe,
        seen: _Seen,
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
            if not callable(self.method):
                return getattr(module, self.method or "__call__")(*args, **kwargs)
            function = functools.partial(getattr(self.method, "__func__", self.method), module)
            seen.flags.update(calls.told_otherwise(function, None, args, kwargs))
            args, kwargs = (
                calls.told_to_drop(function, args, kwargs) if probe == "flags" else (args, kwargs)
            )
            return function(*args, **kwargs)

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

    def _interceptor(self, on: frozenset[str], probe: Probe, seen: _Seen) -> Callable[..., Any]:
        """Settles each call of a layer, and adds it to `seen`."""
        others = calls.RUNNING_STATISTICS | (calls.TRAINING if probe == "flags" else {})

        def intercept(
            call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: Any
        ) -> Any:
            method = getattr(type(context.module), context.method_name, None)
            if not callable(method) or (
                isinstance(context.module, _LAYERS) and context.method_name != "__call__"
            ):
                return call(*args, **kwargs)
            module, settings, change = context.module, others, None
            # A StackedRNN tells its layers what to do.
            if isinstance(module, _LAYERS) and not isinstance(module.parent, StackedRNN):
                path = "/".join(module.path)
                change = self.overrides.of(path, module, _flax_rate(module), kwargs)
                layer = self.choice.layer(path, module, change)
                seen.layers.append(layer)
                # Told to drop, the model may run layers that it does not run otherwise.
                is_on = path in on or (
                    probe == "flags" and layer.chosen and self.choice.layers != "last"
                )
                settings = calls.RUNNING_STATISTICS | {"deterministic": not is_on}
                change = change if path in on else None
            elif isinstance(module, _LAYERS):
                settings = calls.RUNNING_STATISTICS
            else:
                seen.flags.update(
                    calls.told_otherwise(functools.partial(method, module), module, args, kwargs)
                )
            attributes, arguments = calls.settled(module, settings)
            if change and isinstance(module, nn.MultiHeadDotProductAttention):
                attributes |= change.attention(
                    path, module, nn.dot_product_attention, dot_product_attention
                )
            elif change and isinstance(module, nn.Dropout):
                attributes |= change.rates
            elif change:
                arguments |= change.arguments(kwargs)
            args, kwargs = calls.replaced(method, args, kwargs, arguments)
            with _with_attributes(module, attributes):
                if change and getattr(context.orig_method, "func", None) is _FLAX_DROPOUT:
                    return _dropout(module, change, *args, **kwargs)
                return call(*args, **kwargs)

        return intercept


def _flax_rate(layer: Any) -> str | None:
    """The name of the rate of a layer that is Flax's."""
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
    """A call of Flax's layer, on, with the same mask: Flax's compares its rate, and has no
    layout.
    """
    key = layer.make_rng(layer.rng_collection) if rng is None else rng
    return elements.dropout(
        key, inputs, layer.rate, broadcast_dims=layer.broadcast_dims, spec=change.spec
    )


def _key(key: jax.Array, collection: str) -> jax.Array:
    return (
        key if collection == "dropout" else jax.random.fold_in(key, zlib.crc32(collection.encode()))
    )


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
