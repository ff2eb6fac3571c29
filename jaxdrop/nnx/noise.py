"""Modules that add noise, or multiply by it. See `jaxdrop.functional.noise`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import noise
from jaxdrop.nnx._base import RngSource, Stochastic
from jaxdrop.nnx.elements import Elementwise


class GaussianDropout(Elementwise):
    """`jaxdrop.gaussian_dropout` as an NNX module.

    Args:
      rate: the rate of the dropout that has the same variance, a number in [0, 1).
      broadcast_dims: axes along which all entries share one factor.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.gaussian_dropout`.
    """

    _function = staticmethod(noise.gaussian_dropout)


class GaussianNoise(Stochastic):
    """`jaxdrop.gaussian_noise` as an NNX module.

    Args:
      stddev: the standard deviation, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.gaussian_noise`.
    """

    _has_rate = False
    _draws_nothing_at = (0,)

    def __init__(
        self,
        stddev: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        _checks.check_number(stddev, "stddev")
        self.stddev = stddev
        self.broadcast_dims = _checks.axis_numbers(broadcast_dims)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        stddev: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Adds noise to `inputs`, of `stddev` if it is given. Other Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        amount = self.stddev if stddev is None else stddev
        off, key, amount, spec = self._settle(deterministic, rngs, amount, spec)
        return noise.gaussian_noise(
            key, inputs, amount, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class UniformDropout(Stochastic):
    """`jaxdrop.uniform_dropout` as an NNX module.

    Args:
      beta: half the width of the noise, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.uniform_dropout`.
    """

    _has_rate = False
    _draws_nothing_at = (0,)

    def __init__(
        self,
        beta: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        _checks.check_number(beta, "beta")
        self.beta = beta
        self.broadcast_dims = _checks.axis_numbers(broadcast_dims)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        beta: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Multiplies `inputs` by noise, of `beta` if it is given. Other Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        amount = self.beta if beta is None else beta
        off, key, amount, spec = self._settle(deterministic, rngs, amount, spec)
        return noise.uniform_dropout(
            key, inputs, amount, broadcast_dims=self.broadcast_dims, deterministic=off, spec=spec
        )


class NEFTune(Stochastic):
    """`jaxdrop.neftune` as an NNX module, to stand behind the embedding.

    Args:
      alpha: the amount of noise; the paper uses 5, 10 and 15.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.neftune`.
    """

    _has_rate = False
    _draws_nothing_at = (0,)

    def __init__(
        self,
        alpha: float = 5.0,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        _checks.check_number(alpha, "alpha")
        self.alpha = alpha

    def __call__(
        self,
        inputs: jax.Array,
        *,
        mask: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        alpha: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Adds noise to the embeddings `inputs` where `mask` is true. Other Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        amount = self.alpha if alpha is None else alpha
        off, key, amount, spec = self._settle(deterministic, rngs, amount, spec)
        return noise.neftune(key, inputs, amount, mask=mask, deterministic=off, spec=spec)
