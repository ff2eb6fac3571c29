"""Selective prediction: the error that remains when the least certain predictions are left out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _reduction
from jaxdrop.mc._ranks import Share
from jaxdrop.mc._reduction import masked, reduction


@cites("elyaniv2010foundations", "geifman2019bias")
class RiskCoverage(NamedTuple):
    """The mean error of the k most certain of n predictions, for k = 1, ..., n."""

    coverage: jax.Array
    """`k/n`, shape (n,). If only m of the n count, `k/m`, and 1 beyond m."""
    risk: jax.Array
    """The mean error of the k most certain, shape (n,); beyond m, that of all that count."""

    @property
    def aurc(self) -> jax.Array:
        """The area under the curve, as the mean of the risks."""
        return area(self.risk, self.coverage)

    @property
    def augrc(self) -> jax.Array:
        """The area under the generalized risk, `coverage * risk`, by trapezoids from 0 on."""
        return _generalized_area(self.risk, self.coverage)


@reduction("area")
def area(height: jax.Array, coverage: jax.Array) -> jax.Array:
    """`1/n sum_k height_k`, by the widths between coverages, which are 0 for entries that do not
    count. Rounding errors of the coverages cancel in the sum.
    """
    return height.size * _reduction.mean(
        height * jnp.diff(coverage, prepend=jnp.zeros(1, coverage.dtype))
    )


@reduction("generalized_area")
def _generalized_area(risk: jax.Array, coverage: jax.Array) -> jax.Array:
    wrong = risk * coverage
    before = jnp.concatenate([jnp.zeros(1, wrong.dtype), wrong[:-1]])
    return area((before + wrong) / 2, coverage)


@cites(RiskCoverage)
@_checks.hinted
def risk_coverage(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> RiskCoverage:
    """The risk-coverage curve: `risk(k/n)` is the mean error of the k predictions with the least
    uncertainty.

    For predictions of equal uncertainty the curve is the expectation over their random order, so it
    does not depend on the order of the data.

    Args:
      errors: a loss of each prediction: `predicted != labels`, squared errors, ...; any shape with
        n entries.
      uncertainty: of the same shape; larger is less certain.
      where: booleans, the predictions that count, as in `mc.metrics`.

    Returns:
      A `RiskCoverage`.

    Raises:
      TypeError: not real numbers, or `uncertainty` holds booleans.
      ValueError: shapes differ or are empty, or an entry that counts is NaN.

    References:
      El-Yaniv & Wiener, "On the foundations of noise-free selective classification", JMLR 11, 2010.
      Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers",
      ICLR 2019, arXiv:1805.08206.
    """
    return _risk_coverage(*_inputs.judged("risk_coverage", where, errors, uncertainty))


@_checks.hinted
def aurc(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The area under the risk-coverage curve, `1/n sum_k risk(k/n)`; less is better.

    The mean over k = 1, ..., n of Geifman et al., not a trapezoid. Args, Raises and References are
    those of `risk_coverage`.
    """
    return _risk_coverage(*_inputs.judged("aurc", where, errors, uncertainty)).aurc


@cites("traub2024overcoming")
@_checks.hinted
def augrc(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The area under the generalized risk-coverage curve, `integral of coverage * risk(coverage)`;
    less is better.

    The generalized risk is the probability that a prediction is wrong and accepted. The area is its
    mean over coverages, so that no error counts more because it comes early. In terms of the
    accuracy a and the AUROC of failure detection it is `(1 - AUROC) a (1 - a) + (1 - a)^2 / 2`.
    Args, Raises and ties are those of `risk_coverage`.

    References:
      Traub, Bungert, Lüth, Baumgartner, Maier-Hein, Maier-Hein & Jäger, "Overcoming common flaws in
      the evaluation of selective classification systems", NeurIPS 2024, arXiv:2407.01032.
    """
    return _risk_coverage(*_inputs.judged("augrc", where, errors, uncertainty)).augrc


@_checks.hinted
def coverage_at_risk(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    risk: _inputs.Number,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The largest coverage at which the risk is at most `risk`; 0 if there is none.

    It is what happened to be so for these data. `mc.conformal.selective` gives a threshold with a
    guarantee for others.

    Args:
      errors: as in `risk_coverage`.
      uncertainty: as in `risk_coverage`.
      risk: the mean error to stay below, a number; in [0, 1] if errors are 0 or 1.
      where: as in `risk_coverage`.

    Returns:
      A scalar array in [0, 1].

    Raises:
      TypeError, ValueError: as `risk_coverage`, or `risk` is not a number.
    """
    arrays, selected = _inputs.judged("coverage_at_risk", where, errors, uncertainty)
    level = _inputs.setting("coverage_at_risk", "risk", risk)
    if level.ndim or not _inputs.holds(lambda x: ~np.isnan(x), level):
        raise ValueError(f"risk must be a number, got {_checks.quoted(risk)}")
    return _coverage_at_risk(arrays, selected, level)


@reduction("coverage_at_risk")
def _coverage_at_risk(
    arrays: list[jax.Array], where: jax.Array | None, level: jax.Array
) -> jax.Array:
    errors, uncertainty = arrays
    found, level = curve(errors, uncertainty, where), level.astype(errors.dtype)
    # A mean of floats may exceed by rounding what it is in exact arithmetic.
    slack = 4 * jnp.finfo(level.dtype).eps * jnp.abs(level)
    largest = jnp.where(found.risk <= level + slack, found.coverage, 0).max()
    return jnp.where(jnp.isnan(found.risk).any() | jnp.isnan(level), jnp.nan, largest)


@_checks.hinted
def risk_at_coverage(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    coverage: _inputs.Number,
    *,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The mean error of the `ceil(coverage n)` most certain of n predictions.

    Args:
      errors: as in `risk_coverage`.
      uncertainty: as in `risk_coverage`.
      coverage: the share of predictions to keep, in (0, 1].
      where: as in `risk_coverage`.

    Returns:
      A scalar array.

    Raises:
      TypeError, ValueError: as `risk_coverage`, or `coverage` is not in (0, 1].
    """
    arrays, selected = _inputs.judged("risk_at_coverage", where, errors, uncertainty)
    share = Share.of("risk_at_coverage", "coverage", coverage, whole=True)
    return _risk_at_coverage(arrays, selected, share)


@reduction("risk_at_coverage")
def _risk_at_coverage(arrays: list[jax.Array], where: jax.Array | None, share: Share) -> jax.Array:
    errors, uncertainty = arrays
    rank = share.of_count(_reduction.number(where, errors.size))
    found = curve(errors, uncertainty, where).risk[rank - 1]
    return jnp.where(jnp.isnan(share.rest), jnp.nan, found)


@reduction("risk_coverage")
def _risk_coverage(arrays: list[jax.Array], where: jax.Array | None) -> RiskCoverage:
    return curve(arrays[0], arrays[1], where)


def curve(errors: jax.Array, uncertainty: jax.Array, where: jax.Array | None) -> RiskCoverage:
    """The curve of checked arrays."""
    unknown = masked(where, jnp.isnan(errors) | jnp.isnan(uncertainty)).any()
    errors, uncertainty = (masked(where, x).ravel() for x in (errors, uncertainty))
    size = errors.size
    # Entries that do not count come last.
    keys = [uncertainty] if where is None else [~where.ravel(), uncertainty]
    *keys, errors = lax.sort((*keys, errors), num_keys=len(keys), is_stable=False)
    first, last = _reduction.ties(*keys)
    below = jnp.concatenate([jnp.zeros(1, errors.dtype), _reduction.cumulative(errors)])
    # Each of several equally uncertain predictions counts with their mean error.
    lower, upper = below[first], below[last]
    rank = lax.iota(jnp.int32, size) + 1
    part = (rank - first).astype(errors.dtype) / (last - first).astype(errors.dtype)
    sums = jnp.where(lower == upper, upper, lower + part * (upper - lower))
    number = _reduction.number(where, size)
    count = jnp.minimum(rank, number).astype(errors.dtype)
    risk = (sums / count)[jnp.minimum(rank, number) - 1]
    return RiskCoverage(
        count / number.astype(errors.dtype), jnp.where(unknown | (number == 0), jnp.nan, risk)
    )
