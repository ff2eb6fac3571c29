"""Modules that drop single entries. See `jaxdrop.functional.elements`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import elements
from jaxdrop.linen._base import Stochastic


class Dropout(Stochastic):
    """`jaxdrop.dropout` as a Linen module, with the signature of `flax.linen.Dropout`.

    With the same `rngs={"dropout": key}` it draws the same masks. With `jaxdrop.key(0)` in place of `jax.random.key(0)` it draws
    other ones, for about the price of a multiplication.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the input is returned as it is. To be given here or in the call, not in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole input, for one mask over all devices.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout`.
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops entries of `inputs`.

        Args:
          inputs: any shape, floating or complex.
          deterministic: if True, `inputs` is returned as it is.
          rng: a key, in place of one made from `rng_collection`.
          rate: the probability of dropping, in place of the attribute; a traced value, as of a schedule, does not recompile.
          spec: the layout of the whole input, in place of the attribute.

        Returns:
          An array like `inputs`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return elements.dropout(key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec)
