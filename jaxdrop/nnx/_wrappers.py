"""The layers that run other modules: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Unpack

import jax
from flax import nnx

from jaxdrop import masks
from jaxdrop.functional import paths as functional
from jaxdrop.layers import Variant, paths, tokens, weights
from jaxdrop.nnx._base import Call, Layer, RngSource, Switched, check_module


# fmt: off
class LayerDrop(Switched, paths.LayerDrop):
    def __call__(self, inputs: Any, layer: nnx.Module, *args: Any,
                 deterministic: bool | None = None, rngs: RngSource | None = None,
                 rate: masks.Rate | None = None) -> Any:
        amount = self.rate if rate is None else rate
        off, key, amount, _ = self._settle(deterministic, rngs, amount, None)
        check_module(layer, "layer", " For functions there is jaxdrop.layer_drop.")

        def run(layer: Callable[..., Any], x: Any) -> Any:
            return functional.like(layer(x, *args), x, amount)

        runs = functional.layer_runs(key, amount, deterministic=off)
        return functional.cond(nnx.cond, runs, run, lambda layer, x: x, layer, inputs)

class DropPathAdd(Layer, paths.DropPathAdd):
    def __call__(self, inputs: Any, branch: Callable[..., Any], *args: Any,
                 **call: Unpack[Call]) -> Any:
        return self._drop((inputs,), branch=branch, args=args, **call)

class RandomLTD(Layer, tokens.RandomLTD):
    def __call__(self, inputs: jax.Array, layer: Callable[..., jax.Array], *,
                 positions: jax.Array | None = None, mask: jax.Array | None = None,
                 **call: Unpack[Call]) -> jax.Array:
        return self._drop((inputs,), layer=layer, positions=positions, mask=mask, **call)

class Wrapped(Variant):
    """The module that a wrapper runs."""

    module: nnx.Module
    checks = MappingProxyType({"module": check_module})

class Wrapper(Layer):
    """Runs a module with some of its weights dropped."""

    spec: Any = None

    def __call__(self, *args: Any, deterministic: bool | None = None, rngs: RngSource | None = None,
                 rate: masks.Rate | None = None, spec: Any = None, **kwargs: Any) -> Any:
        """Calls the module with `args` and `kwargs`. The named arguments are this wrapper's, as in
        `Dropout`.
        """
        graph, params, rest = nnx.split(self.module, nnx.Param, ...)
        params = self._drop((params,), deterministic, rngs, rate, spec)
        dropped = nnx.merge(graph, params, rest)
        outputs = dropped(*args, **kwargs)
        nnx.update(self.module, nnx.state(dropped, nnx.Not(nnx.Param)))
        return outputs

class WeightDrop(Wrapper, weights.WeightDrop, Wrapped): ...

class QuantNoise(Wrapper, weights.QuantNoise, Wrapped): ...
