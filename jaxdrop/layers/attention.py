"""How Flax's attention layers are made to use another rate and layout.

Flax's layers compare their rate with 0, to see whether they need a key, and pass it on to their
`attention_fn`. A traced rate cannot be compared, and a layout is unknown to them. So `attention_fn`
gets the rate and the layout from here, and the layer sees a stand-in for the rate.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxdrop import _checks, masks
from jaxdrop.layers._cache import Cache, knows_places

__all__ = [
    "Cache",
    "checked_rate",
    "knows_places",
    "stand_in",
    "with_attributes",
    "with_options",
]

Layer = TypeVar("Layer")


def checked_rate(rate: Any, layer: str) -> float | jax.Array:
    """The argument `dropout_rate` of a layer, which has no axes."""
    with _checks.renamed(rate="dropout_rate"):
        rate = _checks.check_rate(rate)
        _checks.check_one_rate(rate, f"{layer} takes one dropout_rate")
    known: float | jax.Array = rate
    return known


def stand_in(rate: masks.Rate) -> float:
    """A rate that Flax may compare with 0 in place of `rate`: 0 if nothing is dropped."""
    return 0.0 if masks.is_number(rate, 0) else 0.5


def with_attributes(layer: Layer, **attributes: Any) -> Layer:
    """A shallow copy of one of Flax's layers, with other attributes. It shares the parameters and
    streams of the layer.

    The attributes are written into `__dict__`. By assignment they could not be changed: Linen's
    modules are frozen, and NNX forbids it for a layer that was made outside of a transformation of
    JAX, even for its copies.
    """
    copied = copy.copy(layer)
    copied.__dict__.update(attributes)
    return copied


def with_options(
    attention_fn: Callable[..., Any], layer: str, **options: Any
) -> Callable[..., Any]:
    """`attention_fn` with these options, whatever the layer that calls it passes for them.

    Args:
      attention_fn: a function like `dot_product_attention` of Flax.
      layer: the layer's name or path, for messages.
      **options: `dropout_rate`, `spec`, and what a query sees. None leaves the option to the
        caller.

    Returns:
      A function with the signature of `attention_fn`: Linen's layers pass the options that a
      signature names, and no others. It raises a TypeError where `attention_fn` compares a traced
      rate.

    Raises:
      ValueError: `attention_fn` does not take one of the options.
    """
    options = {name: value for name, value in options.items() if value is not None}
    parameters = inspect.signature(attention_fn).parameters
    if inspect.Parameter.VAR_KEYWORD not in [each.kind for each in parameters.values()]:
        for name in options.keys() - parameters.keys():
            raise ValueError(
                f"the attention_fn of {layer} takes no {name}. Take that of"
                " jaxdrop.linen or jaxdrop.nnx, dot_product_attention, or give it one."
            )

    @functools.wraps(attention_fn)
    def attend(*operands: Any, **others: Any) -> Any:
        try:
            return attention_fn(*operands, **others | options)
        except jax.errors.TracerBoolConversionError:
            raise TypeError(
                f"the rate of {layer} is traced, and its attention_fn compares"
                " it. Take dot_product_attention of jaxdrop.linen or jaxdrop.nnx, or a known"
                " rate."
            ) from None

    return attend
