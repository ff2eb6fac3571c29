"""Selective prediction: the error that remains when the least certain predictions are left out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks
from jaxdrop.mc import _inputs, _reduction
from jaxdrop.mc._reduction import masked, reduction


class RiskCoverage(NamedTuple):
    """The mean error of the k most certain of n predictions, for k = 1, ..., n."""

    coverage: jax.Array
    """`k/n`, shape (n,). If only m of the n count, `k/m`, and 1 beyond m."""
    risk: jax.Array
    """The mean error of the k most certain, shape (n,); beyond m, that of all that count."""

    @property
    def aurc(self) -> jax.Array:
        """The area under the curve, as the mean of the risks."""
        return _area(self.risk, self.coverage)


class Sparsification(NamedTuple):
    """The mean error when the k least certain of n predictions are removed, for k = 0, ..., n -
    1.
    """

    removed: jax.Array
    """`k/n`, shape (n,). If only m of the n count, 0 for the first n - m, then `k/m`."""
    error: jax.Array
    """The mean error of the remaining predictions, shape (n,)."""
    oracle: jax.Array
    """The mean error if the predictions with the largest errors are removed, shape (n,): no
    uncertainty gives a lower one.
    """

    @property
    def ause(self) -> jax.Array:
        """The area between the two curves, as the mean over k of their difference, in the units of
        the errors.
        """
        return _area((self.error - self.oracle)[::-1], 1 - self.removed[::-1])


@reduction("area")
def _area(height: jax.Array, coverage: jax.Array) -> jax.Array:
    """`1/n sum_k height_k`, by the widths between coverages, which are 0 for entries that do not
    count. Rounding errors of the coverages cancel in the sum.
    """
    return height.size * _reduction.mean(
        height * jnp.diff(coverage, prepend=jnp.zeros(1, coverage.dtype))
    )


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
      TypeError: not real numbers.
      ValueError: shapes differ or are empty, or an entry that counts is NaN.

    References:
      El-Yaniv & Wiener, "On the foundations of noise-free selective classification", JMLR 11, 2010.
      Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers",
      ICLR 2019, arXiv:1805.08206.
    """
    return _risk_coverage(
        *_inputs.entries("risk_coverage", where, errors=errors, uncertainty=uncertainty)
    )


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
    return _risk_coverage(
        *_inputs.entries("aurc", where, errors=errors, uncertainty=uncertainty)
    ).aurc


@_checks.hinted
def sparsification(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    where: _inputs.ArrayLike | None = None,
) -> Sparsification:
    """The sparsification curve: the mean error of the remaining predictions when the most uncertain
    ones are removed.

    It is the curve of `risk_coverage` read from the other end, together with the best possible
    curve. Args, ties and Raises are those of `risk_coverage`.

    Returns:
      A `Sparsification`.

    References:
      Ilg, Çiçek, Galesso, Klein, Makansi, Hutter & Brox, "Uncertainty estimates and
      multi-hypotheses networks for optical flow", ECCV 2018, arXiv:1802.07095.
    """
    return _sparsification(
        *_inputs.entries("sparsification", where, errors=errors, uncertainty=uncertainty)
    )


@_checks.hinted
def ause(
    errors: _inputs.ArrayLike,
    uncertainty: _inputs.ArrayLike,
    *,
    normalize: bool = False,
    where: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """The area between the sparsification curve and the best one, `1/n sum_k (error(k/n) -
    oracle(k/n))`; 0 is best.

    Args:
      errors: as in `risk_coverage`.
      uncertainty: as in `risk_coverage`.
      normalize: whether to divide by the mean error of all predictions, so that the result has no
        unit. It is NaN if no prediction has an error.
      where: as in `risk_coverage`.

    Raises:
      TypeError, ValueError: as `risk_coverage`, or `normalize` is not a bool.

    References:
      Ilg et al., 2018, arXiv:1802.07095.
    """
    divided = _checks.check_flag(normalize, "normalize")
    curves = _sparsification(
        *_inputs.entries("ause", where, errors=errors, uncertainty=uncertainty)
    )
    return curves.ause / curves.error[0] if divided else curves.ause


@reduction("risk_coverage")
def _risk_coverage(arrays: list[jax.Array], where: jax.Array | None) -> RiskCoverage:
    return _curve(arrays[0], arrays[1], where)


@reduction("sparsification")
def _sparsification(arrays: list[jax.Array], where: jax.Array | None) -> Sparsification:
    own, best = _curve(arrays[0], arrays[1], where), _curve(arrays[0], arrays[0], where)
    return Sparsification(1 - own.coverage[::-1], own.risk[::-1], best.risk[::-1])


def _curve(errors: jax.Array, uncertainty: jax.Array, where: jax.Array | None) -> RiskCoverage:
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
