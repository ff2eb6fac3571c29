"""Sparsification: the curve of selective prediction read from its other end, and the best one."""

from __future__ import annotations

from typing import NamedTuple

import jax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs
from jaxdrop.mc._reduction import reduction
from jaxdrop.mc.metrics._selective import area, curve


@cites("ilg2018uncertainty")
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
        return area((self.error - self.oracle)[::-1], 1 - self.removed[::-1])


@cites(Sparsification)
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
    return _sparsification(*_inputs.judged("sparsification", where, errors, uncertainty))


@cites("ilg2018uncertainty")
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
    curves = _sparsification(*_inputs.judged("ause", where, errors, uncertainty))
    return curves.ause / curves.error[0] if divided else curves.ause


@reduction("sparsification")
def _sparsification(arrays: list[jax.Array], where: jax.Array | None) -> Sparsification:
    own, best = curve(arrays[0], arrays[1], where), curve(arrays[0], arrays[0], where)
    return Sparsification(1 - own.coverage[::-1], own.risk[::-1], best.risk[::-1])
