"""Scores of whole sequences, for language models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs


@_checks.hinted
def sequence_scores(
    log_probs: _inputs.ArrayLike, mask: _inputs.ArrayLike | None = None, *, per_token: bool = False
) -> jax.Array:
    """`log p(y) = sum_t log p(y_t | y_<t)` of sequences, in nats, from the log-probabilities of
    their tokens.

    Args:
      log_probs: shape (..., T), the log-probabilities of the observed tokens. Entries where `mask`
        is false are ignored, NaN and -inf included.
      mask: booleans that broadcast to this shape, true for tokens that count; all by default.
      per_token: whether to return the mean over the tokens that count, 0 if there is no such token,
        in place of the sum. Combine samples with `log_mean_exp` of the sums, and divide afterwards:
        the mean over samples is one of probabilities of whole sequences.

    Returns:
      Shape (...).

    Raises:
      TypeError: `log_probs` are not floating, or `mask` is not boolean.
      ValueError: no axis of tokens, or a mask that does not fit.
    """
    log_probs = _inputs.floating("sequence_scores", "log_probs", log_probs)
    if not log_probs.ndim:
        raise ValueError("log_probs must have an axis of tokens, shape (..., T), got a number")
    given: Any = True if mask is None else mask
    mask = _inputs.array(given, "sequence_scores", "mask of booleans")
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"mask must be boolean, true for tokens that count, got {mask.dtype}. Compare ids, as"
            " in ids != padding."
        )
    try:
        mask = jnp.broadcast_to(mask, log_probs.shape)
    except ValueError:
        raise ValueError(
            f"mask of shape {mask.shape} does not broadcast to that of log_probs, {log_probs.shape}"
        ) from None
    return _sequence_scores(log_probs, mask, per_token=_checks.check_flag(per_token, "per_token"))


@kernel("sequence_scores", checkpoint=False)
def _sequence_scores(log_probs: jax.Array, mask: jax.Array, *, per_token: bool) -> jax.Array:
    total = jnp.where(mask, log_probs, 0).sum(-1)
    return total / jnp.maximum(mask.sum(-1), 1).astype(total.dtype) if per_token else total


@cites("malinin2021uncertainty")
@_checks.hinted
def log_mean_exp(scores: _inputs.ArrayLike) -> jax.Array:
    """`log 1/S sum_s exp(score_s)`: the log of the mean probability, from log-probabilities of S
    samples.

    For a language model it is the log-probability of a sequence under the predictive mean. The mean
    of the scores, which is in use too (a product of experts without its normalization), is never
    larger: say which of the two you report.

    Args:
      scores: shape (S, ...), such as `sequence_scores(log_probs, mask)`.

    Returns:
      Shape (...).

    Raises:
      TypeError: not floating numbers.
      ValueError: no samples.

    References:
      Malinin & Gales, "Uncertainty estimation in autoregressive structured prediction", ICLR 2021,
      arXiv:2002.07650.
    """
    return _log_mean_exp(_inputs.samples("log_mean_exp", "scores", scores))


@kernel("log_mean_exp", checkpoint=False)
def _log_mean_exp(scores: jax.Array) -> jax.Array:
    return logsumexp(scores, axis=0) - np.log(scores.shape[0]).astype(scores.dtype)
