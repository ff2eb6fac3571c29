"""Modules that drop single entries. See `jaxdrop.functional.elements`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import elements
from jaxdrop.nnx._base import RngSource, Stochastic


class Dropout(Stochastic):
    """`jaxdrop.dropout` as an NNX module, with the signature of `flax.nnx.Dropout`.

    With the same `rngs` it draws the same masks. With `nnx.Rngs(jaxdrop.key(0))` in place of `nnx.Rngs(0)` it draws other ones,
    for about the price of a multiplication.

    The random stream is state that a call advances. `nnx.jit`, `nnx.scan`, `nnx.remat` and their like carry that state. Plain
    `jax.jit` does not: a module passed as its argument repeats the same mask in every call, silently, and a module closed over
    raises a trace-level error. Under plain JAX transformations pass a key to the call, `layer(x, rngs=key)`: then nothing is
    state. A bare key given to several layers of a model gives them the same mask; `nnx.Rngs(key)` gives each its own.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the input is returned as it is. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole input, for one mask over all devices.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout`.
    """

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec)
        self.broadcast_dims = tuple(broadcast_dims)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops entries of `inputs`. An argument given here takes precedence over the constructor's.

        Args:
          inputs: any shape, floating or complex.
          deterministic: if True, `inputs` is returned as it is.
          rngs: an `nnx.Rngs`, an `nnx.RngStream`, or a key.
          rate: the probability of dropping; a traced value, as of a schedule, does not recompile.
          spec: the layout of the whole input.

        Returns:
          An array like `inputs`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return elements.dropout(key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec)
