"""Dropping integers: an id is replaced by another one. There is nothing to scale, and nothing to differentiate."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import masks, random
from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel


def replacing(caller: str, name: str) -> Callable[..., jax.Array]:
    """The function behind `caller`: each id gives way to `replacement` with probability `rate`, unless its value is protected.

    `name` is that of `caller`'s argument, for messages.
    """
    compiled = kernel(caller)(_replaced)

    def replace(
        key: jax.Array | None,
        ids: jax.Array,
        rate: masks.Rate,
        *,
        replacement: int,
        protected: Sequence[int],
        deterministic: bool,
        spec: PartitionSpec | None,
    ) -> jax.Array:
        ids = _arguments.integers(ids, caller)
        rate = masks.check_rate(rate)
        masks.check_rate_shape(rate, ids.shape, ())
        spec = masks.check_spec(spec, ids.ndim)
        replacement = fitting(name, replacement, ids.dtype)
        try:
            safe = tuple(map(operator.index, protected))
        except TypeError:
            raise TypeError(f"protected must be a sequence of integers, got {protected!r}") from None
        if _arguments.is_true(deterministic) or masks.is_number(rate, 0):
            return ids
        key = None if masks.is_number(rate, 1) else random.single(key, caller)
        return compiled(key, ids, masks.threshold(rate), replacement=replacement, protected=safe, spec=spec)

    return replace


def fitting(name: str, replacement: int, dtype: np.dtype) -> int:
    """The argument `name` as a Python integer, if arrays of `dtype` can hold it."""
    number, limits = _arguments.integer(name, replacement), np.iinfo(dtype)
    if not limits.min <= number <= limits.max:
        raise ValueError(f"ids of dtype {dtype} cannot be replaced by {number}: they hold {limits.min} to {limits.max}.")
    return number


def _replaced(
    key: jax.Array | None,
    ids: jax.Array,
    threshold: jax.Array,
    *,
    replacement: int,
    protected: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    keep = jnp.zeros_like(ids, bool) if key is None else masks.keep(key, ids, threshold, spec=spec)
    for number in protected:
        keep |= ids == number
    return jnp.where(keep, ids, jnp.asarray(replacement, ids.dtype))
