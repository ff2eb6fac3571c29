"""Scores and sets of classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _labels
from jaxdrop.mc._labels import Predictions
from jaxdrop.mc.conformal._regression import broadcast


@cites("sadinle2019least")
@_checks.hinted
def lac(probs: _inputs.ArrayLike) -> jax.Array:
    """`1 - p_c`: the score of each class c of the least ambiguous classifier.

    Its sets are the smallest on average, and may be empty. They cover easy inputs more often than
    hard ones.

    Args:
      probs: predictive probabilities, such as `Classification.mean`, shape (..., C).

    Returns:
      The scores of all classes, of the same shape.

    Raises:
      TypeError: not floating numbers.
      ValueError: not at least two classes, or they are negative or do not sum to 1 (under `jit`,
        where values are not known, their scores are NaN).

    References:
      Sadinle, Lei & Wasserman, "Least ambiguous set-valued classifiers with bounded error levels",
      JASA 114(525), 2019, arXiv:1609.00451.
    """
    return _lac(_probabilities("lac", probs))


@kernel("lac", checkpoint=False)
def _lac(probs: jax.Array) -> jax.Array:
    return 1 - _inputs.probable(probs)


@cites("romano2020classification")
@_checks.hinted
def aps(probs: _inputs.ArrayLike, key: jax.Array | None = None) -> jax.Array:
    """`sum of p_j over the classes j before c, + u p_c`, in decreasing order of probability: the
    score of each class c of adaptive prediction sets.

    With a key, u is uniform in [0, 1), one number for each input: scores do not tie, and sets are
    smaller, and may be empty. Without one, u is 1, nothing is random, and the least likely classes
    of different inputs tie at 1. Calibrate and predict in the same way, with different keys.

    Args:
      probs: as in `lac`.
      key: a single key, or None.

    Returns:
      The scores of all classes, of the shape of `probs`.

    Raises:
      TypeError: as `lac`, or `key` is not a key.
      ValueError: as `lac`.

    References:
      Romano, Sesia & Candès, "Classification with valid and adaptive coverage", NeurIPS 2020,
      arXiv:2006.02544.
    """
    checked = _probabilities("aps", probs)
    return adaptive(checked, _uniform("aps", key, checked), None, None)


@cites("angelopoulos2021uncertainty")
@_checks.hinted
def raps(
    probs: _inputs.ArrayLike, key: jax.Array | None = None, *, penalty: float, rank: int
) -> jax.Array:
    """As `aps`, plus `penalty max(0, r - rank)` for the class with the r-th largest probability:
    the scores of regularized adaptive prediction sets.

    The penalty keeps unlikely classes out, whose probabilities are noise: sets are smaller, the
    more so with many classes. Choose both on other data than the calibration set.

    Args:
      probs: as in `lac`.
      key: as in `aps`.
      penalty: at least 0; the authors try 0.001 to 0.5. May be traced.
      rank: the last rank without a penalty, at least 0: the size of set that is usually enough. May
        be traced.

    Returns:
      The scores of all classes, of the shape of `probs`.

    Raises:
      TypeError: as `aps`, or `penalty` and `rank` are not a number and an integer.
      ValueError: as `lac`, or `penalty` or `rank` is below 0.

    References:
      Angelopoulos, Bates, Jordan & Malik, "Uncertainty sets for image classifiers using conformal
      prediction", ICLR 2021, arXiv:2009.14193.
    """
    checked = _probabilities("raps", probs)
    weight = _checks.check_number(penalty, "penalty")
    _checks.check_one_rate(weight, "raps takes one penalty", "penalty")
    free = _checks.check_integer_or_array(rank, "rank")
    if not _inputs.holds(lambda x: x >= 0, free):
        raise ValueError(f"rank must be at least 0, got {_checks.quoted(free)}")
    return adaptive(
        checked,
        _uniform("raps", key, checked),
        jnp.asarray(weight, checked.dtype),
        jnp.asarray(free, jnp.int32),
    )


def _uniform(caller: str, key: jax.Array | None, probs: jax.Array) -> jax.Array | None:
    if key is None:
        return None
    typed = _checks.check_key(key, caller, call=f"{caller}(probs, key)")
    return jax.random.uniform(typed, probs.shape[:-1], probs.dtype)


@kernel("aps", checkpoint=False)
def adaptive(
    probs: jax.Array,
    uniform: jax.Array | None,
    penalty: jax.Array | None,
    rank: jax.Array | None,
) -> jax.Array:
    """`raps` of checked arguments, `uniform` being u; without a penalty `aps`."""
    probs = _inputs.probable(probs)
    order = jnp.argsort(probs, descending=True)
    ordered = jnp.take_along_axis(probs, order)
    scores = ordered.cumsum(-1)
    if uniform is not None:
        above = jnp.concatenate([jnp.zeros_like(scores[..., :1]), scores[..., :-1]], -1)
        scores = above + uniform[..., None] * ordered
    if penalty is not None:
        assert rank is not None
        number = np.arange(1, probs.shape[-1] + 1, dtype=np.int32)
        beyond = jnp.maximum(number - rank, 0).astype(probs.dtype) * penalty.astype(probs.dtype)
        scores = scores + jnp.broadcast_to(beyond, scores.shape)
    return jnp.take_along_axis(scores, jnp.argsort(order))


@_checks.hinted
def of_labels(
    labels: _inputs.ArrayLike,
    scores: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """`scores[y]`: the score of the label of each example, to be passed to `calibrate`.

    Args:
      labels: integers in [0, C), shape (...).
      scores: of all classes, shape (..., C), from `lac`, `aps` or `raps`.
      where: booleans, the labels that count, as in `mc.metrics`: `where=labels != 255`. Pass the
        same to `calibrate`.

    Returns:
      Shape (...), NaN where a label does not count.

    Raises:
      TypeError: labels are not integers, or scores not floating numbers.
      ValueError: shapes do not fit, or a label that counts is out of range (under `jit`, where
        values are not known, its score is NaN).
    """
    return _of_labels(
        _labels.predictions("of_labels", labels, scores, name="scores", binary=None, where=where)
    )


@kernel("of_labels", checkpoint=False)
def _of_labels(judged: Predictions) -> jax.Array:
    found = _labels.of_labels(judged)
    return found if judged.where is None else _inputs.nan_unless(judged.where, found)


@_checks.hinted
def sets(
    scores: _inputs.ArrayLike, threshold: _inputs.Number, *, allow_empty: bool = True
) -> jax.Array:
    """The classes whose score is at most the threshold.

        scores = mc.conformal.aps(calibration.mean, key)
        threshold = mc.conformal.calibrate(mc.conformal.of_labels(labels, scores), 0.9)
        sets = mc.conformal.sets(mc.conformal.aps(summary.mean, other_key), threshold)
        sizes = sets.sum(-1)

    Args:
      scores: of all classes, shape (..., C).
      threshold: of `calibrate`; one number, or a shape that broadcasts to (...).
      allow_empty: if False, the class with the least score is always a member, the first of equals.
        Coverage is then at least that of the sets.

    Returns:
      Booleans of shape (..., C). Under `jit`, where NaN cannot raise an error, a set whose scores
      or threshold are NaN has all classes.

    Raises:
      TypeError: scores are not floating numbers, or `allow_empty` is not a bool.
      ValueError: scores or threshold are NaN, or shapes do not fit.
    """
    given = _inputs.floating("sets", "scores", scores)
    if not given.ndim or not given.size:
        raise ValueError(f"sets takes scores of shape (..., C), got {given.shape}")
    if not _inputs.holds(lambda x: ~np.isnan(x), given):
        raise ValueError("sets takes scores without NaN: were there NaN in the probabilities?")
    level = _inputs.setting("sets", "threshold", threshold).astype(given.dtype)
    level = broadcast(level, given.shape[:-1], "inputs")
    return _sets(given, level, allow_empty=_checks.check_flag(allow_empty, "allow_empty"))


@kernel("sets", checkpoint=False)
def _sets(scores: jax.Array, threshold: jax.Array, *, allow_empty: bool) -> jax.Array:
    members = ~(scores > threshold[..., None])
    if allow_empty:
        return members
    return members | jax.nn.one_hot(scores.argmin(-1), scores.shape[-1], dtype=bool)


def _probabilities(caller: str, probs: _inputs.ArrayLike) -> jax.Array:
    given = _inputs.floating(caller, "probs", probs)
    if not given.ndim or not given.size or given.shape[-1] < 2:
        raise ValueError(
            f"{caller} takes probs of shape (..., C), with at least two classes and one input, got"
            f" shape {given.shape}"
        )
    _inputs.probabilities("probs", given)
    return given
