"""What the Linen modules share: where `deterministic`, the rate, the layout and the key come from."""

from __future__ import annotations

from typing import ClassVar

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import _arguments


class Stochastic(nn.Module):
    """A module that draws one mask a call. A subclass holds hyperparameters and makes one call into `jaxdrop.functional`.

    Subclasses declare the fields `rate`, `deterministic`, `rng_collection` and `spec`, in the order of Flax's own layer.
    Where the amount that is dropped is no rate, they give `_settle` their own amount in each call.
    """

    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)

    def _settle(
        self, deterministic: bool | None, rng: jax.Array | None, rate: masks.Rate | None, spec: PartitionSpec | None
    ) -> tuple[bool, jax.Array | None, masks.Rate, PartitionSpec | None]:
        """What one call uses: its own arguments first, then the module's. A key is made only if something is drawn with it."""
        chosen = nn.merge_param("deterministic", self.deterministic, deterministic)
        rate = self.rate if rate is None else rate
        draws = not (_arguments.is_true(chosen) or any(masks.is_number(rate, value) for value in self._draws_nothing_at))
        if draws and rng is None:
            rng = self.make_rng(self.rng_collection)
        return chosen, rng, rate, self.spec if spec is None else spec
