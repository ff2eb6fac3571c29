"""The parameters that are learned: their checks, and the values to start from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics

Learned = float | jax.Array | np.ndarray


def starting_logit(rate: float) -> float:
    """The logit of the rate from which learning starts. It is also the log alpha of the normal
    noise with the variance of dropout at that rate.
    """
    known = _checks.check_known_rate(rate, "rate", "the parameter starts from it.")
    if not 0 < known < 1:
        raise ValueError(
            f"rate, to start learning from, must lie in (0, 1), got {_checks.quoted(rate)}: its"
            " logit must be finite."
        )
    return math.log(known / (1 - known))


def starting_log_variance(log_sigma2: float) -> float:
    """The log sigma^2 from which learning starts, as a finite Python number."""
    _checks.check_not_traced(log_sigma2, "log_sigma2")
    checked = _checks.check_number(log_sigma2, "log_sigma2", least=-math.inf)
    if not isinstance(checked, float):
        raise TypeError(f"log_sigma2 must be one number, got {_checks.quoted(log_sigma2)}")
    return checked


def variance(w: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """`alpha w^2`."""
    kind = _numerics.compute_dtype(w.dtype)
    return _numerics.expand(jnp.exp(log_alpha.astype(kind)), w.ndim) * w.astype(kind) ** 2


def site(
    caller: str,
    x: jax.Array,
    value: Learned,
    name: str,
    broadcast_dims: Sequence[int],
    spec: PartitionSpec | None,
) -> tuple[jax.Array, float | jax.Array, tuple[int, ...], PartitionSpec | None]:
    """`_checks.check_site` with a learned parameter in place of the rate."""
    x, _, shared, spec = _checks.check_site(caller, x, 0.0, broadcast_dims, spec)
    return x, _checks.check_parameter(value, name, x.shape, shared), shared, spec


def any_shape(log_alpha: Learned) -> jax.Array:
    """Log alpha, a number or an array of any shape."""
    shape = np.shape(log_alpha) if isinstance(log_alpha, (jax.Array, np.ndarray)) else ()
    return jnp.asarray(_checks.check_parameter(log_alpha, "log_alpha", shape))


def exp(value: float | jax.Array) -> float | jax.Array:
    """`exp(value)`, in Python where `value` is a Python number.

    XLA evaluates the `exp` of a constant while it compiles, by another algorithm than the one that
    the compiled program runs. In Python a number gives the same bits eagerly and under `jit`.
    """
    return math.exp(value) if isinstance(value, float) else jnp.exp(value)
