"""How good the probabilities of a classifier are."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional import _arguments
from jaxdrop.functional._kernel import kernel
from jaxdrop.mc import _inputs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions sorted into B bins by their confidence. An empty bin holds NaN."""

    count: jax.Array
    """The number of predictions, integers of shape (B,)."""
    confidence: jax.Array
    """The mean confidence, shape (B,)."""
    accuracy: jax.Array
    """The share that is right, shape (B,)."""

    @property
    def gap(self) -> jax.Array:
        """`|accuracy - confidence|`, 0 in an empty bin."""
        return jnp.where(self.count > 0, jnp.abs(self.accuracy - self.confidence), 0)

    @property
    def ece(self) -> jax.Array:
        """The mean gap over predictions."""
        return jnp.average(self.gap, weights=self.count.astype(self.gap.dtype))

    @property
    def mce(self) -> jax.Array:
        """The largest gap."""
        return self.gap.max()


def nll(
    labels: _inputs.ArrayLike, probs: _inputs.ArrayLike | None = None, *, log_probs: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The negative log-likelihood `mean_n -log p_n[y_n]`, in nats.

    Args:
      labels: integers in [0, C), shape (...).
      probs: predictive probabilities, such as `Classification.mean`, shape (..., C).
      log_probs: in their place, their logarithms, such as `Classification.log_mean`: right also where a probability is too small
        for a float.

    Returns:
      A number; infinite if a label has probability 0. Under `jit` a label out of range makes it NaN.

    Raises:
      TypeError: labels are not integers, or both or neither of `probs` and `log_probs` are given.
      ValueError: shapes do not fit, a label is out of range, or the probabilities do not sum to 1.
    """
    if (probs is None) == (log_probs is None):
        raise TypeError(f"nll takes either probs or log_probs=..., got {'neither' if probs is None else 'both'}")
    if probs is not None:
        labels, probs = _checked("nll", labels, probs)
        return _nll(labels, jnp.log(probs))
    assert log_probs is not None
    log_probs = _inputs.floating("nll", "log_probs", log_probs)
    labels, _ = _checked("nll", labels, jnp.exp(log_probs))
    return _nll(labels, log_probs)


@kernel("nll", checkpoint=False)
def _nll(labels: jax.Array, log_probs: jax.Array) -> jax.Array:
    index = jnp.where(labels < 0, log_probs.shape[-1], labels)  # a negative one would count from the end
    picked = jnp.take_along_axis(log_probs, index[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    return -picked.mean()


def brier(labels: _inputs.ArrayLike, probs: _inputs.ArrayLike) -> jax.Array:
    """The Brier score `mean_n sum_c (p_nc - 1[y_n = c])^2`, in [0, 2].

    It is summed over the classes. For two classes it is twice the score that only looks at one of them.

    Args:
      labels: integers in [0, C), shape (...).
      probs: predictive probabilities, shape (..., C).

    Raises:
      TypeError, ValueError: as `nll`.

    References:
      Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78(1), 1950.
    """
    return _brier(*_checked("brier", labels, probs))


@kernel("brier", checkpoint=False)
def _brier(labels: jax.Array, probs: jax.Array) -> jax.Array:
    return ((probs - _one_hot(labels, probs)) ** 2).sum(-1).mean()


def reliability(
    labels: _inputs.ArrayLike, probs: _inputs.ArrayLike, *, num_bins: int = 15, equal_mass: bool = False
) -> Reliability:
    """Sorts predictions into bins by confidence `max_c p_c`, to be compared with the accuracy of each: a reliability diagram.

    Bins are `[0, 1/B), [1/B, 2/B), ..., [1 - 1/B, 1]`: a confidence on an edge belongs to the bin above, and one of exactly 1 to
    the last. (Guo et al. have `(lower, upper]`.) With `equal_mass`, the predictions in order of confidence are cut into B parts
    of equal size, the first ones one larger if they do not divide. The predicted class is the first one of equals.

    Args:
      labels: integers in [0, C), shape (...).
      probs: predictive probabilities, shape (..., C).
      num_bins: B, at least 1.
      equal_mass: bins of equal size in place of equal width.

    Returns:
      A `Reliability`.

    Raises:
      TypeError, ValueError: as `nll`, or `num_bins` is below 1.

    References:
      Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.
    """
    labels, probs = _checked("reliability", labels, probs)
    return _reliability(labels, probs, num_bins=_arguments.count("num_bins", num_bins), equal_mass=_arguments.is_true(equal_mass))


@kernel("reliability", checkpoint=False)
def _reliability(labels: jax.Array, probs: jax.Array, *, num_bins: int, equal_mass: bool) -> Reliability:
    correct = probs.argmax(-1) == labels
    sort = _equal_mass if equal_mass else _equal_width
    return sort(probs.max(-1).ravel(), correct.ravel(), num_bins)


def ece(labels: _inputs.ArrayLike, probs: _inputs.ArrayLike, *, num_bins: int = 15) -> jax.Array:
    """The expected calibration error `sum_b n_b/N |accuracy_b - confidence_b|` over bins of equal width, of the predicted class.

    Args, bins and Raises are those of `reliability`.

    References:
      Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015. Guo et al., 2017,
      arXiv:1706.04599.
    """
    return _errors(reliability(labels, probs, num_bins=num_bins))[0]


def adaptive_ece(labels: _inputs.ArrayLike, probs: _inputs.ArrayLike, *, num_bins: int = 15) -> jax.Array:
    """As `ece`, with bins that hold equally many predictions.

    Args, bins and Raises are those of `reliability`.

    References:
      Nixon, Dusenberry, Jerfel, Nguyen, Liu, Zhang & Tran, "Measuring calibration in deep learning", 2019, arXiv:1904.01685
      (whose adaptive calibration error also averages over classes).
    """
    return _errors(reliability(labels, probs, num_bins=num_bins, equal_mass=True))[0]


def mce(labels: _inputs.ArrayLike, probs: _inputs.ArrayLike, *, num_bins: int = 15) -> jax.Array:
    """The maximum calibration error `max_b |accuracy_b - confidence_b|` over bins of equal width that are not empty.

    Args, bins and Raises are those of `reliability`.

    References:
      Naeini, Cooper & Hauskrecht, 2015. Guo et al., 2017, arXiv:1706.04599.
    """
    return _errors(reliability(labels, probs, num_bins=num_bins))[1]


@kernel("calibration_errors", checkpoint=False)
def _errors(bins: Reliability) -> tuple[jax.Array, jax.Array]:
    return bins.ece, bins.mce


def classwise_ece(labels: _inputs.ArrayLike, probs: _inputs.ArrayLike, *, num_bins: int = 15) -> jax.Array:
    """`1/C sum_c sum_b n_bc/N |frequency_bc - probability_bc|`: the mean over the classes of the calibration error of each.

    For class c, predictions are sorted by `p_c`, whether it is the largest or not, into bins of equal width as those of
    `reliability`, and the mean of `p_c` is compared with the share of labels that are c. Args and Raises are those of
    `reliability`.

    References:
      Kull, Perello Nieto, Kängsepp, Silva Filho, Song & Flach, "Beyond temperature scaling: obtaining well-calibrated multiclass
      probabilities with Dirichlet calibration", NeurIPS 2019, arXiv:1910.12656.
    """
    labels, probs = _checked("classwise_ece", labels, probs)
    return _classwise_ece(labels, probs, num_bins=_arguments.count("num_bins", num_bins))


@kernel("classwise_ece", checkpoint=False)
def _classwise_ece(labels: jax.Array, probs: jax.Array, *, num_bins: int) -> jax.Array:
    present = _one_hot(labels, probs) > 0
    columns = (jnp.reshape(x, (-1, probs.shape[-1])) for x in (probs, present))
    return jax.vmap(lambda prob, here: _equal_width(prob, here, num_bins).ece, in_axes=1)(*columns).mean()


def _equal_width(confidence: jax.Array, correct: jax.Array, num_bins: int) -> Reliability:
    edges = jnp.asarray(np.linspace(0, 1, num_bins + 1)[1:-1], confidence.dtype)
    return _sorted(confidence, correct, jnp.searchsorted(edges, confidence, side="right"), num_bins)


def _equal_mass(confidence: jax.Array, correct: jax.Array, num_bins: int) -> Reliability:
    order = confidence.argsort()
    sizes = [len(part) for part in np.array_split(np.empty(confidence.size, bool), num_bins)]
    return _sorted(confidence[order], correct[order], jnp.asarray(np.repeat(np.arange(num_bins), sizes)), num_bins)


def _sorted(confidence: jax.Array, correct: jax.Array, index: jax.Array, num_bins: int) -> Reliability:
    def total(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, index, num_bins)

    count = total(jnp.ones(index.shape, jnp.int32))
    number = count.astype(confidence.dtype)
    return Reliability(count, total(confidence) / number, total(correct.astype(jnp.int32)).astype(confidence.dtype) / number)


def _one_hot(labels: jax.Array, probs: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype)


def _checked(caller: str, labels: _inputs.ArrayLike, probs: _inputs.ArrayLike) -> tuple[jax.Array, jax.Array]:
    labels, probs = _inputs.integers(caller, labels), _inputs.floating(caller, "probs", probs)
    if not probs.ndim or not probs.size:
        raise ValueError(f"{caller} takes probabilities of shape (..., C), with at least one prediction, got shape {probs.shape}")
    _inputs.probabilities("probs", probs)
    return _inputs.labels(caller, labels, probs.shape[:-1], probs.shape[-1]), probs
