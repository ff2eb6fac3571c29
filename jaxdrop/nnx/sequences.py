"""Modules that drop along time. See `jaxdrop.functional.sequences`.

`jaxdrop.recurrent_dropout` is dropout at a place inside a cell; as a module it is `Dropout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import sequences
from jaxdrop.nnx._base import RngSource, Stochastic


class LockedDropout(Stochastic):
    """`jaxdrop.locked_dropout` as an NNX module: one mask for all time steps.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      time_axis: the axis of the input that is time.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.locked_dropout`.
    """

    def __init__(
        self,
        rate: float,
        *,
        time_axis: int,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.time_axis = time_axis

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops features of `inputs` at all times. Args and Returns: as `jaxdrop.nnx.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return sequences.locked_dropout(
            key, inputs, rate, time_axis=self.time_axis, deterministic=off, spec=spec
        )


class EmbeddingDropout(Stochastic):
    """`jaxdrop.embedding_dropout` as an NNX module: word types are dropped.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      time_axis: None for one mask for the whole batch; an axis of the ids for one mask for each
        sequence.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.embedding_dropout`.
    """

    def __init__(
        self,
        rate: float,
        *,
        time_axis: int | None = None,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.time_axis = time_axis

    def __call__(
        self,
        embedded: jax.Array,
        *,
        ids: jax.Array,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops words; `ids` has the shape in which `embedded` begins. Other Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return sequences.embedding_dropout(
            key, embedded, rate, ids=ids, time_axis=self.time_axis, deterministic=off, spec=spec
        )


class WordDropout(Stochastic):
    """`jaxdrop.word_dropout` as an NNX module: integer ids are replaced.

    Args:
      rate: the probability of replacing, a number in [0, 1].
      replacement: the id to put in place of a dropped one.
      protected: ids that stay.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.word_dropout`.
    """

    def __init__(
        self,
        rate: float,
        *,
        replacement: int,
        protected: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.replacement = replacement
        self.protected = _checks.check_integers(protected, "protected")

    def __call__(
        self,
        ids: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Replaces words in `ids`, integers of any shape. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
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
    """`jaxdrop.zoneout` as an NNX module, for one state of a recurrent cell.

    Args:
      rate: the probability of keeping the previous state, a number in [0, 1].
      deterministic: if True, the expectation is returned.
      rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.zoneout`.
    """

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )

    def __call__(
        self,
        new: jax.Array,
        *,
        previous: jax.Array,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """The state after zoneout, from those around the cell. Other Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return sequences.zoneout(key, new, rate, previous=previous, deterministic=off, spec=spec)
