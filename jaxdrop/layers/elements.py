"""Layers that drop single entries, or channels. See `jaxdrop.functional.elements`."""

from collections.abc import Sequence

from jaxdrop.functional import elements
from jaxdrop.layers._variant import Variant

__all__ = [
    "AlphaDropout",
    "Channelwise",
    "ClassicDropout",
    "Dropout",
    "Elementwise",
    "FeatureAlphaDropout",
]


class Elementwise(Variant):
    """The fields of layers that draw a mask for single entries."""

    rate: float
    broadcast_dims: Sequence[int] = ()


class Channelwise(Variant):
    """The fields of layers that draw a mask for whole channels."""

    rate: float
    channel_axis: int = -1
    spatial_rank: int | None = None


class Dropout(Elementwise, function=elements.dropout):
    """`jaxdrop.dropout` as a layer, with the signature of Flax's.

    With the same keys it draws the same masks as Flax's. With `jaxdrop.key(0)` in place of
    `jax.random.key(0)`, as in `nnx.Rngs(jaxdrop.key(0))`, it draws other ones, for about the price
    of a multiplication.

    In NNX the random stream is state that a call advances. `nnx.jit`, `nnx.scan`, `nnx.remat` and
    their like carry that state. Plain `jax.jit` does not: a module passed as its argument repeats
    the same mask in every call, silently, and a module closed over raises a trace-level error.
    Under plain JAX transformations pass a key to the call, `layer(x, rngs=key)`: then nothing is
    state. A bare key given to several layers of a model gives them the same mask; `nnx.Rngs(key)`
    gives each its own.
    """


class ClassicDropout(Elementwise, function=elements.classic_dropout):
    """`jaxdrop.classic_dropout` as a layer: dropout as first published, which multiplies by
    `1 - rate` in evaluation.

    Args:
      deterministic: if True, the inputs are multiplied by `1 - rate`.
    """


class AlphaDropout(Elementwise, function=elements.alpha_dropout):
    """`jaxdrop.alpha_dropout` as a layer, for SELU networks."""


class FeatureAlphaDropout(Channelwise, function=elements.feature_alpha_dropout):
    """`jaxdrop.feature_alpha_dropout` as a layer: alpha dropout of whole channels."""
