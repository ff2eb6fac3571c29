"""Random variates: from 32 uniform random bits to a value of a distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike


def uniform(bits: jax.Array) -> jax.Array:
    """float32 values in [0, 1) on a grid of 2**-23, from 32-bit words: the values that
    `jax.random.uniform` forms from them.
    """
    mantissa = (bits >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(mantissa, jnp.float32) - np.float32(1)


def normal(bits: jax.Array) -> jax.Array:
    """Standard normal float32 values from 32-bit words: the values that `jax.random.normal` forms
    from them.
    """
    low = np.nextafter(np.float32(-1), np.float32(0))
    symmetric = jnp.maximum(uniform(bits) * (np.float32(1) - low) + low, low)
    return np.float32(np.sqrt(2)) * lax.erf_inv(symmetric)


def gumbel(bits: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Standard Gumbel values `-log(-log(u))` from 32-bit words.

    The words stand for `1 - u`, which is small in the upper tail. So the largest values, those that
    decide which entry wins, are resolved to all 32 bits.
    """
    above = (bits.astype(dtype) + 0.5) * 2.0**-32  # 1 - u
    # In float32 the largest words round to 2**32. Then u is 0, and its logarithm infinite.
    above = jnp.minimum(above, 1 - jnp.finfo(dtype).epsneg)
    return -jnp.log(-jnp.log1p(-above))
