"""Losses that need two or more masks of the same input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _layouts, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional.elements import dropout

__all__ = [
    "Rule",
    "multi_sample_dropout",
    "r_drop",
]

Rule = Literal["fairseq", "readme", "vit"]

# The factors of the sum of the cross-entropies, and of alpha times the sum of the divergences.
_FACTORS = {"fairseq": (1.0, 0.5), "readme": (0.5, 0.5), "vit": (1.0, 1.0)}


@cites("liang2021rdrop")
@_checks.hinted
def r_drop(
    logits: jax.Array,
    other: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | jax.Array,
    rule: Rule = "fairseq",
) -> jax.Array:
    """R-Drop: cross-entropy of two passes under different masks, and their symmetric divergence,
    for each example.

    With `CE1`, `CE2` the cross-entropies in nats and `J = KL(p1 || p2) + KL(p2 || p1)`, the rules
    in use are:

    ==========  =============================  =============================================
    `fairseq`   `CE1 + CE2 + alpha/2 J`        the paper; its code for translation (alpha 5)
    `readme`    `(CE1 + CE2)/2 + alpha/2 J`    the usage in its README
    `vit`       `CE1 + CE2 + alpha J`          its code for ViT (alpha 0.3)
    ==========  =============================  =============================================

    Take the mean or the sum of the result. (The ViT code averages the cross-entropies over the
    batch but sums J: its alpha grows with the batch.) `J` is formed as `sum (p1 - p2) (log p1 - log
    p2)`, a sum of terms that are not negative.

    The two passes need two keys: `first, second = jax.vmap(apply)(jax.random.split(key))`.

    Args:
      logits: shape (..., C), of the first pass. A class with a logit of -inf in both passes adds 0
        to J; with -inf in one pass only it makes J infinite.
      other: the logits of the second pass, of the shape and dtype of `logits`.
      labels: integers of shape (...), or probabilities of shape (..., C). A label outside [0, C)
        gives NaN.
      alpha: the weight of the divergence, at least 0; a number or a scalar array.
      rule: a name of the table.

    Returns:
      Shape (...), of the dtype of `logits`, float32 at least.

    Raises:
      TypeError: logits are not floating.
      ValueError: shapes do not fit, `alpha` is negative or `rule` unknown.

    References:
      Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang & Liu, "R-Drop: regularized dropout for neural
      networks", 2021, arXiv:2106.14448.
    """
    for name, passed in (("logits", logits), ("other", other)):
        if not jnp.issubdtype(
            _checks.check_array(passed, name, "floating numbers").dtype, jnp.floating
        ):
            raise TypeError(
                f"{name} must be an array of floating numbers, got {_checks.quoted(passed)}"
            )
    logits, other, labels = (
        jnp.asarray(logits),
        jnp.asarray(other),
        _checks.check_array(labels, "labels"),
    )
    are_ids = jnp.issubdtype(labels.dtype, jnp.integer)
    if not (are_ids or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise TypeError(f"labels must be integers or probabilities, got {_checks.quoted(labels)}")
    if (
        not logits.ndim
        or logits.shape != other.shape
        or labels.shape != (logits.shape[:-1] if are_ids else logits.shape)
    ):
        raise ValueError(
            "r_drop takes logits and other of shape (..., C), and labels: integers of shape (...)"
            f" or probabilities of shape (..., C). Got logits of {logits.shape}, other of"
            f" {other.shape}, and labels of {labels.dtype}{list(labels.shape)}."
        )
    if not are_ids and _checks.known(labels) and not (np.asarray(labels) >= 0).all():
        raise ValueError("labels of floating dtype are probabilities, but some are negative or NaN")
    alpha = _checks.check_number(alpha, "alpha")
    if np.ndim(alpha):
        raise ValueError(f"alpha must be one number, got {_checks.quoted(alpha)}")
    _checks.check_one_of(rule, "rule", Rule)
    return _r_drop(logits, other, labels, alpha, rule=rule)


@kernel("r_drop")
def _r_drop(
    logits: jax.Array, other: jax.Array, labels: jax.Array, alpha: jax.Array, *, rule: Rule
) -> jax.Array:
    logits, other, labels = _alike(logits, other, labels)
    dtype = _numerics.compute_dtype(logits.dtype)
    one, two = (jax.nn.log_softmax(array.astype(dtype)) for array in (logits, other))
    impossible = jnp.isneginf(one) & jnp.isneginf(two)
    gap = jnp.where(impossible, jnp.zeros_like(one), one - two)
    divergence = ((jnp.exp(one) - jnp.exp(two)) * gap).sum(-1)
    cross_entropy = _cross_entropy(one + two, labels)
    weight, share = _FACTORS[rule]
    return weight * cross_entropy + share * jnp.asarray(alpha, dtype) * divergence


def _alike(logits: jax.Array, other: jax.Array, labels: jax.Array) -> list[jax.Array]:
    """The three arrays, with the same layout on a mesh with explicit axes."""
    mesh = _layouts.mesh_of(logits, other, labels)
    layout = _layouts.joined(_layouts.axes(logits), _layouts.axes(other), _layouts.axes(labels))
    return [_layouts.placed(x, mesh, layout[: x.ndim]) for x in (logits, other, labels)]


def _cross_entropy(log_probs: jax.Array, labels: jax.Array) -> jax.Array:
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = (
            labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
        )  # an int8 may be too short for the number of classes
        sharding = masks.block(log_probs).sharding
        classes = lax.broadcasted_iota(
            labels.dtype, log_probs.shape, log_probs.ndim - 1, out_sharding=sharding
        )
        hit = classes == jnp.expand_dims(labels, -1)
        loss = -jnp.where(hit, log_probs, jnp.zeros_like(log_probs)).sum(-1)
        return jnp.where(
            (labels >= 0) & (labels < log_probs.shape[-1]), loss, jnp.full_like(loss, jnp.nan)
        )
    used = labels > 0  # 0 log 0 is 0
    return -jnp.where(
        used,
        labels.astype(log_probs.dtype) * jnp.where(used, log_probs, jnp.zeros_like(log_probs)),
        0,
    ).sum(-1)


@cites("inoue2019multi")
@_checks.hinted
def multi_sample_dropout(
    keys: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    loss: Callable[[jax.Array], Any],
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> Any:
    """Multi-sample dropout: `1/M sum_m loss(dropout(keys[m], x, rate))`, the mean of the losses
    (not of the logits) over M masks.

    All samples share the features `x`, so that the layers before are computed once. The samples run
    one after the other (`jax.lax.map`), in the memory of one sample:

        def loss(h):
            return optax.softmax_cross_entropy_with_integer_labels(head(h), labels).mean()

        value = multi_sample_dropout(jaxdrop.mc.keys(key, 8), features, 0.5, loss)

    Args:
      keys: a key array of shape (M,): `jax.random.split(key, 8)`, or `jaxdrop.mc.keys(key, 8)`,
        whose masks balance each other. May be None if nothing is drawn.
      x: the features, any shape, floating or complex.
      rate: the probability of dropping, in [0, 1], as in `jaxdrop.dropout`.
      loss: a function of the dropped features; it returns an array or a pytree of arrays, in the
        paper the loss of a head with shared weights.
      broadcast_dims: axes of `x` along which all entries share one mask value.
      deterministic: if True, or if `rate` is the number 0, `loss(x)` is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `x`.

    Returns:
      The results of `loss`, averaged over the samples.

    Raises:
      ValueError: `keys` is not one axis of keys; otherwise as `jaxdrop.dropout`.
      TypeError, NotImplementedError: as `jaxdrop.dropout`.

    References:
      Inoue, "Multi-sample dropout for accelerated training and better generalization", 2019,
      arXiv:1905.09788.
    """
    x, rate, _, spec = _checks.check_site("multi_sample_dropout", x, rate, broadcast_dims, spec)
    _checks.check_callable(loss, "loss", "the dropped features")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return loss(x)
    if not _checks.is_key(keys) or keys.ndim != 1 or not keys.size:
        kind = ValueError if keys is None or _checks.is_key(keys) else TypeError
        raise kind(
            "keys must be a key array of shape (M,), such as jax.random.split(key, 8), got"
            f" {_checks.quoted(keys)}"
        )

    def sample(key: jax.Array) -> Any:
        return loss(dropout(key, x, rate, broadcast_dims=broadcast_dims, spec=spec))

    with jax.named_scope("jaxdrop.multi_sample_dropout"):
        return jax.tree.map(lambda values: values.mean(0), lax.map(sample, keys))
