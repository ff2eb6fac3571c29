"""Keys for S samples, and running a function over them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdrop import random

Strategy = Literal["stratified", "antithetic", "independent"]

_STRATEGIES = {
    "stratified": random.stratified_keys,
    "antithetic": random.antithetic_keys,
    "independent": random.independent_keys,
}


def keys(key: jax.Array, num_samples: int, strategy: Strategy = "stratified") -> jax.Array:
    """Keys for `num_samples` Monte Carlo samples, to `jax.vmap` over.

    Each key goes wherever a JAX key goes: into `rngs`, `split`, `fold_in`, `jax.random.uniform`, any layer's dropout. Sample `t`
    does not depend on how the samples are grouped, on the device count, or on whether they run under `vmap` or in a loop.

    ==============  ================================================================================================
    strategy        over the S samples, at any one position of any one array drawn
    ==============  ================================================================================================
    `stratified`    exactly one uniform value falls in each of the intervals [0, 1/S), ..., [1 - 1/S, 1): a unit is
                    dropped in S x rate samples, rounded up or down at random so that the mean is exact. Positions
                    are independent of each other: each visits the intervals in an order of its own.
    `antithetic`    sample 2j + 1 draws 1 - u where sample 2j draws u. The last of an odd number is single.
    `independent`   nothing is shared; the keys are `fold_in(key, t)`, of the generator of `key`.
    ==============  ================================================================================================

    Every single sample is an ordinary draw under each strategy, so means over samples are unbiased; under the first two the
    samples depend on each other, so that their mean varies less, and the standard deviation over samples divided by sqrt(S)
    overstates the error of that mean.

    Args:
      key: a single key of any generator. The first two strategies draw from `jaxdrop.random.fast(key)`.
      num_samples: S, at least 1; at most 65535 if stratified.
      strategy: one of the three names.

    Returns:
      A typed key array of shape (num_samples,).

    Raises:
      TypeError: `num_samples` is not an integer.
      ValueError: `num_samples` is out of range, the strategy is unknown, or `key` is itself one of several samples' keys.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(map(repr, _STRATEGIES))}, got {strategy!r}")
    num = _count("num_samples", num_samples)
    return _STRATEGIES[strategy](key, num)


def predict(fn: Callable[[jax.Array], Any], keys: jax.Array, *, batch_size: int | None = None) -> Any:
    """Runs `fn(key)` for every key.

    Args:
      fn: a function of one key that returns an array or a pytree of arrays, such as
        `lambda key: model.apply(variables, x, deterministic=False, rngs={"dropout": key})`.
      keys: a key array of shape (S,).
      batch_size: how many samples to run at once; all by default. Fewer need less memory, and the results are the same: the last
        batch is smaller where the number does not divide S.

    Returns:
      What `fn` returns, with a leading axis of length S on every array. Wrap the call in `jax.jit` to run it more than once.

    Raises:
      TypeError: `batch_size` is not an integer.
      ValueError: `keys` is not one axis of keys, or `batch_size` is below 1.
    """
    if getattr(keys, "ndim", None) != 1 or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"keys must be a key array of shape (S,), as jaxdrop.mc.keys(key, S) returns, got {keys!r}")
    size = keys.shape[0] if batch_size is None else _count("batch_size", batch_size)
    return jax.vmap(fn)(keys) if size >= keys.shape[0] else jax.lax.map(fn, keys, batch_size=size)


def _count(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
    return count
