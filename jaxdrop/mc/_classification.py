"""The summary of a classifier's samples: predictive probabilities and their uncertainty."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _describe, _groups, _inputs, _merging
from jaxdrop.mc._probabilities import (
    checked,
    divergence,
    entropy,
    finite,
    log_probabilities,
    with_infinities,
)


@cites("houlsby2011bayesian", "gal2016uncertainty")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Classification(_groups.Grouped):
    """A classifier's prediction from S samples `p_s` of its C probabilities, and how uncertain it
    is, in nats.

    `p = 1/S sum_s p_s` and `H` is the entropy. "(...)" is the shape of the batch. A binary output
    has two classes, "no" and "yes": C = 2, and `probability` is that of "yes". If a sample of an
    input is NaN, all fields are NaN for this input.
    """

    num_samples: jax.Array
    """S, an integer scalar."""
    log_mean: jax.Array
    """`log p`, shape (..., C)."""
    variance: jax.Array
    """The variance of `p_s` over the samples (of the population: divided by S), shape (..., C)."""
    votes: jax.Array
    """The number of samples in which each class is the most probable, the first one of equals;
    integers, shape (..., C).
    """
    expected_entropy: jax.Array
    """`1/S sum_s H[p_s]`: the uncertainty under known weights (aleatoric), shape (...)."""
    mutual_information: jax.Array
    """`H[p] - 1/S sum_s H[p_s]`: the uncertainty about the weights (epistemic; BALD), shape (...);
    at least 0.
    """
    mean_residual: jax.Array
    """The rounding error of `mean`: the sum of the two has twice the digits, so that summaries
    merge without loss.
    """
    num_groups: jax.Array | None = None
    """How many groups of samples are independent of each other; None if each sample is."""
    group_variance: jax.Array | None = None
    """The variance of the groups' means of `p_s`, shape (..., C); None if each sample is a group.
    """

    @property
    def mean(self) -> jax.Array:
        """The predictive probabilities `p`, shape (..., C)."""
        return jnp.exp(self.log_mean)

    @property
    def probability(self) -> jax.Array:
        """The probability of "yes", `p` of the second of two classes, shape (...).

        Raises:
          ValueError: there are not two classes.
        """
        if self.log_mean.shape[-1] != 2:
            raise ValueError(
                "probability is that of the second of two classes, but there are"
                f" {self.log_mean.shape[-1]}: see mean"
            )
        return self.mean[..., 1]

    @property
    def std(self) -> jax.Array:
        """The standard deviation of `p_s` over the samples, the root of `variance`, shape (...,
        C).
        """
        return jnp.sqrt(self.variance)

    @property
    def predictive_entropy(self) -> jax.Array:
        """`H[p]`: the whole uncertainty, shape (...)."""
        return entropy(self.log_mean)

    @property
    def least_confidence(self) -> jax.Array:
        """`1 - max_c p_c`, shape (...)."""
        return 1 - self.mean.max(-1)

    @property
    def variation_ratio(self) -> jax.Array:
        """The share of samples that do not vote for the class with most votes, shape (...)."""
        most = self.votes.max(-1)
        return self._counted(1 - most.astype(self.variance.dtype) / self._count(most))

    @property
    def disagreement(self) -> jax.Array:
        """The probability that two different samples vote for different classes, shape (...); NaN
        if there is one sample.
        """
        votes = self.votes.astype(self.variance.dtype)
        agreeing = (votes * (votes - 1)).sum(-1)
        count = self._count(agreeing)
        return self._counted(1 - agreeing / (count * (count - 1)))

    @_checks.hinted
    def merge(self, other: Classification) -> Classification:
        """The summary of these samples and of `other` ones of the same inputs, together.

        Exact up to rounding, so that samples may be summarized in groups. With shares `a` and `b`
        of the samples, the mutual information is `a I_a + b I_b + a KL(p_a || p) + b KL(p_b || p)`.

        Raises:
          TypeError: `other` is not a `Classification`.
          ValueError: it is of other inputs: a shape or a dtype differs. Or it is `self`.
        """
        first, second = _groups.alike(self, other)
        return _merge(first, second)

    def _spread(self) -> jax.Array:
        return self.variance

    def _counted(self, share: jax.Array) -> jax.Array:
        """A share of votes, with NaN for inputs whose samples hold NaN: these have no vote."""
        return jnp.where(jnp.isnan(self.log_mean).any(-1), jnp.nan, share)

    def _count(self, like: jax.Array) -> jax.Array:
        return _merging.along(self.num_samples, like).astype(self.variance.dtype)

    def __repr__(self) -> str:
        return _describe.line(self, self._shape, self._told)

    def _shape(self) -> str:
        *batch, classes = self.log_mean.shape
        return f"batch {tuple(batch)}, {classes} classes" if batch else f"{classes} classes"

    def _told(self) -> dict[str, Any]:
        expected, information = (
            _describe.known(self.expected_entropy),
            _describe.known(self.mutual_information),
        )
        return {"entropy": expected + information, "mutual information": information}


@cites(Classification)
@_checks.hinted
def classification(
    *,
    logits: _inputs.ArrayLike | None = None,
    probs: _inputs.ArrayLike | None = None,
    binary: bool | None = None,
    groups: int | None = None,
) -> Classification:
    """Predictive probabilities and their uncertainty, from the logits or the probabilities of S
    samples.

    With `p_s = softmax(logits_s)` and `p = 1/S sum_s p_s`: the predictive entropy `H[p]`, the
    expected entropy `1/S sum_s H[p_s]`, and the mutual information between prediction and weights,
    their difference. The difference is formed as `1/S sum_s KL(p_s || p)`, which keeps its digits
    where the samples agree.

        keys = mc.keys(key, 100, groups=5)
        summary = mc.classification(logits=mc.predict(lambda key: fn(key, x), keys), groups=5)

    Binary and multi-label outputs, from sigmoids, have one number for each of "..." in place of C;
    with `binary=True` each of them is a classification of its own, of the two classes "no" and
    "yes".

    Args:
      logits: shape (S, ..., C), unnormalized log-probabilities: samples first, classes last. A
        logit of -inf rules a class out.
      probs: in their place, probabilities of the same shape.
      binary: True for outputs of shape (S, ...), such as (S, N), or (S, N, L) for L labels: logits
        of "yes", or its probabilities. False for classes along the last axis; to be said for two
        axes, (S, C), which could be either.
      groups: how many groups of samples, equal in size and one after the other, are independent of
        each other: that of `mc.keys(key, S, groups=groups)`. By default, each sample. It matters
        for `standard_error` only.

    Returns:
      A `Classification`, of arrays of shape (...) and (..., C).

    Raises:
      TypeError: both or neither are given, or they are not real floating numbers.
      ValueError: no samples, one class, two axes without `binary`, `probs` that are negative or do
        not sum to 1 (under `jit`, where values are not known, what they belong to becomes NaN), or
        `groups` that do not divide the samples.

    References:
      Houlsby, Huszár, Ghahramani & Lengyel, "Bayesian active learning for classification and
      preference learning", 2011, arXiv:1112.5745. Gal, "Uncertainty in deep learning", PhD thesis,
      Cambridge, 2016, section 3.3.
    """
    given, are_logits = checked("classification", logits, probs, binary)
    return summarize(
        given, are_logits=are_logits, groups=_groups.check_optional(groups, given.shape[0])
    )


@kernel("classification", checkpoint=False)
def summarize(given: jax.Array, *, are_logits: bool, groups: int | None = None) -> Classification:
    """`classification` of checked samples."""
    log_probs = log_probabilities(given, are_logits)
    log_mean = logsumexp(finite(log_probs), axis=0) - np.log(given.shape[0]).astype(given.dtype)
    probs = jnp.exp(log_probs) if are_logits else _inputs.probable(given)
    # Derivatives pass through `log_mean` only, not through its rounding error.
    apart = probs - lax.stop_gradient(jnp.exp(with_infinities(log_mean)))[None]
    residual = apart.mean(0)
    apart = apart - residual[None]
    num_groups, group_variance = (None, None) if groups is None else _groups.of(apart, groups)
    vote = jnp.where(jnp.isnan(log_probs).any(-1), -1, given.argmax(-1))
    return Classification(
        num_samples=jnp.int32(given.shape[0]),
        log_mean=with_infinities(log_mean),
        variance=(apart**2).mean(0),
        votes=jax.nn.one_hot(vote, given.shape[-1], dtype=jnp.int32).sum(0),
        expected_entropy=entropy(log_probs).mean(0),
        mutual_information=divergence(log_probs, log_mean).mean(0),
        mean_residual=lax.stop_gradient(residual),
        num_groups=num_groups,
        group_variance=group_variance,
    )


@kernel("merge", checkpoint=False)
def _merge(first: Classification, second: Classification) -> Classification:
    shares = _merging.shares(first.num_samples, second.num_samples, first.variance.dtype)
    parts, weights = jnp.stack([finite(first.log_mean), finite(second.log_mean)]), jnp.stack(shares)
    log_mean = logsumexp(parts + jnp.log(_merging.along(weights, parts)), axis=0)
    divergences = divergence(parts, log_mean)
    gap = (second.mean - first.mean) + (second.mean_residual - first.mean_residual)
    residual = (first.mean - jnp.exp(with_infinities(log_mean))) + (
        first.mean_residual + _merging.along(shares.second, gap) * gap
    )
    num_groups, group_variance = _groups.merge(shares, first, second, gap)
    return Classification(
        num_samples=first.num_samples + second.num_samples,
        log_mean=with_infinities(log_mean),
        variance=shares.variance(first.variance, second.variance, gap),
        votes=first.votes + second.votes,
        expected_entropy=shares.mean(first.expected_entropy, second.expected_entropy),
        mutual_information=shares.mean(first.mutual_information, second.mutual_information)
        + shares.mean(*divergences),
        mean_residual=residual,
        num_groups=num_groups,
        group_variance=group_variance,
    )
