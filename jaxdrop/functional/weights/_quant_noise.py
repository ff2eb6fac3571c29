"""Dropping blocks of weights."""

from __future__ import annotations

import math

import jax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional.elements import dropout

_block_size = _checks.at_least(1)
_one_rate = _checks.one_rate("quant_noise takes one rate for all blocks")


@cites("stock2021training")
@_checks.hinted
@_checks.facts(rate=_one_rate, block_size=_block_size)
def quant_noise(
    key: jax.Array | None,
    w: jax.Array,
    rate: masks.Rate,
    *,
    block_size: int = 8,
    axis: int = -2,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Quantization noise of product quantizers: whole blocks of weights are dropped, `w <- m * w /
    (1 - rate)`.

    A block is `block_size` neighboring weights along `axis`, the input features of a Flax kernel.
    In a convolution kernel of more than one point, a block is all points of one pair of channels.
    `w` itself does not change. (fairseq's own code stores the noisy weights, so that zeros and
    scales accumulate from step to step.)

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      w: a kernel: (in, out), or (*points, in, out) of a convolution; or an embedding (words,
        features), with `axis=-1`.
      rate: the probability of dropping, in [0, 1], a number or a traced scalar. Typical are 0.05 to
        0.1.
      block_size: the number of weights in a block. It must divide the length of `axis`, or the
        number of points.
      axis: the axis along which blocks lie, in a kernel of one point.
      deterministic: if True, or if `rate` is the number 0, `w` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `w`.

    Returns:
      An array like `w`.

    Raises:
      ValueError: `block_size` does not divide; otherwise as `jaxdrop.dropout`.
      TypeError, NotImplementedError: as `jaxdrop.dropout`; TypeError also if `block_size` or `axis`
        is not an integer.

    References:
      Stock, Fan, Graham, Grave, Gribonval, Jégou & Joulin, "Training with quantization noise for
      extreme model compression", ICLR 2021, arXiv:2004.07320.
    """
    w, rate, _, spec = _checks.check_site("quant_noise", w, rate, (), spec, "w")
    rate = _one_rate(rate, "rate")
    points = math.prod(w.shape[:-2])
    axis = _checks.check_axis(axis, "axis", w.ndim, "w")
    length = points if points > 1 else w.shape[axis]
    block_size = _block_size(block_size, "block_size")
    if length % block_size:
        what = f"{points} points" if points > 1 else f"length {length} of axis {axis}"
        raise ValueError(
            f"block_size must divide the {what} of w of shape {tuple(w.shape)}, got"
            f" {_checks.quoted(block_size)}"
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return w
    with jax.named_scope("jaxdrop.quant_noise"):
        if points > 1:
            return dropout(key, w, rate, broadcast_dims=range(w.ndim - 2), spec=spec)
        blocks = (*w.shape[:axis], length // block_size, block_size, *w.shape[axis + 1 :])
        if spec is not None:
            spec = PartitionSpec(*spec[: axis + 1], None, *spec[axis + 1 :])
        return dropout(key, w.reshape(blocks), rate, broadcast_dims=(axis + 1,), spec=spec).reshape(
            w.shape
        )
