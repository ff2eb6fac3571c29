"""Putting tokens back into the sequence that they were taken from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks, subsets
from jaxdrop._kernel import kernel
from jaxdrop._references import cites


@cites("yao2022random")
@_checks.hinted
def reinsert_tokens(x: jax.Array, tokens: jax.Array, indices: jax.Array) -> jax.Array:
    """The inverse of `jaxdrop.token_dropout`: `x` with `tokens` at the places `indices`.

        kept, indices = jaxdrop.token_dropout(key, x, 0.5, num_prefix_tokens=1)
        y = jaxdrop.reinsert_tokens(x, layer(kept), indices)

    `x` may also be what stands for dropped tokens, such as a mask token that is broadcast to the
    shape of the sequence (as in masked autoencoders). `jaxdrop.random_ltd` does all of this for
    layers inside a model.

    Args:
      x: shape (..., n, features): what is there in the places of dropped tokens.
      tokens: shape (..., k, features), of the dtype of `x`, in any order.
      indices: int32, shape (..., k): the place of each token, from 0 to n - 1, each at most once in
        an example. They are not checked.

    Returns:
      An array like `x`.

    Raises:
      TypeError, ValueError: shapes and dtypes do not fit.

    References:
      Yao et al., "Random-LTD: random and layerwise token dropping brings efficient training for
      large-scale transformers", 2022, arXiv:2211.11586.
    """
    x, tokens = _checks.check_array(x, "x"), _checks.check_array(tokens, "tokens")
    indices = _checks.check_ids(indices, "reinsert_tokens", "indices")
    shapes: list[Any] = [tuple(array.shape) for array in (x, tokens, indices)]
    if (
        x.ndim < 2
        or tokens.ndim != x.ndim
        or tokens.shape[:-2] != x.shape[:-2]
        or tokens.shape[-1] != x.shape[-1]
        or indices.shape != tokens.shape[:-1]
        or tokens.shape[-2] > x.shape[-2]
    ):
        raise ValueError(
            "reinsert_tokens takes x of shape (..., n, features), tokens of shape (..., k,"
            f" features), k at most n, and indices of shape (..., k), got {shapes}"
        )
    if tokens.dtype != x.dtype:
        raise TypeError(f"tokens must be of the dtype of x, {x.dtype}, got {tokens.dtype}")
    return _reinsert_tokens(x, tokens, indices)


@kernel("reinsert_tokens", checkpoint=False)
def _reinsert_tokens(x: jax.Array, tokens: jax.Array, indices: jax.Array) -> jax.Array:
    return of_indices(indices, x.shape[-2]).replace(x, tokens, -2)


def of_indices(indices: jax.Array, members: int) -> subsets.Subset:
    """The subset of the members that `indices` (..., k) name, in any order."""
    kept = indices.shape[-1]
    places = lax.broadcasted_iota(jnp.int32, indices.shape, indices.ndim - 1)

    def ranks(indices: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.full(members, kept).at[indices].set(places)

    for _ in indices.shape[:-1]:
        ranks = jax.vmap(ranks)
    found = ranks(indices, places)
    return subsets.Subset(*(lax.expand_dims(each, (each.ndim - 1,)) for each in (indices, found)))
