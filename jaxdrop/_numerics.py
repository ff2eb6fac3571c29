"""The dtype to compute in, and axes that broadcast."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax


def compute_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype in which values of `dtype` are scaled: float32 for floats of fewer than 32 bits,
    `dtype` itself otherwise.

    A scale that is rounded to few bits would shift the mean of all kept values. Rounding each
    product to `dtype` does not, because the roundings of different values cancel.
    """
    return np.promote_types(dtype, np.float32)


def expand(x: jax.Array, ndim: int) -> jax.Array:
    """`x` with leading axes of length 1, up to `ndim` axes. A scalar stays a scalar, which
    broadcasts as it is.
    """
    return lax.expand_dims(x, range(ndim - x.ndim)) if x.ndim else x
