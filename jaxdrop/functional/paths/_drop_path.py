"""Dropping residual branches."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._axes import all_but

Mode = Literal["row", "batch"]


@cites("huang2016deep", "larsson2017fractalnet")
@_checks.hinted
def drop_path(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    mode: Mode = "row",
    batch_axis: int = 0,
    scale_by_keep: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Stochastic depth: `y = m x / (1 - rate)` with one `m ~ Bernoulli(1 - rate)` for each example
    of a batch, or for the whole batch.

    `x` is the output of a residual branch: `h + drop_path(key, f(h), rate)`. The branch is computed
    even if it is dropped; `layer_drop` saves this work. A dropped example is 0 whatever `x` holds
    there, and so are its gradients.

    timm calls this `drop_path`, torchvision `stochastic_depth`, and TensorFlow's EfficientNet
    `drop_connect`. The paper does not divide, and multiplies by the probability of keeping at
    evaluation instead: the same expectation.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, which has length 1 along all axes but the batch. At 1 the
        output is 0. For a rate that depends on the layer, see `depth_rates`.
      mode: `'row'`: each example has a draw of its own. `'batch'`: all examples share one.
      batch_axis: where the examples are; a negative axis counts from the end.
      scale_by_keep: if False, kept examples are not divided by `1 - rate`: `E[y] = (1 - rate) x`,
        but evaluation still returns `x`.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `mode` is unknown, or `x` has no such `batch_axis`.

    References:
      Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016,
      arXiv:1603.09382. Larsson, Maire & Shakhnarovich, "FractalNet: ultra-deep neural networks
      without residuals", 2016, arXiv:1605.07648, for the name.
    """
    _checks.check_one_of(mode, "mode", Mode)
    scale_by_keep = _checks.check_flag(scale_by_keep, "scale_by_keep")
    x = _checks.check_inexact(x, "drop_path")
    _checks.axis(batch_axis, "batch_axis")
    shared = all_but(x, batch_axis=batch_axis) if mode == "row" else all_but(x)
    x, rate, shared, spec = _checks.check_site("drop_path", x, rate, shared, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    threshold, scale = masks.distribution(rate, x.dtype)
    if not scale_by_keep:
        scale = masks.unit_scale(rate, x.dtype)
    return _drop_path(
        _checks.consume_key(key, "drop_path"), x, threshold, scale, shared=shared, spec=spec
    )


@kernel("drop_path")
def _drop_path(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return masks.scaled(
        masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec), x, scale
    )
