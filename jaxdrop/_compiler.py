"""Operations that leave every value unchanged, and steer how XLA compiles what is around them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def materialize(mask: jax.Array) -> jax.Array:
    """Materializes `mask`, a boolean array: XLA computes it once and stores it.

    XLA would otherwise fuse the mask into the loop over the results, and recompute it for every
    result that broadcasts from one entry. For the bits of threefry that takes longer than the rest
    of the loop. XLA never duplicates an expensive operation, and a square root counts as one; the
    square root of 0 or 1 is 0 or 1.

    An optimization barrier does not do: XLA for CPU may remove barriers before it fuses. The last
    comparison is one of integers, because with one of floats XLA for CPU does not vectorize loops
    over few channels.
    """
    return lax.sqrt(mask.astype(jnp.float32)).astype(jnp.int32) > 0


@jax.custom_jvp
def rounding_barrier(x: jax.Array) -> jax.Array:
    """`x` rounded to its dtype: XLA contracts no operation that forms `x` with one that uses it.

    XLA may contract a product and a sum into one operation with one rounding, and regroup factors.
    Whether it does depends on the program around them, so the same key would give other bits under
    another layout. A minimum with the largest number of the dtype changes no value, and nothing is
    contracted or regrouped across a minimum. The derivative is set to 1: the derivative of a
    minimum would compare, and store, two more arrays.
    """
    return jnp.minimum(x, jnp.finfo(x.dtype).max)


rounding_barrier.defjvp(lambda primals, tangents: (rounding_barrier(*primals), *tangents))
