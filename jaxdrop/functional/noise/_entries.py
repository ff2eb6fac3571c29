"""Noise for each entry, multiplied or added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _variates, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._amounts import added, check_real_input, multiplied, site, symmetric

# The noise of a rate of 1 has infinite variance. A traced rate of 1 counts as the last rate below 1
# on the grid of masks.
_LEAST_KEEP = 2.0**-23


def _below_one(rate: Any, name: str) -> float | jax.Array:
    checked = _checks.check_rate(rate, name)
    if masks.is_number(checked, 1):
        raise ValueError(
            f"{name} must be below 1 in gaussian_dropout, got 1: the variance of its noise is rate"
            " / (1 - rate)."
        )
    return checked


@cites("srivastava2014dropout")
@_checks.hinted
@_checks.facts(rate=_below_one)
def gaussian_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Gaussian dropout: `y = x n` with `n ~ N(1, rate / (1 - rate))` for each entry.

    The mean and variance of `n` are those of dropout's `m / (1 - rate)`; it may be negative. With a
    threefry key, `n` comes from `jax.random.normal(key, x.shape)`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      rate: the rate of the dropout that has the same variance, in [0, 1): a number, a traced
        scalar, or an array that broadcasts to the shape of the noise. It gets no gradient. Traced,
        or in an array, it counts as at most `1 - 2**-23`, where the standard deviation is 2896.
      broadcast_dims: axes along which all entries share one `n`.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `rate` is the number 1, for which the variance would be infinite.

    References:
      Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, "Dropout: a simple way to prevent
      neural networks from overfitting", JMLR 15, 2014, section 10.
    """
    x, rate, shared, spec = _checks.check_site("gaussian_dropout", x, rate, broadcast_dims, spec)
    part = masks.check_part(part, x, spec)
    rate = _below_one(rate, "rate")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    return _gaussian_dropout(
        _checks.consume_key(key, "gaussian_dropout"),
        masks.nan_outside(x, part),
        rate,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("gaussian_dropout")
def _gaussian_dropout(
    key: jax.Array,
    x: jax.Array,
    rate: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    rate = rate.astype(jnp.float32)
    stddev = jnp.sqrt(rate / jnp.maximum(1 - rate, np.float32(_LEAST_KEEP)))
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec, part=part)
    return multiplied(x, stddev, _variates.normal(bits))


@cites("bishop1995training")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,))
def gaussian_noise(
    key: jax.Array | None,
    x: jax.Array,
    stddev: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Gaussian noise: `y = x + stddev n` with `n ~ N(0, 1)` for each entry.

    With a threefry key, `n` is `jax.random.normal(key, x.shape)`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating dtype. The sum is formed in float32 at least.
      stddev: any finite number from 0 on (Keras stops at 1), a traced scalar, or an array that
        broadcasts to the shape of the noise. Traced, it gets its gradient.
      broadcast_dims: axes along which all entries share one `n`.
      deterministic: if True, or if `stddev` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `stddev` for `rate`.
      TypeError: `x` is complex.

    References:
      Bishop, "Training with noise is equivalent to Tikhonov regularization",
      Neural Computation 7, 1995.
    """
    x, stddev, shared, spec = site(
        "gaussian_noise",
        check_real_input(x, "gaussian_noise"),
        stddev,
        "stddev",
        broadcast_dims,
        spec,
    )
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(stddev, 0):
        return x
    return _gaussian_noise(
        _checks.consume_key(key, "gaussian_noise"),
        masks.nan_outside(x, part),
        stddev,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("gaussian_noise")
def _gaussian_noise(
    key: jax.Array,
    x: jax.Array,
    stddev: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec, part=part)
    return added(x, stddev, _variates.normal(bits))


@cites("li2019understanding")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,))
def uniform_dropout(
    key: jax.Array | None,
    x: jax.Array,
    beta: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Uniform dropout ("Uout"): `y = x (1 + r)` with `r ~ U(-beta, beta)` for each entry.

    A batch normalization after it sees nearly the same variance in evaluation as in training: their
    ratio is `v / ((1 + beta**2 / 3) (c**2 + v) - c**2)` for `x` of mean `c` and variance `v`. For
    dropout the ratio is `1 - rate` at most.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      beta: half the width of the noise, any finite number from 0 on (the paper stays below 1), a
        traced scalar, or an array that broadcasts to the shape of the noise. Traced, it gets its
        gradient.
      broadcast_dims: axes along which all entries share one `r`.
      deterministic: if True, or if `beta` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `beta` for `rate`.

    References:
      Li, Chen, Hu & Yang, "Understanding the disharmony between dropout and batch normalization by
      variance shift", 2018, arXiv:1801.05134.
    """
    x, beta, shared, spec = site("uniform_dropout", x, beta, "beta", broadcast_dims, spec)
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(beta, 0):
        return x
    return _uniform_dropout(
        _checks.consume_key(key, "uniform_dropout"),
        masks.nan_outside(x, part),
        beta,
        part,
        shared=shared,
        spec=spec,
    )


@kernel("uniform_dropout")
def _uniform_dropout(
    key: jax.Array,
    x: jax.Array,
    beta: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec, part=part)
    return multiplied(x, beta, symmetric(bits))
