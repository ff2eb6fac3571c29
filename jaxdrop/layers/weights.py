"""Layers that drop weights. See `jaxdrop.functional.weights`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax

from jaxdrop import masks
from jaxdrop._checks import facts_of
from jaxdrop._references import cites
from jaxdrop.functional import weights
from jaxdrop.functional.elements import dropout
from jaxdrop.layers._parameters import DENSE
from jaxdrop.layers._variant import Variant

__all__ = ["DropConnect", "QuantNoise", "WeightDrop"]


@cites(weights.drop_connect, gaussian="wang2013fast")
def _drop_connect(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    rate: masks.Rate,
    *,
    per: weights.Per,
    scale_by_keep: bool,
    gaussian: bool,
    **settled: Any,
) -> jax.Array:
    settled["scale_by_keep"] = scale_by_keep
    if gaussian:
        return weights.drop_connect_gaussian(key, x, w, rate, **settled)
    return weights.drop_connect(key, x, w, rate, per=per, **settled)


# The layout of each parameter is known in the call.
_LAYOUTS = MappingProxyType({"spec": lambda value, _: value})


class DropConnect(Variant, function=_drop_connect):
    """A dense layer `x (m * kernel) / (1 - rate) + bias`: `jaxdrop.drop_connect` with the
    parameters of Flax's dense layer.

    The bias is not dropped. Parameters are cast to the dtype of the input.

    Args:
      per: `'example'` for a mask for each row of the input, `'batch'` for one that all rows share.
      scale_by_keep: if False, training does not divide by `1 - rate`, and evaluation multiplies by
        it, as in the paper.
      gaussian: whether to draw outputs from the normal distribution of the same mean and variance
        instead, as `jaxdrop.drop_connect_gaussian`: the paper's inference.
      deterministic: if True, the mean weights are used.
      spec: as in `Dropout`, of the whole mask (of the whole output if `gaussian`).
    """

    call = DENSE
    rate: float = 0.5
    per: weights.Per = "batch"
    scale_by_keep: bool = True
    gaussian: bool = False


class WeightDrop(Variant, function=weights.weight_drop):
    """Runs a module with some of its weights dropped: `jaxdrop.weight_drop` over the module's
    parameters.

        rnn = WeightDrop(nnx.RNN(nnx.OptimizedLSTMCell(64, 64, rngs=rngs)), 0.5,
                         match="dense_h/kernel", rngs=rngs)
        rnn = WeightDrop(nn.RNN(nn.OptimizedLSTMCell(64)), 0.5, match=r"h[ifgo]/kernel$")

    Masks are drawn once a call. The module's own parameters stay as they are, and get the
    gradients; what else the call changes in it (batch statistics, random streams) is kept.

    Args:
      match: which parameters: a regular expression that is searched for in names such as
        `cell/dense_h/kernel`, or a function of a path of `jax.tree_util` keys.
      drop: what is done to a parameter, `drop(key, w, rate, spec=...)`.
      deterministic: if True, nothing is dropped.
      spec: as in `Dropout`, of the whole parameters, as in `jaxdrop.weight_drop`.
    """

    rate: float
    match: weights.Match
    drop: Callable[..., jax.Array] = dropout
    checks = _LAYOUTS


@cites(weights.quant_noise)
class QuantNoise(Variant, function=weights.weight_drop):
    """Runs a module with quantization noise on its weights: `jaxdrop.quant_noise` over the chosen
    parameters.

    Args:
      block_size: the number of weights in a block.
      axis: along which blocks lie: -2 for the input features of kernels, -1 for embeddings.
      match: which parameters, as in `WeightDrop`; all kernels by default.
      deterministic: if True, nothing is dropped.
      spec: as in `Dropout`, of the whole parameters, as in `jaxdrop.weight_drop`.
    """

    rate: float
    block_size: int = 8
    axis: int = -2
    match: weights.Match = r"(^|/)kernel$"
    checks = MappingProxyType({**_LAYOUTS, **facts_of(weights.quant_noise).checks})

    @property
    def drop(self) -> Callable[..., jax.Array]:
        """What is done to a parameter."""
        return functools.partial(weights.quant_noise, block_size=self.block_size, axis=self.axis)
