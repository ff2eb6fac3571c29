"""Dropping attention weights, keys and whole heads, in attention that is computed in the open."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes, masks
from jaxdrop.functional import _layouts, elements
from jaxdrop.functional._kernel import kernel

HeadNormalization = Literal["kept", "rate", "fixed"]


@_checks.hinted
def attention_dropout(
    key: jax.Array | None,
    weights: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Dropout of attention weights that are there as an array: `y = m weights / (1 - rate)`, behind
    the softmax.

    Rows do not sum to 1 any more, which is as it should be. `jaxdrop.dot_product_attention` has the
    same mask without the array.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      weights: `(batch..., heads, queries, keys)`, of any floating dtype.
      rate: the probability of dropping a weight, as in `jaxdrop.dropout`.
      broadcast_dims: axes along which the mask is shared: none by default; Flax shares it over
        batch and heads, `(0, 1)`.
      deterministic: if True, or if `rate` is the number 0, `weights` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `weights`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
    """
    with jax.named_scope("jaxdrop.attention_dropout"), _checks.renamed(x="weights"):
        return elements.dropout(
            key,
            weights,
            rate,
            broadcast_dims=broadcast_dims,
            deterministic=deterministic,
            spec=spec,
        )


@_checks.hinted
def drop_key(
    key: jax.Array | None,
    logits: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropKey: logits become minus infinity with probability `rate`, in front of the softmax, which
    shares their weight out.

    There is no factor `1 / (1 - rate)`: the weights sum to 1 as they are. Each query keeps one key
    at least, the one that would have been dropped last, so that no row of the softmax is NaN: among
    the keys whose logit is not minus infinity already.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      logits: `(..., keys)`, of a floating dtype; usually `(batch..., heads, queries, keys)`.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, with length 1 along the keys. The paper uses 0.1 to 0.3,
        less in deeper layers. At 1 one key a query is left.
      broadcast_dims: axes along which the mask is shared; not the last one.
      deterministic: if True, or if `rate` is the number 0, `logits` itself is returned.
      spec: as in `jaxdrop.dropout`; the last axis may not be divided.

    Returns:
      An array like `logits`.

    Raises:
      TypeError: `logits` is complex or holds integers; otherwise as `jaxdrop.dropout`.
      ValueError: `broadcast_dims` or `spec` names the last axis; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Li, Hu, Nie, Han, Jiang, Guo & Liu, "DropKey", 2022, arXiv:2208.02646. Copies of its code add
      `-1e-12` in place of `-1e12`, which drops nothing.
    """
    logits, rate, shared, spec = _checks.check_site(
        "drop_key", logits, rate, broadcast_dims, spec, "logits"
    )
    last = logits.ndim - 1
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"drop_key takes real logits, got {logits.dtype}")
    if not np.isinf(np.asarray(np.inf, logits.dtype)):
        raise TypeError(
            f"drop_key puts minus infinity, and logits are of dtype {logits.dtype}, which has no"
            " infinity."
        )
    if last < 0 or last in shared:
        raise ValueError(
            "drop_key drops keys, which are the last axis, got"
            f" broadcast_dims={tuple(broadcast_dims)}"
        )
    if _mapped_axes.names_and_size(spec, [last])[0]:
        raise ValueError(
            f"spec={spec} divides the keys, axis {last}, of which one must stay. Gather them first."
        )
    if not isinstance(rate, float) and rate.ndim and rate.shape[-1] != 1:
        raise ValueError(
            "drop_key takes one rate for all keys of a query, got rates of shape"
            f" {tuple(rate.shape)}"
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return logits
    key, logits = _checks.consume_key(key, "drop_key"), masks.nan_if_impossible(logits, rate)
    return _drop_key(key, logits, masks.distribution(rate).threshold, shared=shared, spec=spec)


@kernel("drop_key")
def _drop_key(
    key: jax.Array,
    logits: jax.Array,
    threshold: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, logits, broadcast_dims=shared, spec=spec)
    # Whoever is kept at some rate is kept at all lower ones, so the lowest bits are those of the
    # last to go.
    there = jnp.where(jnp.isneginf(logits), np.uint32(0xFFFFFFFF), bits)
    keep = masks.below(bits, threshold) | (there == there.min(-1, keepdims=True))
    return jnp.where(keep, logits, jnp.array(-jnp.inf, logits.dtype))


@_checks.hinted
def drop_head(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    normalization: HeadNormalization = "kept",
    head_axis: int = -2,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropHead: whole attention heads of each example are dropped, `y = m x c`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: what the heads give before they are projected together: `(batch..., length, heads, depth)`,
        or `(batch..., heads, length, depth)` with `head_axis=-3`; any floating or complex dtype.
      rate: the probability of dropping a head, in [0, 1]: a number or a traced scalar. The paper
        lets 0.2 fall to 0 and rise again over the training: `jaxdrop.schedules.cyclic(0.2, 0.0,
        steps)`.
      normalization: of `H` heads, `'kept'` multiplies by `c = H / (number kept in the example)`, as
        the paper does; where none is kept, `y` is 0. `'rate'` multiplies by `c = 1 / (1 - rate)`,
        so that `E[y] = x`. `'fixed'` drops `n = round(rate H)` heads of each example, no more and
        no less, and multiplies by `c = H / (H - n)`: also `E[y] = x`.
      head_axis: the axis of the heads, among the last three.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`; the heads may be divided with `'rate'` only.

    Returns:
      An array like `x`.

    Raises:
      TypeError: as `jaxdrop.dropout`.
      ValueError: `x` has fewer than three axes, `head_axis` is none of the two places, `rate` has
        axes, `normalization` is unknown, `spec` divides the heads; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Zhou, Ge, Xu, Wei & Zhou, "Scheduled DropHead: a regularization method for transformer
      models", 2020, arXiv:2004.13342.
    """
    x, rate, _, spec = _checks.check_site("drop_head", x, rate, (), spec)
    _checks.check_one_of(normalization, "normalization", HeadNormalization)
    heads = _checks.check_axis(head_axis, "head_axis", max(x.ndim, 3))
    if x.ndim < 3 or heads not in (x.ndim - 2, x.ndim - 3):
        raise ValueError(
            "drop_head takes (batch..., length, heads, depth), or head_axis=-3 and (batch...,"
            f" heads, length, depth), got {_checks.shown('x')} of shape {x.shape} and"
            f" head_axis={head_axis}."
        )
    _checks.check_one_rate(rate, "drop_head takes one rate for all heads")
    if normalization != "rate" and _mapped_axes.names_and_size(spec, [heads])[0]:
        raise ValueError(
            f"spec={spec} divides the heads, axis {heads}, which normalization={normalization!r}"
            " counts."
        )
    shared = tuple(axis for axis in range(x.ndim - 3, x.ndim) if axis != heads)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if normalization == "rate":
        with jax.named_scope("jaxdrop.drop_head"):
            return elements.dropout(key, x, rate, broadcast_dims=shared, spec=spec)
    single, x = _checks.consume_key(key, "drop_head"), masks.nan_if_impossible(x, rate)
    dropped = jnp.nan_to_num(jnp.round(jnp.asarray(rate) * x.shape[heads])).astype(jnp.int32)
    return _drop_head(
        single,
        x,
        masks.distribution(rate).threshold,
        dropped,
        fixed=normalization == "fixed",
        heads=heads,
        shared=shared,
        spec=spec,
    )


@kernel("drop_head")
def _drop_head(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    dropped: jax.Array,
    *,
    fixed: bool,
    heads: int,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec)
    mesh, layout = _layouts.mesh_of(bits), _layouts.axes(bits)
    bits = _layouts.placed(
        bits, mesh, [() if axis == heads else names for axis, names in enumerate(layout)]
    )
    rank = functools.partial(jnp.argsort, axis=heads)
    keep = rank(rank(bits)).astype(jnp.int32) >= dropped if fixed else masks.below(bits, threshold)
    count = keep.sum(heads, keepdims=True)
    keep = _layouts.placed(keep, mesh, layout)
    return masks.scaled(keep, x, x.shape[heads] / jnp.maximum(count, 1).astype(jnp.float32))
