"""Noise as an amount times drawn values: its checks, and its arithmetic, in float32 at least."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _compiler, _numerics, _variates, masks


def symmetric(bits: jax.Array) -> jax.Array:
    """Uniform values in [-1, 1), in float32."""
    return 2 * _variates.uniform(bits) - 1


def multiplied(x: jax.Array, amount: jax.Array, noise: jax.Array) -> jax.Array:
    """`x (1 + amount noise)`, formed in float32 at least; of the dtype of `x`."""
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) * (1 + times(amount, noise)).astype(wide)).astype(x.dtype)


def added(x: jax.Array, amount: jax.Array, noise: jax.Array) -> jax.Array:
    """`x + amount noise`, formed in float32 at least; of the dtype of `x`."""
    wide = _numerics.compute_dtype(x.dtype)
    return (x.astype(wide) + times(amount, noise).astype(wide)).astype(x.dtype)


def times(amount: jax.Array, noise: jax.Array) -> jax.Array:
    """`amount noise` in float32, rounded before it is used: a compiler may otherwise fuse it with
    the sum that follows, and round only once.
    """
    amount = _numerics.expand(amount, noise.ndim).astype(jnp.float32)
    noise = _compiler.rounding_barrier(noise, finite=True)
    return _compiler.rounding_barrier(amount * noise, finite=True)


def site(
    caller: str,
    x: jax.Array,
    amount: masks.Rate,
    name: str,
    broadcast_dims: Sequence[int],
    spec: PartitionSpec | None,
) -> _checks.Site:
    """`_checks.check_site` with an amount from 0 on in place of the rate."""
    x, _, shared, spec = _checks.check_site(caller, x, 0.0, broadcast_dims, spec)
    known = _checks.check_number(amount, name)
    _checks.check_rate_shape(known, x.shape, shared, name)
    return _checks.Site(x, known, shared, spec)


def check_real_input(x: jax.Array, caller: str) -> jax.Array:
    """The input of a function that adds real noise, if it is not complex."""
    return _checks.check_real(
        x,
        caller,
        why=(
            ", for it adds real noise. Add noise to its real and imaginary parts, with a key for"
            " each."
        ),
    )
