"""Modules that drop along time. See `jaxdrop.functional.sequences`.

`jaxdrop.recurrent_dropout` is dropout at a place inside a cell; as a module it is `Dropout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import sequences
from jaxdrop.linen._base import Stochastic


class LockedDropout(Stochastic):
    """`jaxdrop.locked_dropout` as a Linen module: one mask for all time steps.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      time_axis: the axis of the input that is time.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.locked_dropout`.
    """

    rate: float
    time_axis: int
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
        """Drops features of `inputs` at all times. Args and Returns: as `jaxdrop.linen.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return sequences.locked_dropout(
            key, inputs, rate, time_axis=self.time_axis, deterministic=off, spec=spec
        )


class EmbeddingDropout(Stochastic):
    """`jaxdrop.embedding_dropout` as a Linen module: word types are dropped.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      time_axis: None for one mask for the whole batch; an axis of the ids for one mask for each
        sequence.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.embedding_dropout`.
    """

    rate: float
    time_axis: int | None = None
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        ids: jax.Array,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops words; `ids` has the shape in which `embedded` begins. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return sequences.embedding_dropout(
            key, embedded, rate, ids=ids, time_axis=self.time_axis, deterministic=off, spec=spec
        )


class WordDropout(Stochastic):
    """`jaxdrop.word_dropout` as a Linen module: integer ids are replaced.

    Attributes:
      rate: the probability of replacing, a number in [0, 1].
      replacement: the id to put in place of a dropped one.
      protected: ids that stay.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.word_dropout`.
    """

    rate: float
    replacement: int
    protected: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Replaces words in `ids`, integers of any shape. Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return sequences.word_dropout(
            key,
            ids,
            rate,
            replacement=self.replacement,
            protected=self.protected,
            deterministic=off,
            spec=spec,
        )


class Zoneout(Stochastic):
    """`jaxdrop.zoneout` as a Linen module, for one state of a recurrent cell.

    Attributes:
      rate: the probability of keeping the previous state, a number in [0, 1].
      deterministic: if True, the expectation is returned.
      rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.zoneout`.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        new: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        previous: jax.Array,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """The state after zoneout, from those around the cell. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return sequences.zoneout(key, new, rate, previous=previous, deterministic=off, spec=spec)
