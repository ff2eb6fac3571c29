"""Streams of keys that were derived before, all in one call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop import _checks

__all__ = ["rngs_from_keys"]


class _GivenKeys(nnx.RngStream):
    """Hands out the keys of an array, first to last. Those that are left are the state: its shape
    differs from one call to the next, so that a loop cannot carry it, and take one key again and
    again.
    """

    number: int | None = None

    def __call__(self) -> jax.Array:
        keys = self.key[...]
        if not keys.ndim or self.count.ndim:  # a fork, or lanes of `nnx.split_rngs`
            return super().__call__()
        if not len(keys):
            raise ValueError(
                f"rngs_from_keys was given {self.number} keys, and this is the call for one more."
                " Derive as many as the model takes in one call, or more."
            )
        self.count[...] += 1  # Flax's check that the stream belongs to the trace that uses it
        self.key.set_value(keys[1:])
        return keys[0]


@_checks.hinted
def rngs_from_keys(keys: jax.Array) -> nnx.Rngs:
    """An `nnx.Rngs` that hands out the keys of an array, first to last, whatever the name of the
    stream.

    `nnx.Rngs(key)` derives a key for each layer that asks, by a hash of its own: a hundred
    instructions that the compiler meets once for each layer, and again in the backward pass of a
    layer that is computed again. These two lines derive the same keys, and so give the same masks,
    by one hash of an array, in about a tenth of the instructions:

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
        logits = model(x, rngs=jaxdrop.nnx.rngs_from_keys(keys))

    Under a scan over layers, derive the keys of all layers before, `(layers, count)`, scan over
    them, and call this function in the body. Make the stream in the function that uses it: a loop
    cannot carry it, and a compiled function that takes it is compiled again for each number of keys
    that are left.

    Args:
      keys: an array of keys with one axis, at least as long as the number of keys that are taken.

    Returns:
      An `nnx.Rngs`. A call for more keys than there are is a ValueError.

    Raises:
      TypeError: no keys.
      ValueError: not one axis.
    """
    keys = _checks.check_keys(keys, "rngs_from_keys", "keys")
    if keys.ndim != 1:
        raise ValueError(
            f"keys must be an array of keys with one axis, got the shape {keys.shape}."
            " nnx.Rngs(key) derives keys from a single one."
        )
    rngs = nnx.Rngs()
    stream = _GivenKeys(keys, tag="default")
    stream.count.set_value(jnp.zeros((), jnp.uint32))  # for lanes it is one for each key
    stream.number = len(keys)
    rngs.default = stream
    return rngs
