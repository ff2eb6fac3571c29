"""What uncertainty is worth: the error that remains when the least certain predictions are left out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional._kernel import kernel
from jaxdrop.mc import _inputs


class RiskCoverage(NamedTuple):
    """The mean error of the k most certain of n predictions, for k = 1, ..., n."""

    coverage: jax.Array
    """`k/n`, shape (n,)."""
    risk: jax.Array
    """The mean error of the k most certain, shape (n,)."""

    @property
    def aurc(self) -> jax.Array:
        """The area under the curve, as the mean of the risks."""
        return self.risk.mean()


class Sparsification(NamedTuple):
    """The mean error when the k least certain of n predictions are removed, for k = 0, ..., n - 1."""

    removed: jax.Array
    """`k/n`, shape (n,)."""
    error: jax.Array
    """The mean error of those kept, shape (n,)."""
    oracle: jax.Array
    """The same when those with the largest errors are removed: no uncertainty does better. Shape (n,)."""

    @property
    def ause(self) -> jax.Array:
        """The area between the two curves, as the mean over k of their difference, in the units of the errors."""
        return (self.error - self.oracle).mean()


def risk_coverage(errors: _inputs.ArrayLike, uncertainty: _inputs.ArrayLike) -> RiskCoverage:
    """The risk-coverage curve: `risk(k/n)` is the mean error of the k predictions with the least uncertainty.

    Predictions that are equally uncertain are taken in random order, in expectation: the curve does not depend on their order in
    the data.

    Args:
      errors: a loss of each prediction: `predicted != labels`, squared errors, ...; any shape with n entries.
      uncertainty: of the same shape; larger is less certain.

    Returns:
      A `RiskCoverage`.

    Raises:
      TypeError: not real numbers.
      ValueError: shapes differ, are empty, or (not seen under `jit`) a value is NaN.

    References:
      El-Yaniv & Wiener, "On the foundations of noise-free selective classification", JMLR 11, 2010. Geifman, Uziel & El-Yaniv,
      "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019, arXiv:1805.08206.
    """
    return _risk_coverage(*_checked("risk_coverage", errors, uncertainty))


def aurc(errors: _inputs.ArrayLike, uncertainty: _inputs.ArrayLike) -> jax.Array:
    """The area under the risk-coverage curve, `1/n sum_k risk(k/n)`; less is better.

    The mean over k = 1, ..., n of Geifman et al., not a trapezoid. Args, Raises and References are those of `risk_coverage`.
    """
    return risk_coverage(errors, uncertainty).aurc


def sparsification(errors: _inputs.ArrayLike, uncertainty: _inputs.ArrayLike) -> Sparsification:
    """The sparsification curve: the mean error of what is kept when the most uncertain predictions are removed, and the best one.

    Args, ties and Raises are those of `risk_coverage`, whose curve this is from the other end.

    Returns:
      A `Sparsification`.

    References:
      Ilg, Çiçek, Galesso, Klein, Makansi, Hutter & Brox, "Uncertainty estimates and multi-hypotheses networks for optical flow",
      ECCV 2018, arXiv:1802.07095.
    """
    errors, uncertainty = _checked("sparsification", errors, uncertainty)
    own, best = _risk_coverage(errors, uncertainty), _risk_coverage(errors, errors)
    return Sparsification(1 - own.coverage[::-1], own.risk[::-1], best.risk[::-1])


def ause(errors: _inputs.ArrayLike, uncertainty: _inputs.ArrayLike, *, normalize: bool = False) -> jax.Array:
    """The area between the sparsification curve and the best one, `1/n sum_k (error(k/n) - oracle(k/n))`; 0 is best.

    Args:
      errors: as in `risk_coverage`.
      uncertainty: as in `risk_coverage`.
      normalize: divide by the mean error of all predictions, which makes it a number without units; NaN if there is no error.

    Raises:
      TypeError, ValueError: as `risk_coverage`.

    References:
      Ilg et al., 2018, arXiv:1802.07095.
    """
    curves = sparsification(errors, uncertainty)
    return curves.ause / curves.error[0] if normalize else curves.ause


@kernel("risk_coverage", checkpoint=False)
def _risk_coverage(errors: jax.Array, uncertainty: jax.Array) -> RiskCoverage:
    order = uncertainty.argsort()
    errors, uncertainty = errors[order], uncertainty[order]
    group = jnp.concatenate([jnp.zeros(1, jnp.int32), (uncertainty[1:] != uncertainty[:-1]).astype(jnp.int32)]).cumsum()
    # Within a group of equals, every one counts as their mean.
    sums = jax.ops.segment_sum(jnp.stack([errors, jnp.ones_like(errors)], axis=-1), group, errors.size)[group]
    count = jnp.arange(1, errors.size + 1).astype(errors.dtype)
    return RiskCoverage(count / errors.size, (sums[:, 0] / sums[:, 1]).cumsum() / count)


def _checked(caller: str, errors: _inputs.ArrayLike, uncertainty: _inputs.ArrayLike) -> tuple[jax.Array, jax.Array]:
    errors, uncertainty = (x.ravel() for x in _inputs.alike(caller, errors=errors, uncertainty=uncertainty))
    for name, x in (("errors", errors), ("uncertainty", uncertainty)):
        if not _inputs.holds(lambda x: ~np.isnan(x), x):
            raise ValueError(f"{caller} takes {name} that are numbers, got NaN at {int(np.isnan(x).argmax())} of {x.size}")
    return errors, uncertainty
