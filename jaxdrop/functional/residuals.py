"""Dropout fused with the operations that follow it in a transformer: residual sum and layer
normalization.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

__all__ = [
    "bias_dropout_add",
    "dropout_add_layer_norm",
]


@cites("narayanan2021efficient")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,))
def bias_dropout_add(
    key: jax.Array | None,
    x: jax.Array,
    bias: jax.Array | None,
    residual: jax.Array,
    rate: masks.Rate,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """The end of a residual branch in one pass over memory: `y = residual + dropout(x + bias)`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: the output of a projection without its bias; any floating dtype.
      bias: broadcasts to `x`, usually of shape `(features,)`; or None.
      residual: of the shape of `x`.
      rate: the probability of dropping, as in `jaxdrop.dropout`. The mask is the one of
        `jaxdrop.dropout(key, x, rate)`.
      deterministic: if True, or if `rate` is the number 0, this is `residual + (x + bias)`.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `residual`. The sums are formed in its dtype, in float32 at least.

    Raises:
      TypeError: as `jaxdrop.dropout`, of `x`, `bias` and `residual`.
      ValueError: shapes do not fit; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Narayanan et al., "Efficient large-scale language model training on GPU clusters using
      Megatron-LM", 2021, arXiv:2104.04473.
    """
    x, rate, _, spec = _checks.check_site("bias_dropout_add", x, rate, (), spec)
    residual = _like("residual", residual, x, "bias_dropout_add")
    if bias is not None:
        bias = _broadcast("bias", bias, x.shape, "bias_dropout_add")
    part = masks.check_part(part, x, spec)
    distribution = _distribution(rate, x, deterministic, part)
    key = None if distribution is None else _checks.consume_key(key, "bias_dropout_add")
    return _bias_dropout_add(key, x, bias, residual, distribution, part, spec=spec)


@kernel("bias_dropout_add")
def _bias_dropout_add(
    key: jax.Array | None,
    x: jax.Array,
    bias: jax.Array | None,
    residual: jax.Array,
    distribution: masks.Distribution | None,
    part: masks.Part | None,
    *,
    spec: PartitionSpec | None,
) -> jax.Array:
    kind = np.promote_types(
        _numerics.compute_dtype(x.dtype), _numerics.compute_dtype(residual.dtype)
    )
    branch = (
        x.astype(kind)
        if bias is None
        else x.astype(kind) + _numerics.expand(bias, x.ndim).astype(kind)
    )
    branch = _dropped(key, branch, x.dtype, distribution, spec, part)
    return (residual.astype(kind) + branch).astype(residual.dtype)


def _epsilon(epsilon: Any, name: str) -> float:
    _checks.check_not_traced(epsilon, name)
    checked = _checks.check_number(epsilon, name, meaning=" It is added to the variance.")
    if not isinstance(checked, float):
        raise TypeError(f"{name} must be one number, got {_checks.quoted(epsilon)}")
    return checked


@cites("ba2016layer", "dao2024flashattention2")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,), epsilon=_epsilon)
def dropout_add_layer_norm(
    key: jax.Array | None,
    x: jax.Array,
    residual: jax.Array | None,
    scale: jax.Array | None,
    bias: jax.Array | None,
    rate: masks.Rate,
    *,
    row_scale: jax.Array | None = None,
    epsilon: float = 1e-5,
    prenorm: bool = False,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Dropout, residual sum and layer normalization in one: `z = dropout(row_scale x) + residual`,
    `y = LayerNorm(z)`.

    `LayerNorm(z) = scale (z - mean(z)) / sqrt(var(z) + epsilon) + bias` over the last axis, with
    statistics in float32 at least. The order is that of flash-attn's fused operation, whose
    `row_scale` is drop path: one number for each row, multiplied before the dropout.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: the output of a residual branch, `(..., features)`, of any floating dtype.
      residual: of the shape of `x`; or None, for 0.
      scale: the factors of the normalization, `(features,)`; or None, for 1.
      bias: the offsets of the normalization, `(features,)`; or None, for 0.
      rate: the probability of dropping, as in `jaxdrop.dropout`. The mask is the one of
        `jaxdrop.dropout(key, x, rate)`.
      row_scale: one number for each row, of the shape of `x` without its last axis.
      epsilon: is added to the variance. flash-attn and PyTorch have 1e-5, Flax 1e-6.
      prenorm: if True, `z` is returned too, for the next residual sum.
      deterministic: if True, or if `rate` is the number 0, nothing is dropped.
      spec: as in `jaxdrop.dropout`; the last axis may not be divided.
      part: as in `jaxdrop.dropout`.

    Returns:
      `y`, of the dtype of `x`; with `prenorm` `(y, z)`, `z` of the dtype of `residual` if there is
      one.

    Raises:
      TypeError: as `jaxdrop.dropout`, of each array; complex numbers.
      ValueError: shapes do not fit, or `spec` divides the last axis; otherwise as
        `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Ba, Kiros & Hinton, "Layer normalization", 2016, arXiv:1607.06450. Dao, "FlashAttention-2",
      2023, arXiv:2307.08691, whose package has the fused operation.
    """
    caller = "dropout_add_layer_norm"
    x, rate, _, spec = _checks.check_site(caller, x, rate, (), spec)
    x = _checks.check_real(x, caller)
    if x.ndim == 0:
        raise ValueError(f"{_checks.shown('x')} must have shape (..., features), got a scalar")
    prenorm = _checks.check_flag(prenorm, "prenorm")
    eps = _epsilon(epsilon, "epsilon")
    if _mapped_axes.names_and_size(spec, [x.ndim - 1])[0]:
        raise ValueError(
            f"spec={spec} divides the features, axis {x.ndim - 1}, over which the statistics are"
            " taken."
        )
    residual = (
        None
        if residual is None
        else _checks.check_real(_like("residual", residual, x, caller), caller, "residual")
    )
    scale, bias = (
        (
            None
            if value is None
            else _checks.check_real(_broadcast(name, value, x.shape[-1:], caller), caller, name)
        )
        for name, value in (("scale", scale), ("bias", bias))
    )
    if row_scale is not None:
        row_scale = _checks.check_real(
            _broadcast("row_scale", row_scale, x.shape[:-1], caller), caller, "row_scale"
        )
    part = masks.check_part(part, x, spec)
    distribution = _distribution(rate, x, deterministic, part)
    key = None if distribution is None else _checks.consume_key(key, caller)
    y, z = _dropout_add_layer_norm(
        key, x, residual, scale, bias, row_scale, distribution, part, epsilon=eps, spec=spec
    )
    return (y, z) if prenorm else y


@kernel("dropout_add_layer_norm")
def _dropout_add_layer_norm(
    key: jax.Array | None,
    x: jax.Array,
    residual: jax.Array | None,
    scale: jax.Array | None,
    bias: jax.Array | None,
    row_scale: jax.Array | None,
    distribution: masks.Distribution | None,
    part: masks.Part | None,
    *,
    epsilon: float,
    spec: PartitionSpec | None,
) -> tuple[jax.Array, jax.Array]:
    kind = np.promote_types(
        _numerics.compute_dtype(x.dtype),
        _numerics.compute_dtype(x.dtype if residual is None else residual.dtype),
    )
    branch = (
        x.astype(kind)
        if row_scale is None
        else x.astype(kind)
        * jnp.expand_dims(_numerics.expand(row_scale, x.ndim - 1), -1).astype(kind)
    )
    z = _dropped(key, branch, x.dtype, distribution, spec, part)
    if residual is not None:
        z = residual.astype(kind) + z
    centered = z - z.mean(-1, keepdims=True)
    y = centered * lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    y = y if scale is None else y * _numerics.expand(scale, x.ndim).astype(kind)
    y = y if bias is None else y + _numerics.expand(bias, x.ndim).astype(kind)
    return y.astype(x.dtype), z.astype(x.dtype if residual is None else residual.dtype)


def _distribution(
    rate: float | jax.Array, x: jax.Array, deterministic: bool, part: masks.Part | None
) -> masks.Distribution | None:
    """The distribution of the mask, or None if no entry is dropped."""
    off = _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0)
    if off:
        return None
    threshold, scale = masks.distribution(rate, x.dtype)
    return masks.Distribution(threshold, masks.nan_outside(scale, part))


def _dropped(
    key: jax.Array | None,
    x: jax.Array,
    dtype: np.dtype[Any],
    distribution: masks.Distribution | None,
    spec: PartitionSpec | None,
    part: masks.Part | None,
) -> jax.Array:
    """Dropout of `x`, which was widened from `dtype`."""
    if key is None or distribution is None:
        return x
    threshold, scale = map(jnp.asarray, distribution)
    mask = masks.keep_mask(key, x, threshold, spec=spec, part=part)
    return _kept(dtype, mask, x * _numerics.expand(scale, x.ndim).astype(x.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _kept(dtype: np.dtype[Any], mask: jax.Array, x: jax.Array) -> jax.Array:
    """`x` where the mask is true, and 0 elsewhere. A cotangent is rounded to `dtype` before it is
    masked, for the reason that `masks.scaled` tells.
    """
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


@_kept.defjvp
def _(
    dtype: np.dtype[Any], primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    mask, x = primals
    moved = jnp.where(mask, tangents[1].astype(dtype), jnp.zeros((), dtype))
    return _kept(dtype, mask, x), moved.astype(x.dtype)


def _like(name: str, value: jax.Array, x: jax.Array, caller: str) -> jax.Array:
    value = _checks.check_inexact(value, caller, name)
    return _checks.check_shape(value, name, x.shape, f"the shape of {_checks.shown('x')},")


def _broadcast(name: str, value: jax.Array, shape: tuple[int, ...], caller: str) -> jax.Array:
    value = _checks.check_inexact(value, caller, name)
    if not _checks.broadcasts(value.shape, shape):
        raise ValueError(
            f"{_checks.shown(name)} of shape {value.shape} does not broadcast to {shape}"
        )
    return value
