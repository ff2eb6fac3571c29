"""Expected predictive information gain: what a label says of the labels of other inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _inputs, _pool, _probabilities, _reduction
from jaxdrop.mc._reduction import reduction


@cites("bickfordsmith2023prediction")
@_checks.hinted
def epig(
    *,
    logits: _inputs.ArrayLike | None = None,
    target_logits: _inputs.ArrayLike | None = None,
    probs: _inputs.ArrayLike | None = None,
    target_probs: _inputs.ArrayLike | None = None,
) -> jax.Array:
    """EPIG, `mean_x* I(y; y*)`: the expected information of a label about the labels of the targets
    x*, in nats; at least 0.

    With `p(y, y*) = 1/S sum_s p_s(y) p_s(y*)`, the divergence of `p(y, y*)` from `p(y) p(y*)`. BALD
    also counts information about weights that do not matter for the targets; EPIG does not.

    Args:
      logits: those of the inputs to choose from, shape (S, N, C).
      target_logits: those of inputs like the ones that the model is for, shape (S, M, C'), under
        the same weights: from the same keys, with masks that all inputs share.
      probs: in place of logits.
      target_probs: in place of logits.

    Returns:
      Shape (N,).

    Raises:
      TypeError: not either two arrays of logits or two of probabilities.
      ValueError: shapes do not fit, or an input has NaN (under `jit`, its score is NaN).

    References:
      Bickford Smith, Kirsch, Farquhar, Gal, Foster & Rainforth, "Prediction-oriented Bayesian
      active learning", AISTATS 2023, arXiv:2304.08151.
    """
    given, are_logits = _pool.checked("epig", logits, probs)
    target, targets_are = _pool.checked("epig", target_logits, target_probs, "target_")
    if are_logits != targets_are or given.shape[0] != target.shape[0]:
        raise ValueError(
            "epig takes logits and target_logits, or probabilities of both, from the same samples,"
            f" got shapes {given.shape} and {target.shape}"
        )
    pool, targets = (
        jnp.exp(_probabilities.log_probabilities(x, are_logits)) for x in (given, target)
    )
    return _epig(pool, targets.astype(pool.dtype))


@reduction("epig")
def _epig(pool: jax.Array, targets: jax.Array) -> jax.Array:
    size = pool.shape[0]
    expected = _reduction.mean(targets, axis=0)

    def one(probs: jax.Array) -> jax.Array:
        joint = jnp.einsum("sc,smd->cmd", probs, targets, precision="highest") / size
        apart = probs.mean(0)[:, None, None] * expected[None]
        possible = (joint > 0) & (apart > 0)
        ratio = jnp.log(jnp.where(possible, joint, 1)) - jnp.log(jnp.where(possible, apart, 1))
        return _reduction.mean(
            (apart * _probabilities.divergence_terms(ratio, possible)).sum((0, 2))
        )

    return lax.map(
        one,
        jnp.moveaxis(pool, 1, 0),
        batch_size=_pool.at_once(pool.shape[-1] * expected.size, pool.shape[1]),
    )
