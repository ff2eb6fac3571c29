"""MC dropout: a Linen model with its dropout on and everything else as in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn

from jaxdrop import masks
from jaxdrop._mc_dropout import calls, overrides, planning
from jaxdrop._mc_dropout.examples import InAxes
from jaxdrop._mc_dropout.overrides import Overrides
from jaxdrop._mc_dropout.planning import Choice
from jaxdrop._references import cites
from jaxdrop.linen._model import Model

__all__ = ["stochastic"]


@cites("gal2016dropout")
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

    The model is not changed. Constructors and callers of its layers may say what they like, as in
    `nn.Dropout(0.5, deterministic=True)`, `nn.BatchNorm(use_running_average=False)`, or
    `model(x, train=False)`: the function replaces it in each call of a layer.

    ===========  ===================================================================================
    on           the chosen layers. There are to choose from: all layers of `jaxdrop.linen`,
                 `nn.Dropout`, and the dropout in Flax's attention layers
    off          the layers of these kinds that are not chosen
    evaluation   normalization layers: they use their running statistics
                 (`use_running_average=True`) and do not update them (`update_stats=False`)
    as it is     everything else. Functions that the model calls itself, such as
                 `jaxdrop.dropout(self.make_rng("dropout"), x, 0.5, deterministic=not train)`, get
                 keys, and follow the model's arguments: `fn(key, x, train=True)`. A warning is
                 given if such an argument would turn more of the model on
    ===========  ===================================================================================

    The same key gives the same output: that of `module.apply(variables, x, rngs={"dropout": key})`
    with dropout on. Each layer has its own masks, also in a stack made by `nn.scan`. Variables are
    not changed. Run the function under `jax.jit`, and under `jax.vmap` for many keys. The variables
    of a large model are better not constants of the compiled program: `jax.jit(lambda variables,
    key, x: jaxdrop.linen.stochastic(model, variables)(key, x))`.

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

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142.
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
    model = Model(module, variables, choice, replacing, method, frozenset(keys), changed)
    return planning.function(model, choice, shared_mask, in_axes, out_axes)
