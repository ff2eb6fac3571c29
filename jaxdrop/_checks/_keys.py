"""Checks of keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop._checks._arrays import is_key, unwrapped
from jaxdrop._checks._messages import quoted, shown


def consume_key(key: jax.Array | None, caller: str) -> jax.Array:
    """As `check_key`, for a caller that draws from the key by its own arithmetic: JAX's checker of
    key reuse (`jax_debug_key_reuse`) is told that the key is consumed.
    """
    typed = check_key(key, caller)
    if jax.config.jax_debug_key_reuse:  # type: ignore[attr-defined]
        jax.random.bits(typed)
    return typed


def check_key(
    key: jax.Array | np.ndarray | None,
    caller: str,
    name: str = "key",
    *,
    always: bool = False,
    call: str = "",
) -> jax.Array:
    """The argument as one typed key; legacy raw keys become threefry keys.

    Args:
      key: the argument.
      caller: the function that takes it, for messages.
      name: that of the argument, for messages.
      always: whether `caller` has no deterministic mode, which the message would name as a way out.
      call: the call, as in "until(fn, key)", for a caller that does not take the key first.

    Raises:
      TypeError: not a key at all.
      ValueError: no key, or an array of keys.
    """
    if key is None and always:
        raise ValueError(
            f"{caller} needs a key, but {shown(name)} is None. Pass one, such as jaxdrop.key(seed)."
        )
    if key is None:
        raise ValueError(
            f"{caller} is stochastic here and needs a key, but {shown(name)} is None."
            " Either\n1. pass one: jaxdrop.key(seed), jax.random.key(seed), or a fold_in or split"
            " of such a key;\n2. pass deterministic=True, for evaluation;\n3. pass rate=0."
        )
    typed = check_keys(key, caller, name, call)
    if typed.ndim:
        raise ValueError(
            f"{caller} takes a single key, but {shown(name)} is an array of keys of shape"
            f" {typed.shape}. Use jax.vmap to run over keys, or index it."
        )
    return typed


def check_keys(key: Any, caller: str, name: str = "key", call: str = "") -> jax.Array:
    """The argument as a typed key, or an array of typed keys; legacy raw keys become threefry
    keys. `caller`, `name` and `call` are for messages, as in `check_key`.
    """
    key = unwrapped(key)
    if is_key(key):
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.ndim >= 1:
        try:
            # Of the generator that jax_default_prng_impl names.
            return jax.random.wrap_key_data(jnp.asarray(key))
        except TypeError:
            if key.shape[-1] == 2:
                return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    name = shown(name)
    if type(key).__name__ in ("Rngs", "RngStream") and not isinstance(key, (jax.Array, np.ndarray)):
        take = "rngs.dropout()" if type(key).__name__ == "Rngs" else "stream()"
        raise TypeError(
            f"{name} is an {type(key).__name__} of Flax, from which keys are taken:"
            f" {caller}({take}, ...)."
        )
    order = ""
    if call:
        order = f" The order of the arguments is {call}."
    elif name == "key":
        order = f" Keys come first: {caller}(key, ...)."
    raise TypeError(
        f"{name} must be a JAX PRNG key, such as jaxdrop.key(0) or jax.random.key(0), but it is"
        f" {quoted(key)}.{order}"
    )
