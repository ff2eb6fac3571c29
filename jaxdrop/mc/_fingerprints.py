"""Short texts that identify keys and weights, whatever devices hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def of_keys(keys: jax.Array) -> str:
    """A fingerprint of a key array, from its type and its words."""
    content = str(keys.dtype).encode() + np.asarray(jax.random.key_data(keys)).tobytes()
    return f"{len(keys)} keys, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def of_arrays(arrays: Sequence[jax.Array]) -> str:
    """A fingerprint of arrays, from sums over their entries: devices and processes that share an
    array can compute these together.
    """
    total = 0
    for x in arrays:
        total = (total * 31 + int(_checksum(x))) % 2**32
    return f"{len(arrays)} arrays, checksum {total:08x}"


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag])
    if x.dtype.itemsize == 1:  # some of them have fewer than 8 bits
        x = x.astype(jnp.float32)
    words = lax.bitcast_convert_type(x, f"uint{min(8 * x.dtype.itemsize, 32)}").astype(jnp.uint32)
    return jnp.sum((words ^ (words >> 15)) * np.uint32(0x2C1B3C6D), dtype=jnp.uint32)
