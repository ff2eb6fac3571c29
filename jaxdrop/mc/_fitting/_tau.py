"""The precision of the noise: fitted to held-out data, or computed from a weight decay."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _regression
from jaxdrop.mc._fitting._minimum import minimum

Loss = Literal["half_mse", "mse"]
_LOSS = {"half_mse": 2.0, "mse": 1.0}


@cites("gal2016dropout")
class FittedTau(NamedTuple):
    """The precision of the noise that makes held-out data most likely."""

    tau: jax.Array
    """One over the variance of the noise."""
    log_likelihood: jax.Array
    """The mean over the examples of `mc.log_likelihood` at this `tau`, in nats."""


@cites(FittedTau)
@_checks.hinted
def fit_tau(y: _inputs.Number, samples: _inputs.ArrayLike, *, output_axes: int = 0) -> FittedTau:
    """The `tau` that maximizes the mean of `log_likelihood(y, samples, tau=tau)` over held-out
    examples.

    It lies between the inverses of two mean squared errors, that of the worst sample of each
    example and that of the best. There it is found by a grid and bisection, in one compilation.
    Traceable: `jax.vmap` runs over splits or models.

    Args:
      y: held-out targets, as in `mc.log_likelihood`. Do not take those of training, on which errors
        are smaller.
      samples: predictions for them, shape (S, ...).
      output_axes: as in `mc.log_likelihood`.

    Returns:
      A `FittedTau`, of two numbers.

    Raises:
      TypeError: samples are not floating numbers.
      ValueError: shapes do not fit, no samples or examples, or a sample hits each target exactly,
        which no finite `tau` fits.

    References:
      Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
      learning", ICML 2016, arXiv:1506.02142, equation 8.
    """
    samples = _inputs.samples("fit_tau", "samples", samples)
    y = _regression.target("fit_tau", y, samples)
    if not y.size:
        raise ValueError(f"fit_tau needs at least one held-out example, got y of shape {y.shape}")
    fitted = _fit_tau(y, samples, output_axes=_regression.output_count(output_axes, y.ndim))
    if not _inputs.holds(np.isfinite, fitted.tau):
        raise ValueError(
            "fit_tau found no finite tau: some sample hits each target exactly, or y or samples are"
            " not finite"
        )
    return fitted


@kernel("fit_tau", checkpoint=False)
def _fit_tau(y: jax.Array, samples: jax.Array, *, output_axes: int) -> FittedTau:
    def loss(log_tau: jax.Array) -> jax.Array:
        return -_regression.mixture_likelihood(
            y, samples, jnp.exp(-log_tau), output_axes=output_axes
        ).mean()

    errors = ((samples - y[None]) ** 2).mean(range(y.ndim + 1 - output_axes, y.ndim + 1))
    # At the maximum, 1 / tau is the mean over examples of a weighted mean over samples of these
    # errors.
    low, high = -jnp.log(errors.max(0).mean()), -jnp.log(errors.min(0).mean())
    log_tau = minimum(loss, low, high)
    return FittedTau(jnp.exp(log_tau), -loss(log_tau))


@cites("gal2016dropout")
@_checks.hinted
def tau_from_weight_decay(
    weight_decay: _inputs.Number,
    *,
    rate: masks.Rate,
    length_scale: _inputs.Number,
    num_examples: int,
    loss: Loss,
) -> jax.Array:
    """`tau = (1 - rate) l^2 / (2 N lambda)`: the precision of the noise that a weight decay
    implies.

    The factor of 2 depends on the loss that is minimized together with `lambda sum W^2`:

    ===========  ==========================================  ===================================
    `half_mse`   `1/N sum_n 1/2 (y_n - f(x_n))^2`            `tau = (1 - rate) l^2 / (2 N lambda)`,
                                                             the paper
    `mse`        `1/N sum_n (y_n - f(x_n))^2`                `tau = (1 - rate) l^2 / (N lambda)`
    ===========  ==========================================  ===================================

    The squares are summed over outputs, not averaged. The authors' code has the first formula with
    the second loss, and so decays half as much as in the paper: `loss="half_mse"` gives the numbers
    of the code. The decay `c` of an optimizer, as in `optax.add_decayed_weights(c)`, is the
    gradient of `c/2 sum W^2`: pass `weight_decay=c / 2`.

    Args:
      weight_decay: `lambda`, the factor of the sum of squared weights, above 0.
      rate: the probability of dropping, below 1 (the paper's p is that of keeping).
      length_scale: `l`, the prior length scale, above 0.
      num_examples: N, the number of training examples.
      loss: which of the two losses is minimized.

    Returns:
      `tau`, in the units in which the loss was formed: for standardized targets divide it by their
        variance.

    Raises:
      TypeError: `num_examples` is not an integer.
      ValueError: an argument is out of range, or `loss` is neither.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142, equations 4 and 7.
    """
    return _tau_times_decay(rate, length_scale, num_examples, loss) / _positive(
        "weight_decay", weight_decay
    )


@_checks.hinted
def weight_decay_from_tau(
    tau: _inputs.Number,
    *,
    rate: masks.Rate,
    length_scale: _inputs.Number,
    num_examples: int,
    loss: Loss,
) -> jax.Array:
    """`lambda = (1 - rate) l^2 / (2 N tau)`: the weight decay that a precision of the noise
    implies.

    The inverse of `tau_from_weight_decay`, which says what the factor of 2 depends on.

    Args:
      tau: the precision of the noise, above 0.
      rate: as in `tau_from_weight_decay`.
      length_scale: as in `tau_from_weight_decay`.
      num_examples: as in `tau_from_weight_decay`.
      loss: as in `tau_from_weight_decay`.

    Returns:
      `lambda`, the factor of the sum of squared weights beside that loss.

    Raises:
      TypeError, ValueError: as `tau_from_weight_decay`.
    """
    return _tau_times_decay(rate, length_scale, num_examples, loss) / _positive("tau", tau)


def _tau_times_decay(
    rate: masks.Rate, length_scale: _inputs.Number, num_examples: int, loss: Loss
) -> jax.Array:
    _checks.check_one_of(loss, "loss", Loss)
    count = _checks.check_count(num_examples, "num_examples")
    dropping = _checks.check_rate(rate)
    if not _inputs.holds(lambda rate: rate < 1, dropping):
        raise ValueError(
            f"rate must be below 1, at which nothing is kept, got {_inputs.range_of(dropping)}"
        )
    keep = 1 - jnp.asarray(dropping, jnp.float32)
    keep = _inputs.nan_unless(keep > 0, keep)
    return keep * _positive("length_scale", length_scale) ** 2 / (_LOSS[loss] * count)


def _positive(name: str, x: _inputs.Number) -> jax.Array:
    return _inputs.reals("tau", **{name: _checks.check_number(x, name, above=True)})[0]
