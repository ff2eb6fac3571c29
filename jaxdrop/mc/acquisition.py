"""Which inputs to label next: scores of inputs, and batches of them.

Scores are functions of a `Classification`. The larger a score, the more a label teaches:

    summary = mc.classification(logits=mc.predict(lambda key: fn(key, pool), keys))
    chosen = mc.acquisition.top(mc.acquisition.bald(summary), 10)

The inputs with the ten best scores may be alike. `power_sampling` draws at random, in proportion to
the scores; `batch_bald` scores ten labels together; and `epig` scores the information of a label
about the inputs that the model is for. `batch_bald` and `epig` need the samples themselves, each
under one set of weights for all inputs. With a mask for each example, the default of Flax and of
this library, the labels of different inputs would seem independent: share the masks over the batch,
as `jaxdrop.nnx.stochastic` and `jaxdrop.linen.stochastic` can.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks, _variates, random
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _pool
from jaxdrop.mc._batch_bald import Batch, batch_bald
from jaxdrop.mc._classification import Classification
from jaxdrop.mc._epig import epig
from jaxdrop.mc._reduction import reduction

__all__ = [
    "Batch",
    "Kind",
    "bald",
    "batch_bald",
    "entropy",
    "epig",
    "margin",
    "power_sampling",
    "top",
    "variation_ratio",
]

Kind = Literal["power", "softmax", "softrank"]
"""How scores become probabilities of being chosen, in `power_sampling`."""


@cites("houlsby2011bayesian", "gal2017deep")
@_checks.hinted
def bald(summary: Classification) -> jax.Array:
    """`I(y; w) = H[p] - 1/S sum_s H[p_s]`, the mutual information of a label and the weights, in
    nats.

    Args:
      summary: of N inputs, such as `mc.classification(logits=samples)`.

    Returns:
      The score of each input, shape (N,).

    Raises:
      TypeError: `summary` is not a `Classification`.

    References:
      Houlsby, Huszár, Ghahramani & Lengyel, "Bayesian active learning for classification and
      preference learning", 2011, arXiv:1112.5745. Gal, Islam & Ghahramani, "Deep Bayesian active
      learning with image data", ICML 2017, arXiv:1703.02910.
    """
    return _summary("bald", summary).mutual_information


@_checks.hinted
def entropy(summary: Classification) -> jax.Array:
    """`H[p]`, the predictive entropy, in nats. It includes the noise, which no label removes.

    Args, Returns and Raises: as `bald`.
    """
    return _summary("entropy", summary).predictive_entropy


@cites("scheffer2001active")
@_checks.hinted
def margin(summary: Classification) -> jax.Array:
    """`p_(2) - p_(1)`: minus the gap between the two largest probabilities, in [-1, 0].

    Args, Returns and Raises: as `bald`.

    References:
      Scheffer, Decomain & Wrobel, "Active hidden Markov models for information extraction", IDA
      2001.
    """
    probs = _summary("margin", summary).mean
    first, second = jnp.moveaxis(lax.top_k(probs, 2)[0], -1, 0)
    return second - first


@cites("freeman1965elementary", "gal2017deep")
@_checks.hinted
def variation_ratio(summary: Classification) -> jax.Array:
    """The share of samples that do not vote for the class with most votes.

    Args, Returns and Raises: as `bald`.

    References:
      Freeman, "Elementary applied statistics", 1965. Gal, Islam & Ghahramani, 2017,
      arXiv:1703.02910.
    """
    return _summary("variation_ratio", summary).variation_ratio


@_checks.hinted
def top(scores: _inputs.ArrayLike, num: int) -> jax.Array:
    """The indices of the `num` largest scores, the largest first; the first of equals.

    Args:
      scores: shape (N,).
      num: how many.

    Returns:
      Integers of shape (num,).

    Raises:
      TypeError: scores are not floating, or `num` is not an integer.
      ValueError: not one axis of scores, `num` not in [1, N], or scores that are not finite. Under
        `jit`, NaN is the least.
    """
    scores = _finite("top", scores)
    return _top(scores, num=_pool.number("num", num, scores.size))


@reduction("top")
def _top(scores: jax.Array, *, num: int) -> jax.Array:
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    return lax.top_k(jnp.where(scores == 0, 0, scores), num)[1]  # top_k orders -0 below 0


@cites("kirsch2023stochastic")
@_checks.hinted
def power_sampling(
    key: jax.Array,
    scores: _inputs.ArrayLike,
    num: int,
    *,
    coldness: _inputs.Number = 1.0,
    kind: Kind = "power",
) -> jax.Array:
    """`num` inputs drawn without replacement, in proportion to `score^coldness`: a more diverse
    batch than the best scores.

    ============  ==========================================================
    kind          drawn in proportion to
    ============  ==========================================================
    `power`       `score^coldness`; those that score 0 come last
    `softmax`     `exp(coldness score)`
    `softrank`    `rank^-coldness`, the largest score having rank 1
    ============  ==========================================================

    At coldness 0 all inputs are equally likely; with a large coldness the result is that of `top`.

    Args:
      key: a single key.
      scores: shape (N,); at least 0 for `power`.
      num: how many.
      coldness: at least 0.
      kind: one of the three names.

    Returns:
      Integers of shape (num,), in the order of drawing.

    Raises:
      TypeError, ValueError: as `top`, or scores below 0 are to be drawn by their power.

    References:
      Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron & Gal, "Stochastic batch
      acquisition: a simple baseline for deep active learning", TMLR 2023, arXiv:2106.12059.
    """
    key = _checks.consume_key(key, "power_sampling")
    scores = _finite("power_sampling", scores)
    _checks.check_one_of(kind, "kind", Kind)
    if kind == "power":
        try:
            _inputs.positive("scores", scores, zero=True)
        except ValueError as error:
            raise ValueError(f"{error}. kind='softrank' takes scores of any sign.") from None
    cold = _inputs.single("power_sampling", "coldness", coldness)
    _inputs.positive("coldness", cold, zero=True)
    return _power_sampling(
        key, scores, cold.astype(scores.dtype), num=_pool.number("num", num, scores.size), kind=kind
    )


@reduction("power_sampling")
def _power_sampling(
    key: jax.Array, scores: jax.Array, coldness: jax.Array, *, num: int, kind: Kind
) -> jax.Array:
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    if kind == "power":
        scores = jnp.log(jnp.maximum(scores, 0))
    elif kind == "softrank":
        ranks = (
            jnp.zeros(scores.size, scores.dtype)
            .at[scores.argsort(descending=True)]
            .set(jnp.arange(1.0, scores.size + 1))
        )
        scores = -jnp.log(ranks)
    # Relative to the largest score, whose weight is 1 at every coldness. A score of 0 has weight 0,
    # except at coldness 0.
    most = scores.max()
    weights = coldness * (scores - jnp.where(jnp.isfinite(most), most, 0))
    noise = _variates.gumbel(random.bits(key, scores.shape), scores.dtype)
    # The largest sums of log-weight and Gumbel noise are a draw without replacement.
    return lax.top_k(jnp.where(coldness == 0, 0, weights) + noise, num)[1]


def _summary(caller: str, summary: Classification) -> Classification:
    if not isinstance(summary, Classification):
        raise TypeError(
            f"{caller} takes a Classification summary, such as mc.classification(logits=samples),"
            f" got {_checks.quoted(summary)}"
        )
    return summary


def _finite(caller: str, scores: _inputs.ArrayLike) -> jax.Array:
    scores = _inputs.floating(caller, "scores", scores)
    if scores.ndim != 1:
        raise ValueError(
            f"{caller} takes scores of shape (N,), one for each input, got {scores.shape}"
        )
    if not _inputs.holds(np.isfinite, scores):
        wrong = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(
            f"scores must be finite, but {wrong.size} of {scores.size} are not, the first at index"
            f" {wrong[0]}"
        )
    return scores


def __dir__() -> list[str]:
    return __all__
