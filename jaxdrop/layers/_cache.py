"""The cache of keys and values with which an attention layer decodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks

__all__ = ["Cache", "knows_places"]


def knows_places(attention_fn: Callable[..., Any]) -> bool:
    """Whether an `attention_fn` can be told where the queries stand among the keys."""
    return {"query_offset", "is_causal"} <= inspect.signature(attention_fn).parameters.keys()


class Cache(NamedTuple):
    """Keys and values of the tokens so far, in arrays with room for more."""

    key: jax.Array
    """`(batch..., length, groups, depth)`."""
    value: jax.Array
    """As `key`."""
    used: jax.Array
    """The number of tokens so far."""

    def extended(
        self, layer: str, query: jax.Array, key: jax.Array, value: jax.Array
    ) -> tuple[Cache, jax.Array]:
        """The cache with one more token, or several; and their queries, which are NaN if traced
        tokens have no room: XLA would write them over the last ones.

        Args:
          layer: the layer's name, for messages.
          query: `(batch..., tokens, heads, depth)`.
          key: `(batch..., tokens, groups, depth)`.
          value: as `key`.

        Raises:
          ValueError: the cache has another shape, or no room.
        """
        length, tokens = self.key.shape[-3], key.shape[-3]
        fitting = (*self.key.shape[:-3], tokens, *self.key.shape[-2:])
        if key.shape != fitting or query.shape[:-2] != fitting[:-2]:
            raise ValueError(
                f"the cache of {layer} has keys of shape {self.key.shape}, (batch..., length,"
                f" heads, depth), which queries of shape {query.shape} and keys {key.shape} do"
                " not continue. Make one for this batch: its shape may differ in the length only."
            )
        here = int(self.used) if _checks.known(self.used) else 0
        if here + tokens > length:
            raise ValueError(
                f"the cache of {layer} has room for {length} tokens: {here} are in it, and"
                f" {tokens} more do not fit. Make a longer one."
            )
        start: list[Any] = [*[0] * (key.ndim - 3), self.used, 0, 0]
        key, value = (
            lax.dynamic_update_slice(old, new.astype(old.dtype), start)
            for old, new in ((self.key, key), (self.value, value))
        )
        end = self.used + tokens
        if not _checks.known(self.used):
            query = jnp.where(end <= length, query, np.asarray(np.nan, query.dtype))
        return Cache(key, value, end), query
