"""Dense layers with random weights: checks of the operands, and draws of pre-activations in place
of draws of weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, _variates, masks


def operands(caller: str, x: jax.Array, w: jax.Array, *, real: bool) -> tuple[jax.Array, jax.Array]:
    """Checks that `x @ w` is the product of a dense layer, of real numbers if its noise has no
    meaning for complex ones.
    """
    x, w = _checks.check_inexact(x, caller), _checks.check_inexact(w, caller, "w")
    if real:
        for name, value in (("x", x), ("w", w)):
            _checks.check_real(value, caller, name, ": a complex variance has no one definition.")
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        name = _checks.shown("x")
        raise ValueError(
            f"{caller} multiplies {name} of shape (..., in) and w of shape (in, out), got {x.shape}"
            f" and {w.shape}"
        )
    return x, w


def gaussian(
    key: jax.Array, x: jax.Array, mean: jax.Array, variance: jax.Array, spec: PartitionSpec | None
) -> jax.Array:
    """One draw of `x W` for each row of `x`, where the weights `W` are normal and independent
    (local reparameterization).

    `N(x mean, (x * x) variance)`, differentiable in all three.

    Args:
      key: a single key.
      x: shape (..., in).
      mean: the means of the weights, shape (in, out).
      variance: the variances of the weights, shape (in, out), at least 0.
      spec: the layout of the whole result.
    """
    kind = _numerics.compute_dtype(jnp.result_type(x, mean))
    rows = x.astype(kind)
    center, spread = rows @ mean.astype(kind), (rows * rows) @ variance.astype(kind)
    noise = _variates.normal(masks.draw(key, center, spec=spec)).astype(kind)
    none = spread <= 0  # at 0 the square root has no derivative
    deviation = jnp.where(
        none, jnp.zeros_like(spread), jnp.sqrt(jnp.where(none, jnp.ones_like(spread), spread))
    )
    # The minimum is never reached. It keeps the compiler from fusing product and sum into one
    # operation with one rounding, as it may do in one program and not in another.
    shift = jnp.minimum(deviation * noise, jnp.finfo(kind).max)
    return (center + shift).astype(jnp.result_type(x, mean))
