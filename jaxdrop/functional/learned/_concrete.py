"""Concrete dropout: the rate is learned, by a relaxed mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, _variates, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._amounts import times
from jaxdrop.functional.learned._parameters import Learned, exp, site


def _temperature(temperature: Any, name: str) -> float | jax.Array:
    meaning = " At 0 the noise is that of jaxdrop.dropout, whose rate is not learned."
    checked = _checks.check_number(temperature, name, meaning=meaning, above=True)
    if np.ndim(checked):
        raise ValueError(f"{name} must be one number, got {_checks.quoted(temperature)}")
    return checked


@cites("gal2017concrete")
@_checks.hinted
@_checks.facts(temperature=_temperature)
def concrete_dropout(
    key: jax.Array | None,
    x: jax.Array,
    logit: Learned,
    *,
    temperature: float | jax.Array = 0.1,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Concrete dropout: `y = x (1 - z) / (1 - p)` with `z = sigmoid((logit + log u - log(1 - u)) /
    temperature)`.

    Here `p = sigmoid(logit)` is the learned rate and `u ~ U(0, 1)` for each entry. `z` is a relaxed
    Bernoulli(p) value: no entry becomes exactly 0. The relaxation lowers the mean a little: `E[1 -
    z] / (1 - p)` is 0.9986 for p = 0.1 at temperature 0.1, and 0.9496 at temperature 2/3, that of
    the spatial form. For the loss see `concrete_kl` and the docstring of
    `jaxdrop.functional.learned`.

    The spatial form, for convolutions, drops whole channels: `broadcast_dims=(1, 2),
    temperature=2/3` for (batch, height, width, channels).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      logit: the logit of the rate, `log p - log(1 - p)`: a number, a scalar array, or an array that
        broadcasts to the noise's shape, such as one for each feature. It gets its gradient.
      temperature: above 0.
      broadcast_dims: axes along which all entries share one `z`.
      deterministic: if True, `x` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `x`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `logit` for `rate`.

    References:
      Gal, Hron & Kendall, "Concrete dropout", 2017, arXiv:1705.07832.
    """
    x, logit, shared, spec = site("concrete_dropout", x, logit, "logit", broadcast_dims, spec)
    temperature = _temperature(temperature, "temperature")
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic"):
        return x
    key = _checks.consume_key(key, "concrete_dropout")
    return _concrete_dropout(
        key,
        masks.nan_outside(x, part),
        logit,
        1 + exp(logit),
        1 / temperature,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("concrete_dropout")
def _concrete_dropout(
    key: jax.Array,
    x: jax.Array,
    logit: jax.Array,
    scale: jax.Array,
    sharpness: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec, part=part)
    # In the middles of 2**23 intervals, so that neither 0 nor 1 meets a logarithm.
    u = _variates.uniform(bits) + np.float32(2**-24)
    logit = _numerics.expand(logit, x.ndim).astype(jnp.float32)
    kept = jax.nn.sigmoid(-(logit + jnp.log(u) - jnp.log1p(-u)) * sharpness.astype(jnp.float32))
    kind = _numerics.compute_dtype(x.dtype)
    return (x.astype(kind) * times(scale, kept).astype(kind)).astype(x.dtype)


@cites("gal2017concrete")
@_checks.hinted
def concrete_kl(
    logit: Learned, w: jax.Array, *, lengthscale: float | jax.Array = 1e-2
) -> jax.Array:
    """The divergence of a layer that follows `concrete_dropout`: `l^2 sum(w^2) / (2 (1 - p)) - K
    H(p)`, a scalar in nats.

    `p = sigmoid(logit)`, `H(p) = -p log p - (1 - p) log(1 - p)`, and `K` is the number of input
    features of `w`, or of input channels of a convolution. It is finite for every finite logit.
    Gal's regularizers are `2 / (tau N)` times this.

    Args:
      logit: the logit of the rate, a scalar, or one for each input feature, shape (K,).
      w: a kernel as Flax has it: shape (..., K, out). Biases have no dropout before them and do not
        belong here (Gal's Keras code leaves them out, his PyTorch code does not).
      lengthscale: the l of the prior `N(0, 1 / l^2)` of the weights.

    Raises:
      TypeError: `logit` or `lengthscale` is not a real number, or `w` is not floating or complex.
      ValueError: `w` has less than two axes, `logit` does not fit it, or `lengthscale` is negative.

    References:
      Gal, Hron & Kendall, "Concrete dropout", 2017, arXiv:1705.07832.
    """
    w, lengthscale = (
        _checks.check_inexact(w, "concrete_kl", "w"),
        _checks.check_number(lengthscale, "lengthscale"),
    )
    if w.ndim < 2:
        raise ValueError(
            f"{_checks.shown('w')} must be a kernel of shape (..., in, out), got shape {w.shape}"
        )
    if np.ndim(lengthscale):
        raise ValueError(f"lengthscale must be one number, got {_checks.quoted(lengthscale)}")
    w = w.astype(_numerics.compute_dtype(w.dtype))
    squares = (w * w.conj()).real.sum([axis for axis in range(w.ndim) if axis != w.ndim - 2])
    logits = jnp.broadcast_to(
        jnp.asarray(_checks.check_parameter(logit, "logit", squares.shape), squares.dtype),
        squares.shape,
    )
    p = jax.nn.sigmoid(logits)
    entropy = p * jax.nn.softplus(-logits) + (1 - p) * jax.nn.softplus(logits)
    return (lengthscale**2 / 2 * squares * (1 + jnp.exp(logits)) - entropy).sum()
