"""Modules that drop attention weights, keys and heads. See `jaxdrop.functional.heads`."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import heads
from jaxdrop.nnx._base import RngSource, Stochastic


class AttentionDropout(Stochastic):
    """`jaxdrop.attention_dropout` as an NNX module, for attention weights that are there as an
    array.

    Args:
      rate: the probability of dropping a weight, a number in [0, 1].
      broadcast_dims: axes along which the mask is shared.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.attention_dropout`.
    """

    _handed_on = MappingProxyType({"weights": "inputs"})

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
        """Drops entries of `inputs`, attention weights. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return heads.attention_dropout(
            key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class DropKey(Stochastic):
    """`jaxdrop.drop_key` as an NNX module: drops logits in front of the softmax of attention.

    Args:
      rate: the probability of dropping a key, a number in [0, 1].
      broadcast_dims: axes along which the mask is shared, not the last one.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.drop_key`.
    """

    _handed_on = MappingProxyType({"logits": "inputs"})

    _draws_nothing_at = (0,)

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
        """Drops keys of `inputs`, logits `(..., keys)`. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return heads.drop_key(
            key, inputs, rate, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class DropHead(Stochastic):
    """`jaxdrop.drop_head` as an NNX module: drops whole attention heads.

    Args:
      rate: the probability of dropping a head, a number in [0, 1].
      normalize: `'example'`, `'expected'` or `'fixed'`.
      head_axis: the axis of the heads.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.drop_head`.
    """

    _draws_nothing_at = (0,)

    def __init__(
        self,
        rate: float,
        *,
        normalize: heads.Normalize = "example",
        head_axis: int = -2,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        _checks.check_one_of(normalize, "normalize", heads.Normalize)
        self.normalize: heads.Normalize = normalize
        self.head_axis = head_axis

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops heads of `inputs`, `(batch..., length, heads, depth)`. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return heads.drop_head(
            key,
            inputs,
            rate,
            normalize=self.normalize,
            head_axis=self.head_axis,
            deterministic=off,
            spec=spec,
        )
