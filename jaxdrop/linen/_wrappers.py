"""The layers that run other modules: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Unpack

import jax
from flax import linen as nn

from jaxdrop import masks
from jaxdrop.functional import paths as functional
from jaxdrop.layers import Variant, paths, tokens, weights
from jaxdrop.linen._base import Call, Flag, Key, Layer, Switched, check_module


# fmt: off
class LayerDrop(Switched, paths.LayerDrop):
    @nn.compact
    def __call__(self, inputs: Any, layer: nn.Module, *args: Any, deterministic: bool | None = None,
                 rng: jax.Array | None = None, rate: masks.Rate | None = None) -> Any:
        amount = self.rate if rate is None else rate
        off, key, amount, _ = self._settle(deterministic, rng, amount, None)
        check_module(layer, "layer", " For functions there is jaxdrop.layer_drop.")

        def run(layer: Callable[..., Any], x: Any) -> Any:
            return functional.like(layer(x, *args), x, amount)

        runs = self.is_initializing() or functional.layer_runs(key, amount, deterministic=off)
        return functional.cond(nn.cond, runs, run, lambda layer, x: x, layer, inputs)

class DropPathAdd(Layer, paths.DropPathAdd):
    @nn.compact
    def __call__(self, inputs: Any, branch: Callable[..., Any], *args: Any,
                 deterministic: Flag = None, rng: Key = None, **call: Unpack[Call]) -> Any:
        further = {"branch": branch, "args": args}
        return self._drop_behind_init((inputs,), deterministic, rng, **further, **call)

class RandomLTD(Layer, tokens.RandomLTD):
    @nn.compact
    def __call__(self, inputs: jax.Array, layer: Callable[..., jax.Array],
                 deterministic: Flag = None, rng: Key = None, *,
                 positions: jax.Array | None = None, mask: jax.Array | None = None,
                 **call: Unpack[Call]) -> jax.Array:
        further = {"layer": layer, "positions": positions, "mask": mask}
        return self._drop_behind_init((inputs,), deterministic, rng, **further, **call)

class Wrapped(Variant):
    """The module that a wrapper runs."""

    module: nn.Module
    checks = MappingProxyType({"module": check_module})

class Wrapper(Layer):
    """Runs a module with some of its weights dropped."""

    spec: Any = None

    @nn.compact
    def __call__(self, *args: Any, deterministic: bool | None = None, rng: jax.Array | None = None,
                 rate: masks.Rate | None = None, spec: Any = None, **kwargs: Any) -> Any:
        """Calls the module with `args` and `kwargs`. The named arguments are this wrapper's, as in
        `Dropout`.
        """
        if self.is_initializing():  # there is nothing to drop yet
            return self.module(*args, **kwargs)

        amount = self.rate if rate is None else rate
        layout = self.spec if spec is None else spec
        off, key, amount, layout = self._settle(deterministic, rng, amount, layout)

        def drop(variables: Any) -> Any:
            params = (variables["params"],)
            return {"params": self._evaluate(key, params, amount, deterministic=off, spec=layout)}

        run = nn.map_variables(lambda module: module(*args, **kwargs), "params", trans_in_fn=drop)
        return run(self.module)

class WeightDrop(Wrapper, weights.WeightDrop, Wrapped): ...

class QuantNoise(Wrapper, weights.QuantNoise, Wrapped): ...
