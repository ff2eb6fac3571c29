"""Dropping labels: a null label takes their place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional import _ids

_replace_labels = _ids.replacing("label_dropout", "null_id", "labels")


@cites("ho2022classifier")
@_checks.hinted
def label_dropout(
    key: jax.Array | None,
    labels: jax.Array,
    rate: masks.Rate,
    *,
    null_id: int,
    force_drop: jax.Array | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Label dropout for classifier-free guidance: `y = null_id` with probability `rate`, else the
    label. Nothing is scaled.

    The embedding table needs a row for the null label: with `null_id=num_classes` it has one row
    more than there are classes, also at rate 0 if guidance is used. The result is integer: no
    gradient passes through it.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      labels: any shape, any integer dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `labels`. Usual are 0.1 to 0.2.
      null_id: the null label, "no class".
      force_drop: booleans that broadcast to the shape of `labels`. If they are given, they alone
        decide which labels are dropped, also if `deterministic` is True: guided sampling needs a
        batch of labels and null labels.
      deterministic: if True, or if `rate` is the number 0, `labels` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `labels`, of its shape and dtype.

    Raises:
      TypeError: `labels` does not hold integers, or `force_drop` not booleans; an argument is of a
        wrong type.
      ValueError, NotImplementedError: as `jaxdrop.dropout`; also if the dtype of `labels` cannot
        hold `null_id`, or if `force_drop` does not fit `labels`.

    References:
      Ho & Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """
    if force_drop is None:
        return _replace_labels(
            key,
            labels,
            rate,
            replacement=null_id,
            protected=(),
            deterministic=deterministic,
            spec=spec,
        )
    labels = _checks.check_ids(labels, "label_dropout", "labels")
    _checks.check_rate_shape(_checks.check_rate(rate), labels.shape, ())
    _checks.check_flag(deterministic, "deterministic")
    _checks.check_spec(spec, labels.ndim, "labels")
    force_drop = _checks.check_array(force_drop, "force_drop", "booleans")
    if force_drop.dtype != bool:
        raise TypeError(
            f"force_drop must hold booleans, got {force_drop.dtype}. Compare first, as in"
            " force_drop == 1."
        )
    _checks.check_rate_shape(force_drop, labels.shape, (), "force_drop")
    return jnp.where(
        force_drop,
        jnp.asarray(_ids.fitting("null_id", null_id, labels.dtype), labels.dtype),
        labels,
    )
