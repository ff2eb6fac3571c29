"""Predictions sorted into bins by their confidence."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop._references import cites
from jaxdrop.mc import _reduction
from jaxdrop.mc._reduction import masked


@cites("guo2017calibration")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions sorted into B bins by their confidence."""

    count: jax.Array
    """The number of predictions, integers of shape (B,)."""
    total_confidence: jax.Array
    """The sum of the confidences, shape (B,)."""
    total_correct: jax.Array
    """How many are right, shape (B,); not an integer if equal confidences fall into two bins."""

    @property
    def confidence(self) -> jax.Array:
        """The mean confidence, shape (B,); NaN in an empty bin."""
        return self._mean(self.total_confidence)

    @property
    def accuracy(self) -> jax.Array:
        """The share that is right, shape (B,); NaN in an empty bin."""
        return self._mean(self.total_correct)

    @property
    def gap(self) -> jax.Array:
        """`|accuracy - confidence|`, shape (B,); 0 in an empty bin."""
        number = jnp.maximum(self.count, 1).astype(self.total_correct.dtype)
        return jnp.abs(self.total_correct - self.total_confidence) / number

    @property
    def ece(self) -> jax.Array:
        """The mean gap over predictions."""
        number = self.count.sum(-1).astype(self.total_correct.dtype)
        return jnp.abs(self.total_correct - self.total_confidence).sum(-1) / number

    @property
    def mce(self) -> jax.Array:
        """The largest gap; NaN without predictions."""
        return jnp.where(self.count.sum(-1) > 0, self.gap.max(-1), jnp.nan)

    def _mean(self, total: jax.Array) -> jax.Array:
        number = jnp.maximum(self.count, 1).astype(total.dtype)
        return jnp.where(self.count > 0, total / number, jnp.nan)


def equal_width_bins(
    confidence: jax.Array, correct: jax.Array, where: jax.Array | None, num_bins: int
) -> Reliability:
    """Bins of equal width over [0, 1]."""
    edges = jnp.asarray(np.linspace(0, 1, num_bins + 1)[1:-1], confidence.dtype)
    bins = jnp.searchsorted(edges, confidence, side="right").astype(jnp.int32)
    centers = jnp.asarray((np.arange(num_bins) + 0.5) / num_bins, confidence.dtype)
    right = correct.astype(confidence.dtype)
    bins = masked(where, bins, num_bins)
    return _totals(
        confidence, right, bins, _reduction.counts(bins, num_bins), centers, jnp.zeros_like(centers)
    )


def equal_mass_bins(
    confidence: jax.Array, correct: jax.Array, where: jax.Array | None, num_bins: int
) -> Reliability:
    """Bins that hold equally many predictions."""
    size = confidence.size
    unknown = masked(where, jnp.isnan(confidence)).any()
    # Entries that do not count are infinity, and come last.
    ordered, right = lax.sort(
        (masked(where, confidence, np.inf), correct.astype(jnp.int32)), is_stable=False
    )
    first, last = _reduction.ties(ordered)
    below = jnp.concatenate([jnp.zeros(1, jnp.int32), right.cumsum()])
    share = (below[last] - below[first]).astype(ordered.dtype) / (last - first).astype(
        ordered.dtype
    )
    # The bounds of the bins, as in numpy.array_split. The barrier keeps XLA from evaluating them,
    # and all that depends on them, while it compiles.
    each, more = jnp.divmod(lax.optimization_barrier(_reduction.number(where, size)), num_bins)
    number = jnp.arange(num_bins + 1, dtype=jnp.int32)
    bounds = number * each + jnp.minimum(number, more)
    bins = jnp.searchsorted(bounds[1:], lax.iota(jnp.int32, size), side="right").astype(jnp.int32)
    middle = jnp.minimum((bounds[1:] + bounds[:-1]) // 2, size - 1)
    found = _totals(ordered, share, bins, bounds[1:] - bounds[:-1], ordered[middle], share[middle])
    return jax.tree.map(
        lambda x: jnp.where(unknown, jnp.nan, x) if x.dtype == ordered.dtype else x, found
    )


def _totals(
    confidence: jax.Array,
    correct: jax.Array,
    bins: jax.Array,
    count: jax.Array,
    confidences: jax.Array,
    shares: jax.Array,
) -> Reliability:
    """The sums in each bin. They are formed from deviations from a typical value of the bin, which
    are small, so that rounding errors are.
    """
    num_bins = count.size

    def total(x: jax.Array, typical: jax.Array) -> jax.Array:
        typical = jnp.where(jnp.isfinite(typical), typical, 0)
        deviations = x - typical[jnp.minimum(bins, num_bins - 1)]
        return count.astype(x.dtype) * typical + _reduction.sums(deviations, bins, num_bins)

    sums = total(confidence, confidences)
    unknown = jnp.isnan(sums)
    return Reliability(count, sums, jnp.where(unknown, jnp.nan, total(correct, shares)))
