"""Dropout for SELU networks, which keeps mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional import _axes

# The limit of the SELU at minus infinity: -lambda alpha.
_SELU_FLOOR = -1.7580993408473766


@cites("klambauer2017self")
@_checks.hinted
def alpha_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Dropout for SELU networks: `y = a (m x + (1 - m) f) + b` with `m ~ Bernoulli(1 - rate)` and
    the SELU's floor `f = -1.7581`.

    `a = ((1 - rate) (1 + rate f**2))**-0.5` and `b = -a rate f`: if `x` has mean 0 and variance 1,
    so has `y`. A dropped entry becomes `a f + b` (-1.4577 at rate 0.1), whatever `x` holds there,
    NaN and infinities included, and its gradient is 0. At rate 1 all of `y` is 0, the limit.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating dtype: outputs of a SELU, of mean 0 and variance 1.
      rate: the probability of dropping, as in `dropout`. Klambauer et al. use 0.05 and 0.1.
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `dropout`.
      part: as in `dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `dropout`.

    References:
      Klambauer, Unterthiner, Mayr & Hochreiter, "Self-normalizing neural networks", 2017,
      arXiv:1706.02515.
    """
    x, rate, shared, spec = _checks.check_site("alpha_dropout", x, rate, broadcast_dims, spec)
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    threshold = masks.distribution(rate, x.dtype).threshold
    mean, scale, dropped = _affine(rate, x.dtype)
    return _alpha_dropout(
        _checks.consume_key(key, "alpha_dropout"),
        x,
        threshold,
        mean,
        masks.nan_outside(scale, part),
        dropped,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("alpha_dropout")
def _alpha_dropout(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    mean: jax.Array,
    scale: jax.Array,
    dropped: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    wide = _numerics.compute_dtype(x.dtype)
    mean, scale, dropped = (
        _numerics.expand(number, x.ndim).astype(wide) for number in (mean, scale, dropped)
    )
    keep = masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec, part=part)
    # First the sum, then the product. A product followed by a sum may become one fused operation,
    # rounded once, in one program, and two operations, rounded twice, in another.
    moved = ((x.astype(wide) - mean) * scale).astype(x.dtype)
    return jnp.where(keep, moved, dropped.astype(x.dtype))


def _affine(rate: float | jax.Array, dtype: Any) -> tuple[Any, Any, Any]:
    """`rate f`, the mean of `m x + (1 - m) f`; the factor `a`, 0 at rate 1; and the value of a
    dropped entry, `a f + b`.
    """
    xp = np if isinstance(rate, float) else jnp
    rate = xp.asarray(rate, jnp.finfo(_numerics.compute_dtype(dtype)).dtype)
    spread = xp.sqrt(1 + rate * _SELU_FLOOR**2)
    none = rate == 1
    scale = xp.where(
        none,
        xp.zeros_like(rate),
        1 / (xp.sqrt(xp.where(none, xp.ones_like(rate), 1 - rate)) * spread),
    )
    return rate * _SELU_FLOOR, scale, _SELU_FLOOR * xp.sqrt(1 - rate) / spread


@cites("klambauer2017self", "tompson2015efficient")
@_checks.hinted
@_checks.facts(spatial_rank=_axes.check_spatial_rank)
def feature_alpha_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    channel_axis: int = -1,
    spatial_rank: int | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Alpha dropout of whole channels: `alpha_dropout` with one `m` for each channel of each
    example.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: `(batch..., space..., channels)`, or `(batch..., channels, space...)`; any floating dtype.
      rate: the probability of dropping a channel; its shape broadcasts to the mask's, which is 1
        along the spatial axes.
      channel_axis: as in `jaxdrop.spatial_dropout`; the last axis by default. (PyTorch's layer has
        the channels before the spatial axes.)
      spatial_rank: as in `jaxdrop.spatial_dropout`. If given, `x` may be a single example, without
        a batch axis.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.spatial_dropout`.

    References:
      Klambauer, Unterthiner, Mayr & Hochreiter, "Self-normalizing neural networks", 2017,
      arXiv:1706.02515. Tompson, Goroshin, Jain, LeCun & Bregler, "Efficient object localization
      using convolutional networks", 2014, arXiv:1411.4280.
    """
    x = _checks.check_inexact(x, "feature_alpha_dropout")
    space = _axes.split(x.ndim, channel_axis, spatial_rank).space
    with jax.named_scope("jaxdrop.feature_alpha_dropout"):
        return alpha_dropout(
            key, x, rate, broadcast_dims=space, deterministic=deterministic, spec=spec
        )
