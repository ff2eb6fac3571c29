"""Modules that drop inputs of a model. See `jaxdrop.functional.tokens`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import tokens
from jaxdrop.functional.tokens import Arrays
from jaxdrop.linen._base import Stochastic


class TokenDropout(Stochastic):
    """`jaxdrop.token_dropout` as a Linen module: fewer tokens (patches) go on. timm's is
    `PatchDropoutWithIndices`.

    Attributes:
      rate: the probability of dropping, a number in [0, 1).
      num_prefix_tokens: how many tokens at the start are always kept.
      rule: whose rule says how many are kept: `'timm'`, `'floor'` or `'round'`.
      ordered: if True, tokens stay in their order.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.token_dropout`.
    """

    rate: float
    num_prefix_tokens: int
    rule: tokens.TokenRule = "timm"
    ordered: bool = False
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
    ) -> tuple[jax.Array, jax.Array]:
        """Drops tokens of `inputs`, shape (..., tokens, features). Args: as
        `jaxdrop.linen.Dropout`.

        Returns:
          The kept tokens and their indices.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return tokens.token_dropout(
            key,
            inputs,
            rate,
            num_prefix_tokens=self.num_prefix_tokens,
            rule=self.rule,
            ordered=self.ordered,
            deterministic=off,
            spec=spec,
        )


class LabelDropout(Stochastic):
    """`jaxdrop.label_dropout` as a Linen module, for classifier-free guidance.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      null_id: the label that stands for none.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.label_dropout`.
    """

    rate: float
    null_id: int
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        labels: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        force_drop: jax.Array | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops labels, those of `force_drop` if it is given. Other Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        if force_drop is not None:
            return tokens.label_dropout(
                None, labels, self.rate, null_id=self.null_id, force_drop=force_drop
            )
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return tokens.label_dropout(
            key, labels, rate, null_id=self.null_id, deterministic=off, spec=spec
        )


class ModalityDropout(Stochastic):
    """`jaxdrop.modality_dropout` as a Linen module: whole inputs are dropped, never all of them.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      rule: `'independent'`, or `'one'` for at most one.
      weights: of rule `'one'`: which modality it is, as probabilities.
      per: `'example'` or `'batch'`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.modality_dropout`.
    """

    _draws_nothing_at = (0,)

    rate: float
    rule: tokens.ModalityRule = "independent"
    weights: Sequence[float] | None = None
    per: tokens.Per = "example"
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        arrays: Arrays,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> Arrays:
        """Drops some of `arrays`, two or more in a pytree. Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return tokens.modality_dropout(
            key,
            arrays,
            rate,
            rule=self.rule,
            weights=self.weights,
            per=self.per,
            deterministic=off,
            spec=spec,
        )
