"""Modules that drop single entries. See `jaxdrop.functional.elements`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import elements
from jaxdrop.linen._base import Stochastic


class Elementwise(Stochastic):
    """What the modules share that are a function of (key, inputs, rate) with `broadcast_dims`."""

    _function: ClassVar[Callable[..., jax.Array]]

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
          rate: the probability of dropping, in place of the attribute; a traced value, as of a
            schedule, does not recompile.
          spec: the layout of the whole input, in place of the attribute.

        Returns:
          An array like `inputs`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return self._function(
            key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class Channelwise(Stochastic):
    """What the modules share that are a function of (key, inputs, rate) with `channel_axis` and
    `spatial_rank`.
    """

    _function: ClassVar[Callable[..., jax.Array]]

    rate: float
    channel_axis: int = -1
    spatial_rank: int | None = None
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
        """Drops channels of `inputs`. Args and Returns: as `jaxdrop.linen.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return self._function(
            key,
            inputs,
            rate,
            channel_axis=self.channel_axis,
            spatial_rank=self.spatial_rank,
            deterministic=off,
            spec=spec,
        )


class Dropout(Elementwise):
    """`jaxdrop.dropout` as a Linen module, with the signature of `flax.linen.Dropout`.

    With the same `rngs={"dropout": key}` it draws the same masks. With `jaxdrop.key(0)` in place of
    `jax.random.key(0)` it draws other ones, for about the price of a multiplication.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the input is returned as it is. To be given here or in the call, not
        in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole input, for one mask over all
        devices.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout`.
    """

    _function = staticmethod(elements.dropout)


class ClassicDropout(Elementwise):
    """`jaxdrop.classic_dropout` as a Linen module: dropout as first published, which multiplies by
    `1 - rate` in evaluation.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the inputs are multiplied by `1 - rate`. To be given here or in the
        call, not in both.
      rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.classic_dropout`.
    """

    _function = staticmethod(elements.classic_dropout)


class AlphaDropout(Elementwise):
    """`jaxdrop.alpha_dropout` as a Linen module, for SELU networks.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.alpha_dropout`.
    """

    _function = staticmethod(elements.alpha_dropout)


class FeatureAlphaDropout(Channelwise):
    """`jaxdrop.feature_alpha_dropout` as a Linen module: alpha dropout of whole channels.

    Attributes:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: where the channels are: last, or before `n` spatial axes (`-1 - n`).
      spatial_rank: the number of spatial axes; None for all but the first axis and the channels.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.feature_alpha_dropout`.
    """

    _function = staticmethod(elements.feature_alpha_dropout)
