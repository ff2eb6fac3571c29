"""Selective prediction with a bound on the error rate of what is accepted."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _binomial, _inputs, _reduction
from jaxdrop.mc._reduction import masked, reduction


@cites("geifman2017selective", "angelopoulos2021learn")
class Selection(NamedTuple):
    """Which predictions to accept, so that few of them are wrong."""

    threshold: jax.Array
    """Accept an input whose uncertainty is below it, a scalar. Infinity accepts all, minus infinity
    none: the examples are too few, or too many of them are wrong.
    """
    coverage: jax.Array
    """The share of the examples that it accepts, a scalar."""
    risk: jax.Array
    """The error rate of those that it accepts, a scalar; 0 if it accepts none."""


@cites(Selection)
@_checks.hinted
def selective(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    risk: _inputs.Number,
    *,
    confidence: _inputs.Number = 0.95,
    num_candidates: int = 20,
    thresholds: _inputs.ArrayLike | None = None,
    where: _inputs.ArrayLike | None = None,
) -> Selection:
    """The largest threshold of the uncertainty below which predictions are wrong at a rate of at
    most `risk`, with probability `confidence`.

    With probability `confidence` over the n examples, new inputs whose uncertainty is below the
    threshold have an error rate of at most `risk`. Nothing is assumed of the uncertainty. A useless
    one gives a threshold that accepts all or nothing.

    M thresholds are tested: those below which a number of the examples lie that depends on n only,
    and infinity. Given the threshold, errors below it are a binomial sample, so that `P(Bin(k,
    risk) <= e)` is a p-value for k examples with e errors. (In other words: the Clopper-Pearson
    bound of the error rate is at most `risk`.) It must be at most `(1 - confidence) / M`, so that
    the probability that any of the M tests is wrong is at most `1 - confidence`.

    With `thresholds`, these are tested one after the other, until one fails, and each may use the
    whole `1 - confidence` (fixed-sequence testing). This finds larger thresholds from the same
    examples, if the first one accepts enough of them: 0 errors in `log(1 - confidence) / log(1 -
    risk)`, 59 for a risk of 0.05 and a confidence of 0.95, are the least evidence.

        errors = summary.mean.argmax(-1) != labels
        found = mc.conformal.selective(errors, summary.predictive_entropy, risk=0.02)
        accepted = new.predictive_entropy < found.threshold

    Args:
      errors: whether each prediction is wrong, booleans or numbers 0 and 1; any shape.
      uncertainty: of the same shape; larger is less certain.
      risk: the error rate to stay below, in (0, 1); may be traced.
      confidence: in (0, 1); may be traced.
      num_candidates: M, at least 1. More are finer, and each of them needs more evidence. Not used
        with `thresholds`.
      thresholds: shape (M,), in increasing order, chosen without these examples: quantiles of the
        uncertainty of other inputs, whose labels are not needed, or `np.linspace(0.3, 0.9, 13)`.
      where: booleans, the examples that count, as in `mc.metrics`.

    Returns:
      A `Selection`.

    Raises:
      TypeError: not real numbers, or `num_candidates` is not an integer.
      ValueError: shapes differ or are empty, an entry that counts is NaN, an error is neither 0 nor
        1, or a number is out of range. Under `jit` the result is NaN then.

    References:
      Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017,
      arXiv:1705.08500. Angelopoulos, Bates, Candès, Jordan & Lei, "Learn then test: calibrating
      predictive algorithms to achieve risk control", 2021, arXiv:2110.01052.
    """
    (wrong, doubt), selected = _inputs.judged("selective", where, errors, uncertainty)
    if not _inputs.holds(lambda x: (x == 0) | (x == 1), wrong, selected):
        raise ValueError(
            "errors must be 0 or 1, or booleans, such as summary.mean.argmax(-1) != labels, got"
            f" {_inputs.range_of(wrong)}"
        )
    levels = []
    for name, value in (("risk", risk), ("confidence", confidence)):
        level = _inputs.single("selective", name, value)
        _inputs.fraction(name, level)
        level = level.astype(wrong.dtype)
        levels.append(_inputs.nan_unless((level > 0) & (level < 1), level))
    count = _checks.check_count(num_candidates, "num_candidates")
    tested = None
    if thresholds is not None:
        tested = _inputs.reals("selective", thresholds=thresholds)[0].astype(wrong.dtype)
        if tested.ndim != 1 or not tested.size:
            raise ValueError(f"thresholds must have shape (M,), got {tested.shape}")
        if not _inputs.holds(lambda x: np.append(x[1:] > x[:-1], True), tested):
            raise ValueError("thresholds must increase, and hold no NaN")
    return _selective([wrong, doubt], tested, selected, *levels, num_candidates=count)


class _Examples(NamedTuple):
    """The examples in order of uncertainty; those that do not count come last."""

    apart: jax.Array
    uncertainty: jax.Array
    errors_before: jax.Array
    """How many of the first j are wrong, for j = 0, ..., n."""
    number: jax.Array
    """How many count."""


@reduction("selective")
def _selective(
    arrays: list[jax.Array],
    thresholds: jax.Array | None,
    where: jax.Array | None,
    risk: jax.Array,
    confidence: jax.Array,
    *,
    num_candidates: int,
) -> Selection:
    errors, uncertainty = arrays
    dtype = errors.dtype
    known = ((errors == 0) | (errors == 1)) & ~jnp.isnan(uncertainty)
    impossible = ~masked(where, known, fill=True).all() | jnp.isnan(risk) | jnp.isnan(confidence)
    counts = jnp.ones(errors.size, bool) if where is None else where.ravel()
    apart, ordered, wrong = lax.sort(
        (~counts, masked(where, uncertainty, np.inf).ravel(), masked(where, errors).ravel()),
        num_keys=2,
    )
    below = jnp.concatenate([jnp.zeros(1, jnp.int32), wrong.astype(jnp.int32).cumsum()])
    examples = _Examples(apart, ordered, below, _reduction.number(where, errors.size))
    in_sequence = thresholds is not None
    if thresholds is None:
        level = (1 - confidence) / num_candidates
        thresholds, accepted = _candidates(
            examples, jnp.log(level) / jnp.log1p(-risk), num_candidates
        )
    else:
        level = 1 - confidence
        accepted = jnp.minimum(jnp.searchsorted(ordered, thresholds), examples.number)
        accepted = accepted.astype(jnp.int32)
        impossible = impossible | ~(thresholds[1:] > thresholds[:-1]).all()
    failed = below[accepted]
    tail = _binomial.lower_tail(failed, jnp.maximum(accepted, 1), risk)
    passed = (accepted > 0) & (tail <= level)
    if in_sequence:
        passed = jnp.cumprod(passed.astype(jnp.int32)) == 1
    best = jnp.where(passed, accepted, 0).argmax()
    chosen, mistakes = accepted[best].astype(dtype), failed[best].astype(dtype)
    share = chosen / jnp.maximum(examples.number, 1).astype(dtype)
    found = thresholds[best], share, mistakes / jnp.maximum(chosen, 1)
    nothing = -jnp.inf, 0, 0
    return Selection(
        *(
            jnp.where(impossible, jnp.nan, jnp.where(passed.any(), some, none))
            for some, none in zip(found, nothing, strict=True)
        )
    )


def _candidates(examples: _Examples, least: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Thresholds, the last one infinite, and how many examples lie below each. With fewer than
    `least`, no number of errors is few enough.
    """
    size = examples.uncertainty.size
    first = jnp.minimum(jnp.ceil(least).astype(jnp.int32), examples.number)
    steps = jnp.asarray(np.arange(1, num + 1) / num, least.dtype)
    between = (examples.number - first).astype(least.dtype) * steps
    ranks = jnp.minimum(first + jnp.floor(between).astype(jnp.int32), examples.number)
    everything = (ranks == examples.number) | (np.arange(num) == num - 1)
    at = jnp.minimum(ranks, size - 1)
    start, _ = _reduction.ties(examples.apart, examples.uncertainty)
    return (
        jnp.where(everything, jnp.inf, examples.uncertainty[at]),
        jnp.where(everything, examples.number, start[at]),
    )
