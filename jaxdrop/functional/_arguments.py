"""Checks that all functions share. A message names the argument, quotes the value and says what to do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def inexact(x: jax.Array, caller: str) -> jax.Array:
    """`x` as an array of floating or complex numbers; anything else is a TypeError."""
    if not hasattr(x, "dtype"):
        x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{caller} scales what it keeps, and cannot do so with x of dtype {x.dtype}. Convert it first, as in"
            " x.astype(jnp.float32), or put the dropout after the embedding."
        )
    return x


def is_true(deterministic: bool) -> bool:
    """The flag as a Python bool; a traced or otherwise unknown one is a TypeError."""
    if isinstance(deterministic, (bool, np.bool_)):
        return bool(deterministic)
    if isinstance(deterministic, jax.core.Tracer):
        raise TypeError(
            "deterministic must be known when the function is traced, but it is a traced value. Either\n"
            "1. mark it static: jax.jit(f, static_argnames='deterministic');\n"
            "2. pass a traced rate instead: dropout(key, x, jnp.where(deterministic, 0.0, rate))."
        )
    raise TypeError(f"deterministic must be True or False, got {deterministic!r}")
