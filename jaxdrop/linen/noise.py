"""Modules that add noise, or multiply by it. See `jaxdrop.functional.noise`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import noise
from jaxdrop.linen._base import Stochastic
from jaxdrop.linen.elements import Elementwise


class GaussianDropout(Elementwise):
    """`jaxdrop.gaussian_dropout` as a Linen module.

    Attributes:
      rate: the rate of the dropout that has the same variance, a number in [0, 1).
      broadcast_dims: axes along which all entries share one factor.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.gaussian_dropout`.
    """

    _function = staticmethod(noise.gaussian_dropout)


class GaussianNoise(Stochastic):
    """`jaxdrop.gaussian_noise` as a Linen module.

    Attributes:
      stddev: the standard deviation, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.gaussian_noise`.
    """

    _draws_nothing_at = (0,)

    stddev: float
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
        stddev: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Adds noise to `inputs`, of `stddev` if it is given. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        amount = self.stddev if stddev is None else stddev
        off, key, amount, spec = self._settle(deterministic, rng, amount, spec)
        return noise.gaussian_noise(
            key, inputs, amount, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class UniformDropout(Stochastic):
    """`jaxdrop.uniform_dropout` as a Linen module.

    Attributes:
      beta: half the width of the noise, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.uniform_dropout`.
    """

    _draws_nothing_at = (0,)

    beta: float
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
        beta: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Multiplies `inputs` by noise, of `beta` if it is given. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        amount = self.beta if beta is None else beta
        off, key, amount, spec = self._settle(deterministic, rng, amount, spec)
        return noise.uniform_dropout(
            key, inputs, amount, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class NEFTune(Stochastic):
    """`jaxdrop.neftune` as a Linen module, to stand behind the embedding.

    Attributes:
      alpha: the amount of noise; the paper uses 5, 10 and 15.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.neftune`.
    """

    _draws_nothing_at = (0,)

    alpha: float = 5.0
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
        mask: jax.Array | None = None,
        alpha: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Adds noise to the embeddings `inputs` where `mask` is true. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        amount = self.alpha if alpha is None else alpha
        off, key, amount, spec = self._settle(deterministic, rng, amount, spec)
        return noise.neftune(key, inputs, amount, mask=mask, deterministic=off, spec=spec)
