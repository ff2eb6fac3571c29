"""Modules that drop single entries. See `jaxdrop.functional.elements`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import elements
from jaxdrop.nnx._base import RngSource, Stochastic


class Elementwise(Stochastic):
    """What the modules share that are a function of (key, inputs, rate) with `broadcast_dims`."""

    _function: ClassVar[Callable[..., jax.Array]]

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
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.broadcast_dims = _checks.axis_numbers(broadcast_dims)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops entries of `inputs`. An argument given here takes precedence over the
        constructor's.

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
        return self._function(
            key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class Channelwise(Stochastic):
    """What the modules share that are a function of (key, inputs, rate) with `channel_axis` and
    `spatial_rank`.
    """

    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self,
        rate: float,
        *,
        channel_axis: int = -1,
        spatial_rank: int | None = None,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.channel_axis = channel_axis
        self.spatial_rank = spatial_rank

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops channels of `inputs`. Args and Returns: as `jaxdrop.nnx.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
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
    """`jaxdrop.dropout` as an NNX module, with the signature of `flax.nnx.Dropout`.

    With the same `rngs` it draws the same masks. With `nnx.Rngs(jaxdrop.key(0))` in place of
    `nnx.Rngs(0)` it draws other ones, for about the price of a multiplication.

    The random stream is state that a call advances. `nnx.jit`, `nnx.scan`, `nnx.remat` and their
    like carry that state. Plain `jax.jit` does not: a module passed as its argument repeats the
    same mask in every call, silently, and a module closed over raises a trace-level error. Under
    plain JAX transformations pass a key to the call, `layer(x, rngs=key)`: then nothing is state. A
    bare key given to several layers of a model gives them the same mask; `nnx.Rngs(key)` gives each
    its own.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the input is returned as it is. `model.eval()` and `model.train()` set
        it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with
        the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole input, for one mask over all
        devices.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout`.
    """

    _function = staticmethod(elements.dropout)


class ClassicDropout(Elementwise):
    """`jaxdrop.classic_dropout` as an NNX module: dropout as first published, which multiplies by
    `1 - rate` in evaluation.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic: if True, the inputs are multiplied by `1 - rate`. `model.eval()` and
        `model.train()` set it.
      rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.classic_dropout`.
    """

    _function = staticmethod(elements.classic_dropout)


class AlphaDropout(Elementwise):
    """`jaxdrop.alpha_dropout` as an NNX module, for SELU networks.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      broadcast_dims: axes along which all entries share one mask value.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.alpha_dropout`.
    """

    _function = staticmethod(elements.alpha_dropout)


class FeatureAlphaDropout(Channelwise):
    """`jaxdrop.feature_alpha_dropout` as an NNX module: alpha dropout of whole channels.

    Args:
      rate: the probability of dropping a channel, a number in [0, 1].
      channel_axis: where the channels are: last, or before `n` spatial axes (`-1 - n`).
      spatial_rank: the number of spatial axes; None for all but the first axis and the channels.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.feature_alpha_dropout`.
    """

    _function = staticmethod(elements.feature_alpha_dropout)
