"""Operations that leave every value unchanged, and steer how XLA compiles what is around them."""

from __future__ import annotations

import functools
from typing import Any

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


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def rounding_barrier(x: jax.Array, finite: bool = False) -> jax.Array:
    """`x` rounded to its dtype: XLA contracts no operation that forms `x` with one that uses it.

    XLA may contract a product and a sum into one operation with one rounding, and regroup factors.
    Whether it does depends on the program around them, so the same key would give other bits under
    another layout. A minimum with the largest number of the dtype changes no finite value, and
    nothing is contracted or regrouped across a minimum. The derivative is set to 1: the derivative
    of a minimum would compare, and store, two more arrays.

    Args:
      x: a floating or complex array.
      finite: whether `x` is known to be finite. Otherwise three more operations keep infinities:
        the minimum alone turns plus infinity into the largest number.
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.complex(rounding_barrier(x.real, finite), rounding_barrier(x.imag, finite))
    lower = jnp.minimum(x, jnp.finfo(x.dtype).max)
    return lower if finite else jnp.where(jnp.isinf(x), x, lower)


@rounding_barrier.defjvp
def _(finite: bool, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    return rounding_barrier(*primals, finite), *tangents
