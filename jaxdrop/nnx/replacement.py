"""An NNX model with this library's dropout in place of Flax's."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

from flax import linen, nnx

from jaxdrop import _checks
from jaxdrop._replacing import Report, Row, Status, another, attention, unreached
from jaxdrop.nnx._flax_dropout import ReplacedDropout, subclass
from jaxdrop.nnx._forced import OWN
from jaxdrop.nnx.attention import dot_product_attention

__all__ = ["Replaced", "replace_dropout"]

_NOTHING = "the model has no dropout layer of Flax."
_OWN_STREAM = "keeps a random stream: draws that it makes itself, if any, stay as they are"
_LINEN = "a Linen module: call the model inside jaxdrop.linen.replace_dropout()"


class Replaced(NamedTuple):
    """What `replace_dropout` returns."""

    model: Any
    """The model that runs with this library's dropout."""
    report: Report
    """What was replaced and what was not, and why."""


def replace_dropout(model: Any) -> Replaced:
    """A view of a model in which this library draws the masks of `nnx.Dropout` and of
    `nnx.MultiHeadAttention`, and of classes that inherit from them.

        model, report = jaxdrop.nnx.replace_dropout(model)
        print(report)

    The view shares all Variables with `model`, as the views of `nnx.view` do: parameters, states
    and random streams are the same objects, so checkpoints and optimizers fit both. `model` itself
    is left as it is. Layers keep their classes for `isinstance`, their attributes, their
    constructors' and callers' arguments, and their errors.

    - Training: with a threefry key the masks are those of Flax, bit for bit, and outputs agree up
      to rounding, since the kept entries are scaled by the inverse of the exact keep probability.
      A key of another generator serves as well: `nnx.Rngs(dropout=jaxdrop.key(0))` is fastest.
    - Evaluation, and rates of 0 and 1: Flax's own code runs.
    - Attention is computed by blocks, in memory that grows with the length and not with its square,
      if a layer's `attention_fn` is Flax's, or a `functools.partial` of Flax's.

    Args:
      model: any NNX module, or a list, tuple or dict of modules.

    Returns:
      `(model, report)`. The report lists, beside the layers, modules whose draws were not replaced:
      with an `attention_fn` of their own, with a `__call__` that does not come to Flax's, with a
      random stream, or of Linen.

    Raises:
      TypeError: no NNX module.

    Warns:
      UserWarning: nothing was replaced.
    """
    # Found before, so that a class or a function is told apart from a model without layers.
    found = isinstance(model, (nnx.Module, list, tuple, dict)) and any(
        isinstance(node, nnx.Module) for _, node in nnx.iter_graph(model)
    )
    if not found:
        raise TypeError(
            f"model must be an NNX module, got {_checks.quoted(model)}. For Linen there is"
            " jaxdrop.linen.replace_dropout."
        )
    view = nnx.merge(*nnx.split(model))
    report = Report(_NOTHING)
    for path, node in nnx.iter_graph(view):
        if isinstance(node, nnx.Module):
            _replace(node, "/".join(map(str, path)), report)
    if not report.replaced:
        warnings.warn(
            f"replace_dropout replaced nothing in {type(model).__name__}:\n{report}", stacklevel=2
        )
    return Replaced(view, report)


def _replace(node: Any, path: str, report: Report) -> None:
    cls: Any = type(node)

    def add(status: Status, reason: str, rate: Any = "") -> None:
        if status != "off":
            report.add(Row(path, cls.__name__, str(rate), status, reason))

    if isinstance(node, OWN):
        rate = getattr(node, "dropout_rate", getattr(node, "rate", ""))
        add("replaced", "a layer of jaxdrop already", rate)
    elif isinstance(node, nnx.Dropout):
        if reason := unreached(cls, nnx.Dropout):
            add("kept", reason, node.rate)
            return
        # By plain assignment, Flax before 0.12.12 would list `__class__` among the attributes.
        object.__setattr__(node, "__class__", subclass(cls, ReplacedDropout))
        add("replaced", "", node.rate)
    elif isinstance(node, nnx.MultiHeadAttention):
        _replace_attention(node, functools.partial(add, rate=node.dropout_rate))
    elif isinstance(getattr(node, "to_nnx__module", None), linen.Module):
        add("kept", _LINEN)
    elif not cls.__module__.startswith("flax.") and _draws(node):
        add("kept", _OWN_STREAM, getattr(node, "rate", ""))


def _replace_attention(node: Any, add: Any) -> None:
    reason = unreached(type(node), nnx.MultiHeadAttention)
    ours = attention(node.attention_fn, nnx.dot_product_attention, dot_product_attention, add)
    if reason:
        add("kept", reason)
    elif ours is None:
        add("kept", another(node.attention_fn))
    else:
        node.attention_fn = ours
        add("replaced", "attention")


def _draws(node: nnx.Module) -> bool:
    """Whether a module has a random stream among its attributes."""
    streams = (nnx.Rngs, nnx.RngStream)
    return any(isinstance(value, streams) for value in vars(node).values())
