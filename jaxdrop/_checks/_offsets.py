"""Checks of where a part of a longer array begins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxdrop._checks._arrays import known, unwrapped
from jaxdrop._checks._settings import check_integer


def check_offset(
    offset: Any,
    name: str,
    shapes: Collection[tuple[int, ...]],
    last: int,
    bound: str = "",
    reason: str = "",
) -> jax.Array:
    """Where a part begins, as int32: an integer from 0 to `last`, or an array of such of one of the
    shapes. A traced offset raises under `checkify` only.

    Args:
      offset: the argument.
      name: how messages call it.
      shapes: those that it may have.
      last: the largest.
      bound: how the message says so, behind `at least 0`.
      reason: a sentence at the end of the message.
    """
    kind = "an integer, or an array of integers"
    offset = unwrapped(offset)
    dtype = getattr(offset, "dtype", None)
    if dtype is None:
        offset = np.asarray(check_integer(offset, name, kind))
    elif not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must be {kind}, got {dtype}")
    if offset.shape not in shapes:
        allowed = " or ".join(str(shape) for shape in shapes if shape)
        raise ValueError(
            f"{name} must be one number, or one for each example, shape {allowed}, got shape"
            f" {offset.shape}"
        )
    rule = f"{name} must be at least 0{bound}"
    if isinstance(offset, jax.core.Tracer) or not isinstance(last, int):
        inside = jnp.all((offset >= 0) & (offset <= last))
        checkify.debug_check(inside, f"{rule}, got {{value}}", value=jnp.asarray(offset))
    elif known(offset):
        values = np.asarray(offset)
        if not np.all((values >= 0) & (values <= last)):
            raise ValueError(f"{rule}, got {values}.{reason}")
    return jnp.asarray(offset).astype(jnp.int32)
