"""Dropping single entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks
from jaxdrop.functional import _axes
from jaxdrop.functional._kernel import kernel


@_checks.hinted
def dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Inverted dropout: `y = m x / (1 - rate)` with `m ~ Bernoulli(1 - rate)` for each entry, so
    that `E[y] = x`.

    Dropped entries are 0 whatever `x` holds there, NaN and infinities included, and so are their
    gradients. Nothing is stored for the backward pass but the key: the mask is computed again. With
    a threefry key the mask is that of `flax.linen.Dropout` and `flax.nnx.Dropout`.

    Args:
      key: a single PRNG key: `jaxdrop.key(seed)` is fastest, `jax.random.key(seed)` draws the masks
        of Flax. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, such as one rate for each feature. It gets no gradient. At 1
        the output is 0. A traced rate outside [0, 1] cannot raise (but under `checkify`): the
        output and its gradients are NaN.
      broadcast_dims: axes along which all entries share one mask value; negative axes count from
        the end.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned, and no operation
        is traced.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        array, of which `x` is this device's part. The mask is then the one that the whole array
        would get, bit for bit. Without it, devices that hold the same key draw the same mask.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError: `x` holds integers or booleans; `rate`, `key`, `broadcast_dims`, `spec` or
        `deterministic` is of a wrong type.
      ValueError: `rate` is outside [0, 1] or does not fit the mask, `key` is missing or an array of
        keys, `broadcast_dims` or `spec` does not fit `x`.
      NotImplementedError: `spec` divides an axis, and the key's generator can only draw whole
        arrays (rbg, philox).

    References:
      Hinton, Srivastava, Krizhevsky, Sutskever & Salakhutdinov, "Improving neural networks by
      preventing co-adaptation of feature detectors", 2012, arXiv:1207.0580. Srivastava et al.,
      "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014 (whose p is
      the probability of keeping).
    """
    x, rate, shared, spec = _checks.check_site("dropout", x, rate, broadcast_dims, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    return _dropout(
        _checks.consume_key(key, "dropout"),
        x,
        *masks.distribution(rate, x.dtype),
        shared=shared,
        spec=spec,
    )


@kernel("dropout")
def _dropout(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    keep = masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec)
    return masks.scaled(keep, x, scale)


@_checks.hinted
def classic_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Dropout as first published: `y = m x` with `m ~ Bernoulli(1 - rate)` in training, `y = (1 -
    rate) x` in evaluation.

    The same expectations as those of `dropout`, times `1 - rate`. For replicating work of 2012 to
    2016; elsewhere `dropout` is to be preferred, which leaves evaluation alone. With the same key
    it draws the same mask.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability of dropping, as in `dropout`. Srivastava et al. state the probability of
        keeping: 0.5 for hidden units, 0.8 for inputs.
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, `(1 - rate) x` is returned: this is the one dropout that does
        something in evaluation. If `rate` is the number 0, `x` itself is returned.
      spec: as in `dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `dropout`.

    References:
      Hinton, Srivastava, Krizhevsky, Sutskever & Salakhutdinov, "Improving neural networks by
      preventing co-adaptation of feature detectors", 2012, arXiv:1207.0580. Srivastava et al.,
      "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    x, rate, shared, spec = _checks.check_site("classic_dropout", x, rate, broadcast_dims, spec)
    evaluation = _checks.check_flag(deterministic, "deterministic")
    if masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    if evaluation:
        return _weighted(x, 1 - rate)
    return _classic_dropout(
        _checks.consume_key(key, "classic_dropout"),
        masks.nan_if_impossible(x, rate),
        masks.distribution(rate, x.dtype).threshold,
        shared=shared,
        spec=spec,
    )


@kernel("classic_dropout")
def _classic_dropout(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return jnp.where(
        masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec),
        x,
        jnp.zeros((), x.dtype),
    )


@kernel("classic_dropout")
def _weighted(x: jax.Array, weight: jax.Array) -> jax.Array:
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) * _numerics.expand(weight, x.ndim).astype(wide)).astype(x.dtype)


# What a SELU tends to for very negative arguments: -lambda alpha.
_SELU_FLOOR = -1.7580993408473766


@_checks.hinted
def alpha_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Dropout for SELU networks: `y = a (m x + (1 - m) f) + b` with `m ~ Bernoulli(1 - rate)` and
    the SELU's floor `f = -1.7581`.

    `a = ((1 - rate) (1 + rate f**2))**-0.5` and `b = -a rate f` keep mean 0 and variance 1, of `x`
    that has them. A dropped entry is not 0 but `a f + b`, at rate 0.1 -1.4577; NaN and infinities
    there are gone, and its gradient is 0. At rate 1 all of `y` is 0, which is the limit.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating dtype: outputs of a SELU, of mean 0 and variance 1.
      rate: the probability of dropping, as in `dropout`. Klambauer et al. use 0.05 and 0.1.
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `dropout`.

    References:
      Klambauer, Unterthiner, Mayr & Hochreiter, "Self-normalizing neural networks", 2017,
      arXiv:1706.02515.
    """
    x, rate, shared, spec = _checks.check_site("alpha_dropout", x, rate, broadcast_dims, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    threshold = masks.distribution(rate, x.dtype).threshold
    return _alpha_dropout(
        _checks.consume_key(key, "alpha_dropout"),
        x,
        threshold,
        *_affine(rate, x.dtype),
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
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    wide = _numerics.compute_dtype(x.dtype)
    mean, scale, dropped = (
        _numerics.expand(number, x.ndim).astype(wide) for number in (mean, scale, dropped)
    )
    keep = masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec)
    # A sum and then a product: a product and then a sum may be rounded once or twice, as the
    # compiler likes.
    return jnp.where(keep, (x.astype(wide) - mean) * scale, dropped).astype(x.dtype)


def _affine(rate: float | jax.Array, dtype: Any) -> tuple[Any, Any, Any]:
    """`rate f`, which is the mean of `m x + (1 - m) f`; `a`, and 0 at rate 1; and what becomes of a
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


@_checks.hinted
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
      channel_axis: as in `jaxdrop.spatial_dropout`; the last one by default, where PyTorch has it
        before the spatial axes.
      spatial_rank: as in `jaxdrop.spatial_dropout`; with it single examples are fine, which
        PyTorch's layer does not take.
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
