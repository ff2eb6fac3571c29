"""Linen models that run with this library's dropout in place of Flax's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from jaxdrop import masks
from jaxdrop._replacing import Report, Row, Status, another, attention, unreached
from jaxdrop.functional import elements
from jaxdrop.linen._forced import with_attributes_set
from jaxdrop.linen._model import FLAX_DROPOUT, OWN
from jaxdrop.linen.attention import FLAX_ATTENTION, dot_product_attention

__all__ = ["replace_dropout"]

_NOTHING = "no dropout layer of Flax ran here: models are listed when they are traced."
_NNX = (
    "an NNX module, made in each call: wrap its class, as in ToLinen(lambda *args, **kwargs:"
    " jaxdrop.nnx.replace_dropout(Class(*args, **kwargs)).model, ...)"
)

# The caches of `jax.jit` tell apart programs that are traced with another value, so that a
# function which ran before does not keep Flax's masks inside, nor these afterwards.
_replacing = jax.make_user_context(False)


class replace_dropout(contextlib.ContextDecorator):  # noqa: N801
    """A context, or a decorator, in which this library draws the masks of Linen's `nn.Dropout` and
    of `nn.MultiHeadDotProductAttention`, and of classes that inherit from them.

        with jaxdrop.linen.replace_dropout() as report:
            y = model.apply(params, x, rngs={"dropout": key})
        print(report)

        @jax.jit
        @jaxdrop.linen.replace_dropout()
        def train_step(params, key, batch): ...

    Modules keep their parameters, names, variables, streams of keys and errors. Models need not be
    edited, nor made inside: what counts is where they are called. `jax.jit` traces a function anew
    inside; a program that was compiled ahead, by `.lower().compile()`, stays what it is.

    - Training: with a threefry key the masks are those of Flax, bit for bit, and outputs agree up
      to rounding, since the kept entries are scaled by the inverse of the exact keep probability.
      A key of another generator serves as well: `rngs={"dropout": jaxdrop.key(0)}` is fastest.
    - Evaluation, and rates of 0 and 1: Flax's own code runs.
    - Attention is computed by blocks, in memory that grows with the length and not with its square,
      if a layer's `attention_fn` is Flax's, or a `functools.partial` of Flax's.

    `report` lists the layers that were traced in the block, which a program that was compiled in an
    earlier block is not. Beside the layers it lists modules whose draws were not replaced: with an
    `attention_fn` of their own, with a `__call__` that does not come to Flax's, that draw keys
    themselves, or of NNX.
    """

    def __init__(self) -> None:
        self.report = Report(_NOTHING)
        self._depth: list[contextlib.ExitStack] = []

    def __enter__(self) -> Report:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_replacing(True))
            stack.enter_context(nn.intercept_methods(self._intercept))
            self._depth.append(stack.pop_all())
        return self.report

    def __exit__(self, *error: Any) -> None:
        self._depth.pop().close()

    def _intercept(
        self,
        call: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: Any,
    ) -> Any:
        module = context.module
        function = getattr(context.orig_method, "func", None)

        def add(status: Status, reason: str) -> None:
            rate = getattr(module, "dropout_rate", getattr(module, "rate", ""))
            path = "/".join(module.path)
            self.report.add(Row(path, type(module).__name__, str(rate), status, reason))

        if isinstance(module, OWN):
            if context.method_name == "__call__":
                add("replaced", "a layer of jaxdrop already")
        elif function is FLAX_DROPOUT:
            call = functools.partial(_dropout, call, module, add)
        elif function is FLAX_ATTENTION:
            return _attend(call, module, add, args, kwargs)
        elif context.method_name != "setup":
            before = _drawn(module)
            output = call(*args, **kwargs)
            _note(module, _drawn(module) > before, add)
            return output
        return call(*args, **kwargs)


def _dropout(
    call: Callable[..., Any],
    layer: Any,
    add: Callable[[Status, str], None],
    inputs: jax.Array,
    deterministic: bool | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """A call of Flax's layer."""
    given = layer.deterministic, deterministic
    off = [flag for flag in given if flag is not None]
    nothing = any(masks.is_number(layer.rate, value) for value in (0, 1))
    if nothing or len(off) != 1 or off[0]:  # none of them, or both, is Flax's error to raise
        add("off", "")
        return call(inputs, deterministic=deterministic, rng=rng)
    key = layer.make_rng(layer.rng_collection) if rng is None else rng
    add("replaced", "")
    return elements.dropout(key, inputs, layer.rate, broadcast_dims=layer.broadcast_dims)


def _attend(
    call: Callable[..., Any],
    layer: Any,
    add: Callable[[Status, str], None],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """A call of Flax's layer."""
    ours = attention(layer.attention_fn, nn.dot_product_attention, dot_product_attention, add)
    if ours is None:
        add("kept", another(layer.attention_fn))
        return call(*args, **kwargs)
    with with_attributes_set(layer, {"attention_fn": ours}):
        return call(*args, **kwargs)


def _note(module: Any, draws: bool, add: Callable[[Status, str], None]) -> None:
    """Notes a module that is not Flax's, after its call."""
    for base in (nn.Dropout, nn.MultiHeadDotProductAttention):
        if isinstance(module, base) and (reason := unreached(type(module), base)):
            add("kept", reason)
            return
    if callable(getattr(module, "nnx_class", None)):
        add("kept", _NNX)
    elif draws and not isinstance(module, (nn.Dropout, nn.MultiHeadDotProductAttention)):
        add("kept", "draws keys itself, and what it draws from them is not seen")


def _drawn(module: Any) -> int:
    """How many keys a module itself has drawn, but for those of parameters."""
    counters = {} if module.scope is None else module.scope.rng_counters
    return sum(
        count for name, count in counters.items() if isinstance(name, str) and name != "params"
    )
