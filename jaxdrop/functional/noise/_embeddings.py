"""Noise for the embeddings of sequences."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _lengths, _mapped_axes, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._amounts import added, check_real_input, site, symmetric


@cites("jain2024neftune")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,))
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

    Without `mask`, padding counts in `L` and gets noise too, as in the published code. With `mask`,
    `L` is the number of tokens of each sequence, and padding stays as it is: the scale of the noise
    does not depend on the other sequences of the batch.

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
    x, alpha, _, spec = site("neftune", check_real_input(x, "neftune"), alpha, "alpha", (), spec)
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
    noise = symmetric(masks.draw(key, x, spec=spec))
    if mask is None:
        size = parts * x.shape[-2] * width
        unit = (
            np.float32(1 / math.sqrt(size))
            if _lengths.is_known(size)
            else lax.rsqrt(jnp.asarray(size).astype(jnp.float32))
        )
        return added(x, alpha, noise * unit)
    tokens = mask.astype(bool)[..., None]
    length = tokens.sum(-2, keepdims=True)
    length = lax.psum(length, names) if names else length
    noise = noise * lax.rsqrt((jnp.maximum(length, 1) * width).astype(jnp.float32))
    return added(x, alpha, jnp.where(tokens, noise, jnp.zeros_like(noise)))


def _tokens(mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """The argument `mask`: which positions hold a token."""
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
