"""Dropping the weights of a dense layer."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._dense import gaussian, operands

Per = Literal["example", "batch"]


@cites("wan2013regularization")
@_checks.hinted
def drop_connect(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    rate: masks.Rate,
    *,
    per: Per = "batch",
    scale_by_keep: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropConnect: `y = x (m * w) / (1 - rate)` with `m ~ Bernoulli(1 - rate)` for each weight, so
    that `E[y] = x w`.

    Not the "drop connect" of EfficientNet, which drops whole paths: that is `drop_path`. The paper
    draws a mask for each example and does not divide: `per="example", scale_by_keep=False`. Its
    evaluation is `drop_connect_gaussian`; usual is evaluation with the mean weights,
    `deterministic=True`. To drop the weights of other layers, see `weight_drop`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating or complex.
      w: shape (in, out). A dropped weight counts as 0 whatever it holds, NaN included.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask. It gets no gradient.
      per: `'batch'`: all rows of `x` share one mask, of shape (in, out). `'example'`: each row has
        a mask of its own, and the masks of all rows have shape (..., in, out). The products are
        then formed and summed one by one, not as matrices: slow for large layers. XLA for TPU does
        not store the masked copies of `w`, XLA for CPU writes them to memory.
      scale_by_keep: if False, training does not divide by `1 - rate`, and evaluation multiplies by
        it: `y = x (1 - rate) w`.
      deterministic: if True, or if `rate` is the number 0, `x w` is returned (times `1 - rate`
        without `scale_by_keep`).
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        mask, of shape (in, out) or (..., in, out). The result is the product of this device's
        parts: if the input features are divided, sum it over the devices, with `jax.lax.psum`.

    Returns:
      Shape (..., out), of the dtype of `x @ w`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; ValueError also if the
        shapes do not fit.

    References:
      Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using DropConnect",
      ICML 2013.
    """
    x, w = operands("drop_connect", x, w, real=False)
    _checks.check_one_of(per, "per", Per)
    scale_by_keep = _checks.check_flag(scale_by_keep, "scale_by_keep")
    shape = (*x.shape[:-1], *w.shape) if per == "example" else w.shape
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, shape, ())
    spec = _checks.check_spec(spec, len(shape), "the mask")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x @ (w if scale_by_keep else _expected(w, rate))
    if masks.is_number(rate, 1):
        return x @ jnp.zeros_like(w)
    threshold, scale = masks.distribution(rate, w.dtype)
    scale = scale if scale_by_keep else masks.unit_scale(rate, w.dtype)
    return _drop_connect(
        _checks.consume_key(key, "drop_connect"),
        x,
        w,
        threshold,
        scale,
        per=per,
        spec=spec,
    )


@kernel("drop_connect")
def _drop_connect(
    key: jax.Array,
    x: jax.Array,
    w: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    per: Per,
    spec: PartitionSpec | None,
) -> jax.Array:
    if per == "batch":
        return x @ masks.scaled(masks.keep_mask(key, w, threshold, spec=spec), w, scale)
    rows, weights = lax.expand_dims(x, [x.ndim]), _numerics.expand(w, x.ndim + 1)
    kept = masks.scaled(masks.keep_mask(key, rows * weights, threshold, spec=spec), weights, scale)
    dtype = jnp.result_type(x, w)
    wide = _numerics.compute_dtype(dtype)
    return (rows.astype(wide) * kept.astype(wide)).sum(-2).astype(dtype)


@cites("wan2013regularization", "wang2013fast")
@_checks.hinted
def drop_connect_gaussian(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    rate: masks.Rate,
    *,
    scale_by_keep: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Moment-matched DropConnect: one draw of `u ~ N(x w, rate / (1 - rate) (x * x) (w * w))`, a
    normal value for each output.

    Mean and variance are those of `drop_connect` with one mask for each example. With
    `scale_by_keep=False` they are Wan's, `N((1 - rate) x w, rate (1 - rate) (x * x) (w * w))`. The
    inference of that paper averages the activation over draws:

        keys = jaxdrop.mc.keys(key, 100)
        y = jax.vmap(lambda key: jax.nn.relu(drop_connect_gaussian(key, x, w, 0.5) +
        b))(keys).mean(0)

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating.
      w: shape (in, out).
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to `w`. It gets no gradient. At 1 the output is 0.
      scale_by_keep: whether weights are divided by `1 - rate`: True for the first of the two
        normal distributions above, False for Wan's.
      deterministic: if True, or if `rate` is the number 0, the mean is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        output.

    Returns:
      Shape (..., out), of the dtype of `x @ w`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `drop_connect`.

    References:
      Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using DropConnect",
      ICML 2013. For training: Wang & Manning, "Fast dropout training", ICML 2013.
    """
    x, w = operands("drop_connect_gaussian", x, w, real=True)
    scale_by_keep = _checks.check_flag(scale_by_keep, "scale_by_keep")
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, w.shape, ())
    spec = _checks.check_spec(spec, x.ndim)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x @ (w if scale_by_keep else _expected(w, rate))
    if masks.is_number(rate, 1):
        return x @ jnp.zeros_like(w)
    real = _numerics.compute_dtype(w.dtype)
    scale = masks.distribution(rate, w.dtype).scale if scale_by_keep else jnp.ones((), real)
    drop = jnp.asarray(rate, real)
    return _drop_connect_gaussian(
        _checks.consume_key(key, "drop_connect_gaussian"), x, w, drop, scale, spec=spec
    )


@kernel("drop_connect_gaussian")
def _drop_connect_gaussian(
    key: jax.Array,
    x: jax.Array,
    w: jax.Array,
    rate: jax.Array,
    scale: jax.Array,
    *,
    spec: PartitionSpec | None,
) -> jax.Array:
    weights = w.astype(_numerics.compute_dtype(w.dtype))
    mean = (1 - rate) * scale
    variance = rate * mean * scale
    mean, variance = _numerics.expand(mean, w.ndim), _numerics.expand(variance, w.ndim)
    return gaussian(key, x, (mean * weights).astype(w.dtype), variance * weights * weights, spec)


def _expected(w: jax.Array, rate: float | jax.Array) -> jax.Array:
    """The weights times the probability of keeping them."""
    if masks.is_number(rate, 0):
        return w
    wide = _numerics.compute_dtype(w.dtype)
    return (w.astype(wide) * (1 - _numerics.expand(jnp.asarray(rate, wide), w.ndim))).astype(
        w.dtype
    )
