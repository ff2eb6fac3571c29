"""Layers that drop attention weights, keys and heads. See `jaxdrop.functional.heads`."""

from jaxdrop.functional import heads
from jaxdrop.layers._variant import Variant
from jaxdrop.layers.elements import Elementwise

__all__ = ["AttentionDropout", "DropHead", "DropKey"]


class AttentionDropout(Elementwise, function=heads.attention_dropout):
    """`jaxdrop.attention_dropout` as a layer, for attention weights that are there as an array."""


class DropKey(Elementwise, function=heads.drop_key):
    """`jaxdrop.drop_key` as a layer: drops logits, of shape (..., keys), in front of the softmax of
    attention.

    Args:
      broadcast_dims: axes along which the mask is shared, not the last one.
    """


class DropHead(Variant, function=heads.drop_head):
    """`jaxdrop.drop_head` as a layer: drops whole attention heads of an array of shape
    (batch..., length, heads, depth).

    Args:
      normalize: `'example'`, `'expected'` or `'fixed'`.
      head_axis: the axis of the heads.
    """

    rate: float
    normalize: heads.Normalize = "example"
    head_axis: int = -2
