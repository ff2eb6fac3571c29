"""Dropout of single entries: inverted, and as it was first published."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites


@cites("hinton2012improving", "srivastava2014dropout")
@_checks.hinted
def dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
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
        the output is 0. A traced rate outside [0, 1] raises an error under `checkify` only;
        otherwise the output and its gradients are NaN.
      broadcast_dims: axes along which all entries share one mask value; negative axes count from
        the end.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned, and no operation
        is traced.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        array, `x` being this device's part. The mask is then this device's part of the mask of the
        whole array, bit for bit. Without `spec`, devices that hold the same key draw the same mask.
      part: the place of `x` in a longer array, such as that of one token in a text,
        `jaxdrop.Part(offset, length, axis)`; the mask is then that part of the whole array's. With
        `spec`, it is the place of the array that the devices hold together.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError: `x` holds integers or booleans; `rate`, `key`, `broadcast_dims`, `spec`,
        `part` or `deterministic` is of a wrong type.
      ValueError: `rate` is outside [0, 1] or does not fit the mask, `key` is missing or an array of
        keys, `broadcast_dims` or `spec` does not fit `x`, or `part` is not inside its whole. (A
        traced offset at which it is not makes the output NaN.)
      NotImplementedError: `spec` divides an axis or `part` is given, and the key's generator can
        only draw whole arrays (rbg, philox).

    References:
      Hinton, Srivastava, Krizhevsky, Sutskever & Salakhutdinov, "Improving neural networks by
      preventing co-adaptation of feature detectors", 2012, arXiv:1207.0580. Srivastava et al.,
      "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014 (whose p is
      the probability of keeping).
    """
    x, rate, shared, spec = _checks.check_site("dropout", x, rate, broadcast_dims, spec)
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    threshold, scale = masks.distribution(rate, x.dtype)
    return _dropout(
        _checks.consume_key(key, "dropout"),
        x,
        threshold,
        masks.nan_outside(scale, part),
        part,
        shared=shared,
        spec=spec,
    )


@kernel("dropout")
def _dropout(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    keep = masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec, part=part)
    return masks.scaled(keep, x, scale)


@cites("hinton2012improving", "srivastava2014dropout")
@_checks.hinted
def classic_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Dropout as first published: `y = m x` with `m ~ Bernoulli(1 - rate)` in training, `y = (1 -
    rate) x` in evaluation.

    The expectation is `1 - rate` times that of `dropout`, in training and evaluation. Use it to
    replicate work of 2012 to 2016, and otherwise `dropout`, which does nothing in evaluation. Both
    draw the same mask from the same key.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability of dropping, as in `dropout`. Srivastava et al. state the probability of
        keeping: 0.5 for hidden units, 0.8 for inputs.
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, `(1 - rate) x` is returned. If `rate` is the number 0, `x` itself is
        returned.
      spec: as in `dropout`.
      part: as in `dropout`.

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
    part = masks.check_part(part, x, spec)
    evaluation = _checks.check_flag(deterministic, "deterministic")
    if masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    if evaluation:
        return _weighted(x, 1 - rate)
    return _classic_dropout(
        _checks.consume_key(key, "classic_dropout"),
        masks.nan_outside(masks.nan_if_impossible(x, rate), part),
        masks.distribution(rate, x.dtype).threshold,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("classic_dropout")
def _classic_dropout(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    keep = masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec, part=part)
    return jnp.where(keep, x, jnp.zeros((), x.dtype))


@kernel("classic_dropout")
def _weighted(x: jax.Array, weight: jax.Array) -> jax.Array:
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) * _numerics.expand(weight, x.ndim).astype(wide)).astype(x.dtype)
