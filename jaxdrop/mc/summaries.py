"""What the samples of a prediction say."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, logsumexp

from jaxdrop import masks
from jaxdrop.functional import _arguments


class Classification(NamedTuple):
    """A classifier's Monte Carlo prediction. Entropies are in nats, of the inputs' batch shape; `mean` has a class axis more."""

    mean: jax.Array
    """The predictive probabilities `p = 1/S sum_s p_s`."""
    predictive_entropy: jax.Array
    """`H[p]`: the whole uncertainty."""
    expected_entropy: jax.Array
    """`1/S sum_s H[p_s]`: what remains when the weights are known (aleatoric)."""
    mutual_information: jax.Array
    """`H[p] - 1/S sum_s H[p_s]`: what the weights do not agree on (epistemic); at least 0."""


def classification(logits: jax.Array) -> Classification:
    """Predictive probabilities and their uncertainty, from the logits of S samples.

    With `p_s = softmax(logits_s)` and `p = 1/S sum_s p_s`: the predictive entropy `H[p]`, the expected entropy
    `1/S sum_s H[p_s]`, and the mutual information between prediction and weights, their difference. The difference is formed as
    `1/S sum_s KL(p_s || p)`, which keeps its digits where the samples agree.

    Args:
      logits: shape (S, ..., C), unnormalised log-probabilities: samples first, classes last. A logit of -inf rules a class out.

    Returns:
      A `Classification`.

    Raises:
      TypeError: integers or booleans.
      ValueError: fewer than two axes, or no samples.

    References:
      Houlsby, Huszar, Ghahramani & Lengyel, "Bayesian active learning for classification and preference learning", 2011,
      arXiv:1112.5745. Gal, "Uncertainty in deep learning", PhD thesis, Cambridge, 2016, section 3.3.
    """
    logits = _arguments.inexact(logits, "classification")
    if logits.ndim < 2 or logits.shape[0] == 0:
        raise ValueError(f"logits must have shape (S, ..., C) with at least one sample, got {tuple(logits.shape)}")
    log_probs = jax.nn.log_softmax(logits.astype(masks.wide(logits.dtype)), axis=-1)
    log_mean = logsumexp(log_probs, axis=0) - jnp.log(jnp.asarray(logits.shape[0], log_probs.dtype))
    probs, mean = jnp.exp(log_probs), jnp.exp(log_mean)
    gap = jnp.where(probs > 0, log_probs - jnp.expand_dims(log_mean, 0), jnp.zeros_like(probs))
    return Classification(
        mean=mean,
        predictive_entropy=entr(mean).sum(-1),
        expected_entropy=entr(probs).sum(-1).mean(0),
        mutual_information=jnp.maximum((probs * gap).sum(-1).mean(0), 0),
    )
