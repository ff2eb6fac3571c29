"""What the samples of a prediction say."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

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
      TypeError: integers, booleans or complex numbers.
      ValueError: fewer than two axes, or no samples.

    References:
      Houlsby, Huszar, Ghahramani & Lengyel, "Bayesian active learning for classification and preference learning", 2011,
      arXiv:1112.5745. Gal, "Uncertainty in deep learning", PhD thesis, Cambridge, 2016, section 3.3.
    """
    logits = _arguments.inexact(logits, "classification")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"classification takes real logits, got {logits.dtype}")
    if logits.ndim < 2 or logits.shape[0] == 0:
        raise ValueError(f"logits must have shape (S, ..., C) with at least one sample, got {tuple(logits.shape)}")
    log_probs = jax.nn.log_softmax(logits.astype(masks.wide(logits.dtype)), axis=-1)
    probs, possible = jnp.exp(log_probs), log_probs > -jnp.inf
    # A class that is ruled out gets a finite log-probability, since gradients at -inf are NaN.
    log_probs = jnp.where(possible, log_probs, jnp.finfo(log_probs.dtype).min / 4)
    log_mean = logsumexp(log_probs, axis=0) - np.log(logits.shape[0]).astype(log_probs.dtype)
    mean = jnp.exp(log_mean)
    ratio = jnp.where(possible, log_probs - jnp.expand_dims(log_mean, 0), jnp.zeros_like(probs))
    # KL(p_s || p) = sum p f(log(p_s / p)), where f is 0 at 0 and positive elsewhere: no large terms cancel.
    terms = jnp.where(possible, ratio * jnp.exp(ratio) - jnp.expm1(ratio), jnp.ones_like(probs))
    return Classification(
        mean=mean,
        predictive_entropy=-(mean * log_mean).sum(-1),
        expected_entropy=-(probs * log_probs).sum(-1).mean(0),
        mutual_information=jnp.maximum((jnp.expand_dims(mean, 0) * terms).sum(-1).mean(0), 0),
    )
