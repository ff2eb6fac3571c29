"""Dropping integers: an id is replaced by another one, without a scale and without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._kernel import kernel


def replacing(caller: str, name: str, of: str) -> Callable[..., jax.Array]:
    """The implementation of the public function `caller`: each id is replaced by `replacement` with
    probability `rate`, unless its value is protected.

    `name` and `of` are those of `caller`'s arguments, the replacement and the ids, for messages.
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
        part: masks.Part | None = None,
    ) -> jax.Array:
        ids = _checks.check_ids(ids, caller, of)
        rate = _checks.check_rate(rate)
        _checks.check_rate_shape(rate, ids.shape, ())
        spec = _checks.check_spec(spec, ids.ndim, of)
        part = masks.check_part(part, ids, spec, of)
        replacement = fitting(name, replacement, ids.dtype)
        safe = _checks.check_integers(protected, "protected")
        if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
            return ids
        key = None if masks.is_number(rate, 1) else _checks.consume_key(key, caller)
        return compiled(
            key,
            ids,
            masks.nan_outside(masks.threshold(rate), part),
            part,
            replacement=replacement,
            protected=safe,
            spec=spec,
        )

    return replace


def fitting(name: str, replacement: int, dtype: np.dtype) -> int:
    """The argument `name` as a Python integer, if arrays of `dtype` can hold it."""
    number, limits = _checks.check_integer(replacement, name), np.iinfo(dtype)
    if not limits.min <= number <= limits.max:
        shown = _checks.quoted(number)
        raise ValueError(
            f"{name} must be a value of dtype {dtype}, which holds {limits.min} to {limits.max},"
            f" got {shown}"
        )
    return number


def _replaced(
    key: jax.Array | None,
    ids: jax.Array,
    threshold: jax.Array,
    part: masks.Part | None,
    *,
    replacement: int,
    protected: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    keep = (
        jnp.zeros_like(ids, bool)
        if key is None
        else masks.keep_mask(key, ids, threshold, spec=spec, part=part)
    )
    limits = jnp.iinfo(ids.dtype)
    for number in protected:
        if limits.min <= number <= limits.max:  # others are no value of this dtype
            keep |= ids == jnp.asarray(number, ids.dtype)
    return jnp.where(keep, ids, jnp.asarray(replacement, ids.dtype))
