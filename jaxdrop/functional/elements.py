"""Dropping single entries."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import masks, random
from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel


def dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Inverted dropout: `y = m x / (1 - rate)` with `m ~ Bernoulli(1 - rate)` for each entry, so that `E[y] = x`.

    Dropped entries are 0 whatever `x` holds there, NaN and infinities included, and so are their gradients. Nothing is stored for
    the backward pass but the key: the mask is computed again. With a threefry key the mask is that of `flax.linen.Dropout` and
    `flax.nnx.Dropout`.

    Args:
      key: a single PRNG key: `jaxdrop.key(seed)` is fastest, `jax.random.key(seed)` draws the masks of Flax. May be None if
        nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that broadcasts to the mask's shape,
        such as one rate for each feature. It gets no gradient. At 1 the output is 0.
      broadcast_dims: axes along which all entries share one mask value; negative axes count from the end.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned, and no operation is traced.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole array, of which `x` is this
        device's part. The mask is then the one that the whole array would get, bit for bit. Without it, devices that hold the
        same key draw the same mask.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError: `x` holds integers or booleans; `rate`, `key`, `broadcast_dims`, `spec` or `deterministic` is of a wrong type.
      ValueError: `rate` is outside [0, 1] or does not fit the mask, `key` is missing or an array of keys, `broadcast_dims` or
        `spec` does not fit `x`.
      NotImplementedError: `spec` divides an axis, and the key's generator can only draw whole arrays (rbg, philox).

    References:
      Hinton, Srivastava, Krizhevsky, Sutskever & Salakhutdinov, "Improving neural networks by preventing co-adaptation of feature
      detectors", 2012, arXiv:1207.0580. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
      JMLR 15, 2014 (whose p is the probability of keeping).
    """
    x, rate, shared, spec = _arguments.site("dropout", x, rate, broadcast_dims, spec)
    if _arguments.is_true(deterministic) or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    return _dropout(random.single(key, "dropout"), x, *masks.law(rate, x.dtype), shared=shared, spec=spec)


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
    keep = masks.keep(key, x, threshold, broadcast_dims=shared, spec=spec)
    wide = masks.wide(x.dtype)
    scaled = x.astype(wide) * masks.expand(scale, x.ndim).astype(wide)
    return jnp.where(keep, scaled, jnp.zeros((), wide)).astype(x.dtype)
