"""MC dropout: an NNX model with its dropout on and everything else as in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from jaxdrop import masks
from jaxdrop._mc_dropout import calls, overrides, planning
from jaxdrop._mc_dropout.examples import InAxes
from jaxdrop._mc_dropout.messages import nothing_random
from jaxdrop._mc_dropout.overrides import Overrides
from jaxdrop._mc_dropout.planning import Choice
from jaxdrop._references import cites
from jaxdrop.nnx._model import Model, layers_of
from jaxdrop.nnx._told import change_of

__all__ = ["stochastic"]


@cites("gal2016dropout")
def stochastic(
    model: nnx.Module,
    *,
    layers: planning.Layers = "all",
    rate: masks.Rate | None = None,
    rates: Mapping[str, masks.Rate] | None = None,
    spec: overrides.Spec = None,
    shared_mask: bool = False,
    in_axes: InAxes = 0,
    out_axes: int = 0,
    method: Callable[..., Any] | str | None = None,
) -> Callable[..., Any]:
    """A pure function `fn(key, *inputs, **kwargs)` of a trained model, in which dropout is random
    and nothing else is.

        fn = jaxdrop.nnx.stochastic(model)
        keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
        samples = jaxdrop.mc.predict(lambda key: fn(key, x), keys)

    The function has a copy of the model as it is now. It never reads the model again, nor changes
    its variables or random streams. The model may be in `eval()` or in `train()` mode, and
    constructors and callers of layers may say what they like, as in `nnx.Dropout(0.5,
    deterministic=True)`, `self.drop(x, deterministic=True)`, or `self.norm(x,
    use_running_average=False)`.

    ===========  ===================================================================================
    on           the chosen layers. There are to choose from: all layers of `jaxdrop.nnx`,
                 `nnx.Dropout`, and the dropout in Flax's attention layers
    off          the layers of these kinds that are not chosen
    evaluation   normalization layers: they use their running statistics
                 (`use_running_average=True`) and do not update them (`update_stats=False`)
    as it is     everything else. Functions that the model calls itself, such as
                 `jaxdrop.dropout(self.rngs.dropout(), x, 0.5, deterministic=not train)`, get keys,
                 and follow the model's arguments: `fn(key, x, train=True)`. A warning is given if
                 such an argument would turn more of the model on
    ===========  ===================================================================================

    The same key gives the same output. Every random stream, of the model and among the inputs,
    starts from a key of its own that is derived from `key`, and stacked streams from one key each.
    A model whose call takes `rngs` gets an `nnx.Rngs` made from `key`, unless one is given. A layer
    takes its key as in training, from its caller's `rngs` or from its own stream; a layer that has
    neither gets a stream. Streams with the tag `carry` are not changed: they make the first states
    of RNNs.

    Keys among the inputs are used as they are. Derive them from `key`, so that they differ from
    sample to sample: `lambda key: fn(key, x, jax.random.fold_in(key, 1))`.

    Run the function under `jax.jit`, and under `jax.vmap` for many keys. The variables of a large
    model are better not constants of the compiled program: `nnx.jit(lambda model, key, x:
    jaxdrop.nnx.stochastic(model)(key, x))`.

    Args:
      model: any NNX module; with `method`, also a list, tuple or dict of modules.
      layers: which dropout layers are on. `"all"`; `"last"`, the last one that runs and drops
        something, so that all before it need be computed once only; a pattern, or a list of
        patterns, for paths as in `"encoder/*"`, in which `*` stands for any characters, `/` too; or
        a function of (path, module). A layer that is called twice is one layer, and so are layers
        that are stacked by `nnx.vmap`.
      rate: the probability of dropping, in place of that of each layer that is on and has one above
        0. It may be traced: one compilation then serves many rates, as under `jax.vmap` and in
        `mc.fit_rate`. A layer with a rate of 0 is not in use, and stays so. A layer that has no
        rate, such as `GaussianNoise`, or learns it, such as `ConcreteDropout`, stays as it is.
      rates: the same by patterns of paths, as in `{"encoder/*": 0.1, "head/drop": 0.5}`, also for
        rates of 0. Of two patterns that a path fits, the later one counts. Layers that none fits
        follow `rate`. Of a layer with several rates, such as `RNN`, a pattern replaces those above
        0; one that ends in the name of a rate replaces that one: `"encoder/rnn/input_rate"`.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        arrays that come into the layers, such as `PartitionSpec("data")` if the batch is divided.
        Masks are then those of the whole arrays. One for all layers that have none of their own and
        do not drop weights; or by patterns of paths, as `rates`, for any.
      shared_mask: if False, each example has masks of its own. If True, all examples of a batch
        share one, whatever the kind of dropout, so that a key stands for a function, as in Thompson
        sampling, BatchBALD or for smooth curves. The model then runs under `jax.vmap` on batches of
        one.
      in_axes: with `shared_mask`, where the batch is, as in `jax.vmap`: an axis for all inputs, or
        one for each, None for an input that has no batch axis. That of keyword arguments is axis 0.
        Scalars, and what is no array, go to every example.
      out_axes: with `shared_mask`, where the batch is in the outputs.
      method: what to call in place of `__call__`: a name, or a function of (model, *inputs).

    Returns:
      The function. Its first call for each form of the inputs traces the model a few times more, to
      find its layers.

    Raises:
      TypeError: `model` is no NNX module, or `rate`, `rates` or `spec` of another kind.
      ValueError: `layers` is none of the above, or chooses no layer; a rate is out of range; there
        is no layer and no random stream. The function raises it, with a list of the layers, if the
        output does not depend on the key, for all rates are 0; if a pattern fits no layer; and if
        variables change in the call, such as batch statistics or the cache of a decoder, and are
        not returned.

    Warns:
      UserWarning: something is drawn from a key that does not follow `key`, such as one that the
        model holds; or layers are on, and other code is off, which would draw with `train=True` or
        the like.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142.
    """
    nodes = (
        [node for _, node in nnx.iter_graph(model)]
        if isinstance(model, (nnx.Module, list, tuple, dict))
        else []
    )
    if not any(isinstance(node, nnx.Module) for node in nodes):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"model must be an NNX module, got {what}. For Linen there is jaxdrop.linen.stochastic."
        )
    if not (isinstance(model, nnx.Module) or callable(method)):
        raise TypeError(
            f"model is a {type(model).__name__} of modules, of which method must say what to do"
            " with them, as in method=lambda models, x: ..."
        )
    choice, name = Choice(layers), type(model).__name__
    replacing = Overrides.checked(rate, rates, spec)
    calls.check_method(method, model)
    found = {
        path: choice.layer(path, layer, change_of(replacing, path, layer, {}))
        for path, layer in layers_of(model)
    }
    choice.check(name, found.values())
    graph, state = nnx.split(nnx.clone(model))
    own = Model(name, graph, state, found, replacing, method)
    if not found and not own.may_be_random():
        raise nothing_random(name, [], "")
    return planning.function(own, choice, shared_mask, in_axes, out_axes)
