"""Noise in place of a mask: nothing is dropped, and what is NaN stays NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _compiler, _lengths, _mapped_axes, _numerics, _variates, masks
from jaxdrop.functional._kernel import kernel

# A traced rate of 1 asks for infinite noise; it gets that of the last rate on the grid of masks.
_LEAST_KEEP = 2.0**-23


@_checks.hinted
def gaussian_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
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
    if masks.is_number(rate, 1):
        raise ValueError(
            "rate must be below 1 in gaussian_dropout, got 1: the variance of its noise is rate /"
            " (1 - rate)."
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    return _gaussian_dropout(
        _checks.consume_key(key, "gaussian_dropout"), x, rate, shared=shared, spec=spec
    )


@kernel("gaussian_dropout")
def _gaussian_dropout(
    key: jax.Array,
    x: jax.Array,
    rate: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    rate = rate.astype(jnp.float32)
    stddev = jnp.sqrt(rate / jnp.maximum(1 - rate, np.float32(_LEAST_KEEP)))
    return multiplied(
        x, stddev, _variates.normal(masks.draw(key, x, broadcast_dims=shared, spec=spec))
    )


@_checks.hinted
def gaussian_noise(
    key: jax.Array | None,
    x: jax.Array,
    stddev: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
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

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `stddev` for `rate`.
      TypeError: `x` is complex.

    References:
      Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7,
      1995.
    """
    x, stddev, shared, spec = _site(
        "gaussian_noise", _real(x, "gaussian_noise"), stddev, "stddev", broadcast_dims, spec
    )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(stddev, 0):
        return x
    return _gaussian_noise(
        _checks.consume_key(key, "gaussian_noise"), x, stddev, shared=shared, spec=spec
    )


@kernel("gaussian_noise")
def _gaussian_noise(
    key: jax.Array,
    x: jax.Array,
    stddev: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return _added(x, stddev, _variates.normal(masks.draw(key, x, broadcast_dims=shared, spec=spec)))


@_checks.hinted
def uniform_dropout(
    key: jax.Array | None,
    x: jax.Array,
    beta: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Uniform dropout ("Uout"): `y = x (1 + r)` with `r ~ U(-beta, beta)` for each entry.

    A batch norm behind it sees nearly the same variance in training as in evaluation, which is off
    by the factor `v / ((1 + beta**2 / 3) (c**2 + v) - c**2)` for `x` of mean `c` and variance `v`;
    dropout's is up to `1 - rate`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      beta: half the width of the noise, any finite number from 0 on (the paper stays below 1), a
        traced scalar, or an array that broadcasts to the shape of the noise. Traced, it gets its
        gradient.
      broadcast_dims: axes along which all entries share one `r`.
      deterministic: if True, or if `beta` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `beta` for `rate`.

    References:
      Li, Chen, Hu & Yang, "Understanding the disharmony between dropout and batch normalization by
      variance shift", 2018, arXiv:1801.05134.
    """
    x, beta, shared, spec = _site("uniform_dropout", x, beta, "beta", broadcast_dims, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(beta, 0):
        return x
    return _uniform_dropout(
        _checks.consume_key(key, "uniform_dropout"), x, beta, shared=shared, spec=spec
    )


@kernel("uniform_dropout")
def _uniform_dropout(
    key: jax.Array,
    x: jax.Array,
    beta: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return multiplied(x, beta, _symmetric(masks.draw(key, x, broadcast_dims=shared, spec=spec)))


@_checks.hinted
def neftune(
    key: jax.Array | None,
    x: jax.Array,
    alpha: masks.Rate,
    *,
    mask: jax.Array | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """NEFTune: `y = x + alpha / sqrt(L d) n` with `n ~ U(-1, 1)` for each entry of embeddings of
    length `L` and width `d`.

    The published code counts padding into `L`, and adds noise to padding too; without a mask so
    does this. With one, `L` is the number of tokens of each sequence, and padding stays as it is:
    the noise of a sequence does not depend on how it is batched.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: embeddings of shape `(..., L, d)`, any floating dtype. The sum is formed in float32 at
        least.
      alpha: any finite number from 0 on (the paper uses 5, 10 and 15), a traced scalar, or an array
        that broadcasts to `x`. Traced, it gets its gradient.
      mask: booleans, or integers 0 and 1, of shape `(..., L)`: which positions hold a token.
      deterministic: if True, or if `alpha` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`; `L` and `d` are those of the whole array.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `alpha` for `rate`.
      TypeError: `x` is complex, or `mask` is of another dtype.
      ValueError: `x` has less than two axes, or `mask` is of another shape.

    References:
      Jain et al., "NEFTune: noisy embeddings improve instruction finetuning", 2023,
      arXiv:2310.05914.
    """
    x, alpha, _, spec = _site("neftune", _real(x, "neftune"), alpha, "alpha", (), spec)
    if x.ndim < 2:
        raise ValueError(
            f"{_checks.shown('x')} must be embeddings of shape (..., length, width), got shape"
            f" {x.shape}"
        )
    mask = _tokens(mask, x.shape[:-1])
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(alpha, 0):
        return x
    return _neftune(_checks.consume_key(key, "neftune"), x, alpha, mask, spec=spec)


@kernel("neftune")
def _neftune(
    key: jax.Array,
    x: jax.Array,
    alpha: jax.Array,
    mask: jax.Array | None,
    *,
    spec: PartitionSpec | None,
) -> jax.Array:
    names, parts = _mapped_axes.names_and_size(spec, (x.ndim - 2,))
    width = x.shape[-1] * _mapped_axes.names_and_size(spec, (x.ndim - 1,))[1]
    noise = _symmetric(masks.draw(key, x, spec=spec))
    if mask is None:
        size = parts * x.shape[-2] * width
        unit = (
            np.float32(1 / math.sqrt(size))
            if _lengths.is_known(size)
            else lax.rsqrt(jnp.asarray(size).astype(jnp.float32))
        )
        return _added(x, alpha, noise * unit)
    tokens = mask.astype(bool)[..., None]
    length = tokens.sum(-2, keepdims=True, dtype=jnp.int32)
    length = lax.psum(length, names) if names else length
    noise = noise * lax.rsqrt((jnp.maximum(length, 1) * width).astype(jnp.float32))
    return _added(x, alpha, jnp.where(tokens, noise, jnp.zeros_like(noise)))


def _symmetric(bits: jax.Array) -> jax.Array:
    """Uniform values in [-1, 1), in float32."""
    return 2 * _variates.uniform(bits) - 1


def multiplied(x: jax.Array, amount: jax.Array, noise: jax.Array) -> jax.Array:
    """`x (1 + amount noise)`, formed in float32 at least; of the dtype of `x`."""
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) * (1 + times(amount, noise)).astype(wide)).astype(x.dtype)


def _added(x: jax.Array, amount: jax.Array, noise: jax.Array) -> jax.Array:
    """`x + amount noise`, likewise."""
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) + times(amount, noise).astype(wide)).astype(x.dtype)


def times(amount: jax.Array, noise: jax.Array) -> jax.Array:
    """The product in float32, rounded as such."""
    return _compiler.rounding_barrier(
        _numerics.expand(amount, noise.ndim).astype(jnp.float32) * _compiler.rounding_barrier(noise)
    )


def _site(
    caller: str,
    x: jax.Array,
    amount: masks.Rate,
    name: str,
    broadcast_dims: Sequence[int],
    spec: PartitionSpec | None,
) -> _checks.Site:
    """`_checks.check_site`, of an amount that is no rate."""
    x, _, shared, spec = _checks.check_site(caller, x, 0.0, broadcast_dims, spec)
    known = _checks.check_number(amount, name)
    _checks.check_rate_shape(known, x.shape, shared, name)
    return _checks.Site(x, known, shared, spec)


def _real(x: jax.Array, caller: str) -> jax.Array:
    return _checks.check_real(
        x,
        caller,
        why=(
            ", for it adds real noise. Add noise to its real and imaginary parts, with a key for"
            " each."
        ),
    )


def _tokens(mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Which positions hold a token."""
    if mask is None:
        return None
    mask = _checks.check_array(mask, "mask", "booleans, or integers 0 and 1")
    if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.integer)):
        raise TypeError(f"mask must hold booleans, or integers 0 and 1, got dtype {mask.dtype}")
    if mask.dtype != bool and _checks.known(mask) and not np.isin(mask, (0, 1)).all():
        raise ValueError("mask must hold booleans, or integers 0 and 1, but it holds others")
    return _checks.check_shape(
        mask, "mask", shape, f"the shape of {_checks.shown('x')} without its last axis,"
    )
