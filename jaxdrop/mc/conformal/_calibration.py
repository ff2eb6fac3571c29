"""Thresholds from the scores of calibration examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _labels, _reduction
from jaxdrop.mc._labels import group_numbers
from jaxdrop.mc._ranks import Share
from jaxdrop.mc._reduction import reduction


@cites("vovk2005algorithmic", "lei2018distribution")
@_checks.hinted
def calibrate(
    scores: _inputs.ArrayLike,
    coverage: _inputs.Number = 0.9,
    *,
    groups: _inputs.ArrayLike | None = None,
    num_groups: int | None = None,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The threshold that the score of a new example does not exceed with probability `coverage`.

    The `ceil((n + 1) coverage)`-th smallest of n scores. If the new example and the n examples are
    exchangeable, its score is at most the threshold with a probability of at least `coverage`, and,
    if scores do not tie, of at most `coverage + 1 / (n + 1)`. This holds on average over
    calibration sets. If n is smaller than `coverage / (1 - coverage)`, no score is large enough for
    the guarantee, and the threshold is infinite: intervals are infinite then, and sets hold all
    classes. A coverage of 0.9 takes 9 examples, 0.95 takes 19, 0.99 takes 99.

        scores = mc.conformal.residual_scores(y, summary.mean, summary.std)
        threshold = mc.conformal.calibrate(scores, 0.9)

    With `groups` each group has a threshold of its own, and the guarantee holds in each group
    (Mondrian): `by_group(thresholds, groups)` are those of new examples.

    Args:
      scores: a score of each example, shape (n, ...), larger where the prediction is worse. Each
        entry of "..." has a threshold of its own, such as each step of a forecast. For one
        threshold that holds for all of them together, pass their maximum, `scores.max(-1)`.
      coverage: in (0, 1); may be traced.
      groups: the group of each example, integers in [0, G), shape (n,).
      num_groups: G. By default, the largest of `groups` and one more. It must be known under `jit`.
      where: booleans that broadcast to `scores`, the scores that count.

    Returns:
      The threshold, shape (...); with `groups`, shape (G, ...).

    Raises:
      TypeError: scores are not real numbers, groups not integers, or `num_groups` is not given
        where groups are traced.
      ValueError: there are no scores, one that counts is NaN, a group is out of range, or
        `coverage` is not in (0, 1). Under `jit` the threshold is NaN then.

    References:
      Vovk, Gammerman & Shafer, "Algorithmic learning in a random world", 2005 (sections 2.2 and
      4.5). Lei, G'Sell, Rinaldo, Tibshirani & Wasserman, "Distribution-free predictive inference
      for regression", JASA 113(523), 2018, arXiv:1604.04173.
    """
    (checked,), selected = _inputs.entries("calibrate", where, scores=scores)
    if not checked.ndim:
        raise ValueError("calibrate takes scores of shape (n, ...), got a single number")
    share = Share.of("calibrate", "coverage", coverage)
    if groups is None:
        if num_groups is not None:
            raise TypeError("num_groups is the number of groups=..., which are not given")
        return _calibrate(checked, None, selected, share, num_groups=1).squeeze(0)
    given, count = group_numbers("calibrate", groups, checked.shape[:1], num_groups)
    return _calibrate(checked, given, selected, share, num_groups=count)


@reduction("calibrate")
def _calibrate(
    scores: jax.Array,
    groups: jax.Array | None,
    where: jax.Array | None,
    share: Share,
    *,
    num_groups: int,
) -> jax.Array:
    size = scores.shape[0]
    known = jnp.ones(size, bool)
    if groups is None:
        groups = jnp.zeros(size, jnp.int32)
    else:
        groups, known = _labels.valid(groups, num_groups)

    def one(scores: jax.Array, counts: jax.Array) -> jax.Array:
        # What does not count makes a last group.
        of, ordered = lax.sort((jnp.where(counts, groups, num_groups), scores), num_keys=2)
        number = _reduction.counts(of, num_groups)
        rank = share.of_count(number + 1)
        start = number.cumsum() - number
        found = ordered[jnp.minimum(start + rank - 1, size - 1)]
        # NaN is the last of its group.
        last = ordered[jnp.maximum(start + number - 1, 0)]
        unknown = (number > 0) & jnp.isnan(last)
        threshold = jnp.where(rank <= number, found, jnp.inf)
        impossible = (counts & ~known).any() | jnp.isnan(share.rest)
        return jnp.where(unknown | impossible, jnp.nan, threshold)

    columns = scores.reshape(size, -1)
    counts = jnp.ones_like(columns, bool) if where is None else where.reshape(size, -1)
    found = jax.vmap(one, in_axes=1, out_axes=1)(columns, counts)
    return found.reshape(num_groups, *scores.shape[1:])


@_checks.hinted
def by_group(thresholds: _inputs.ArrayLike, groups: _inputs.ArrayLike) -> jax.Array:
    """The threshold of the group of each example, `thresholds[groups]`, with a check of the groups.

    Args:
      thresholds: shape (G, ...), of `calibrate(scores, coverage, groups=..., num_groups=G)`. A
        group without calibration examples has an infinite one.
      groups: integers in [0, G), any shape.

    Returns:
      The shape of `groups`, followed by "...".

    Raises:
      TypeError: thresholds are not real numbers, or groups not integers.
      ValueError: a group is out of range (under `jit`, where values are not known, its threshold is
        NaN), or thresholds have no axis.
    """
    (values,) = _inputs.reals("by_group", thresholds=thresholds)
    if not values.ndim or not values.size:
        raise ValueError(f"by_group takes thresholds of shape (G, ...), got {values.shape}")
    given = _inputs.array(groups, "by_group", "groups of integers")
    numbers, _ = group_numbers("by_group", groups, given.shape, values.shape[0])
    valid, inside = _labels.valid(numbers, values.shape[0])
    along = jnp.reshape(inside, (*inside.shape, *[1] * (values.ndim - 1)))
    return _inputs.nan_unless(along, values[valid])
