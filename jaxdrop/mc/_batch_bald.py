"""BatchBALD: batches of inputs whose labels together carry the most information."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr, logsumexp

from jaxdrop import _checks, _variates, random
from jaxdrop._references import cites
from jaxdrop.mc import _classification, _inputs, _pool, _probabilities
from jaxdrop.mc._reduction import reduction

# The log-probability that takes the place of smaller ones: its exponential is 0, and sums of it
# over a batch stay finite.
_LEAST = -1e4


@cites("kirsch2019batchbald")
class Batch(NamedTuple):
    """Inputs chosen one after the other."""

    indices: jax.Array
    """Which inputs, in the order of choice, shape (num,)."""
    scores: jax.Array
    """The information that each adds to the ones before it, in nats, shape (num,). Their sum is the
    score of the batch.
    """


@cites(Batch)
@_checks.hinted
def batch_bald(
    key: jax.Array | None,
    num: int,
    *,
    logits: _inputs.ArrayLike | None = None,
    probs: _inputs.ArrayLike | None = None,
    max_configurations: int = 10_000,
) -> Batch:
    """BatchBALD: inputs whose labels together carry the most information about the weights, `I(y_1,
    ..., y_num; w)`, chosen greedily.

    The next input is the one with the largest `I(y; w | y_1, ..., y_t) = E H[y | y_1, ..., y_t] -
    1/S sum_s H[p_s]`. The expectation is over the `C^t` configurations of the labels of the inputs
    chosen so far: exact up to `max_configurations` of them, and otherwise over as many that are
    drawn from their joint distribution. If it is exact, the score of the batch is at least 1 - 1/e
    times that of the best batch. With S samples no score exceeds log S nats.

    Args:
      key: a key to draw configurations with. May be None if all are looked at.
      num: how many inputs to choose.
      logits: shape (S, N, C). Sample s of all inputs is under the same weights: with masks that the
        inputs share.
      probs: in their place, probabilities.
      max_configurations: how many configurations of labels to look at. Time and memory grow with
        it.

    Returns:
      A `Batch`.

    Raises:
      TypeError: both or neither of `logits` and `probs` are given, or a number is not an integer.
      ValueError: `num` is not in [1, N], a key is needed and there is none, or an input has NaN
        (under `jit`, where values are not known, it is chosen last, with a score of NaN).

    References:
      Kirsch, van Amersfoort & Gal, "BatchBALD: efficient and diverse batch acquisition for deep
      Bayesian active learning", NeurIPS 2019, arXiv:1906.08158.
    """
    given, are_logits = _pool.checked("batch_bald", logits, probs)
    count = _pool.number("num", num, given.shape[1])
    most = _checks.check_count(max_configurations, "max_configurations")
    classes = given.shape[-1]
    if key is None and classes ** (count - 1) > most:
        raise ValueError(
            f"batch_bald looks at {classes}^{count - 1} configurations of labels, more than"
            f" max_configurations={most}. Pass a key, and it draws some of them."
        )
    key = None if key is None else _checks.check_key(key, "batch_bald")
    return _batch_bald(given, key, num=count, are_logits=are_logits, most=most)


@reduction("batch_bald")
def _batch_bald(
    given: jax.Array, key: jax.Array | None, *, num: int, are_logits: bool, most: int
) -> Batch:
    summary = _classification.summarize(given, are_logits=are_logits)
    log_probs = jnp.maximum(_probabilities.log_probabilities(given, are_logits), _LEAST)
    num_samples, num_inputs, num_classes = given.shape
    by_input = jnp.moveaxis(jnp.exp(log_probs), 1, 0)
    free = jnp.zeros(num_inputs, given.dtype)

    def choose(
        free: jax.Array, log_joint: jax.Array, share: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best of the free inputs, the information that it adds, and the inputs that are still
        free.

        `log_joint` holds `log p_s(configuration)`, shape (S, K), and `share` the weight of each
        configuration, shape (K,).
        """
        weights = jax.nn.softmax(
            log_joint, axis=0
        )  # the posterior of the samples, given the labels of a configuration

        def conditional_entropy(probs: jax.Array) -> jax.Array:
            mixed = jnp.einsum("sk,sc->kc", weights, probs, precision="highest")
            return (share * entr(mixed).sum(-1)).sum()

        at_once = _pool.at_once(share.size * num_classes, num_inputs)
        entropies = lax.map(conditional_entropy, by_input, batch_size=at_once)
        scores = jnp.maximum(entropies - summary.expected_entropy, 0)
        # What is unknown comes last: the largest of numbers with NaN is NaN, again and again.
        best = (jnp.where(jnp.isnan(scores), -1, scores) + free).argmax()
        return best, scores[best], free.at[best].set(-jnp.inf)

    chosen: list[jax.Array] = []
    scores: list[jax.Array] = []
    log_joint = jnp.zeros((num_samples, 1), given.dtype)
    while len(chosen) < num and log_joint.shape[1] <= most:
        share = jnp.exp(logsumexp(log_joint, axis=0)) / num_samples
        best, score, free = choose(free, log_joint, share)
        chosen.append(best)
        scores.append(score)
        log_joint = jnp.reshape(
            log_joint[:, :, None] + log_probs[:, best][:, None, :], (num_samples, -1)
        )
    indices, found = jnp.stack(chosen), jnp.stack(scores)
    if len(chosen) == num:
        return Batch(indices, found)

    assert key is not None
    source = (
        np.arange(-(-most // num_samples) * num_samples) % num_samples
    )  # the sample from which the next label of a configuration is drawn
    share = jnp.full(len(source), 1 / len(source), given.dtype)

    def label(log_joint: jax.Array, step: jax.Array | int, best: jax.Array) -> jax.Array:
        """The log joint with the label of one more input, which is drawn for each configuration
        from its sample.
        """
        uniform = _variates.uniform(
            random.bits(jax.random.fold_in(key, step), source.shape)
        ).astype(given.dtype)
        below = jnp.exp(log_probs[source, best]).cumsum(-1)
        drawn = (below <= uniform[:, None]).sum(-1)
        return log_joint + log_probs[:, best, jnp.minimum(drawn, num_classes - 1)]

    log_joint = jnp.zeros((num_samples, len(source)), given.dtype)
    for step, best in enumerate(chosen):
        log_joint = label(log_joint, step, best)

    def more(
        carry: tuple[jax.Array, jax.Array], step: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        free, log_joint = carry
        best, score, free = choose(free, log_joint, share)
        return (free, label(log_joint, step, best)), (best, score)

    _, (later, gained) = lax.scan(more, (free, log_joint), jnp.arange(len(chosen), num))
    return Batch(jnp.concatenate([indices, later]), jnp.concatenate([found, gained]))
