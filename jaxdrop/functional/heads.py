"""Dropping attention weights, keys and whole heads, in attention code that forms these arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _layouts, _mapped_axes, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional import elements

__all__ = [
    "Normalize",
    "attention_dropout",
    "drop_head",
    "drop_key",
]

Normalize = Literal["example", "expected", "fixed"]


@cites("vaswani2017attention")
@_checks.hinted
def attention_dropout(
    key: jax.Array | None,
    weights: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Dropout of an array of attention weights, after the softmax: `y = m weights / (1 - rate)`.

    The rows of `y` sum to 1 in expectation only. `jaxdrop.dot_product_attention` draws the same
    mask without forming the array.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      weights: `(batch..., heads, queries, keys)`, of any floating dtype.
      rate: the probability of dropping a weight, as in `jaxdrop.dropout`.
      broadcast_dims: axes along which the mask is shared: none by default; Flax shares it over
        batch and heads, `(0, 1)`.
      deterministic: if True, or if `rate` is the number 0, `weights` itself is returned.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`: queries among as many as there are keys, for example.

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
            part=part,
        )


@cites("li2023dropkey")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,))
def drop_key(
    key: jax.Array | None,
    logits: jax.Array,
    rate: masks.Rate,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """DropKey: logits become minus infinity with probability `rate`, before the softmax.

    The softmax gives the weight of the dropped keys to the others. Weights sum to 1 without a
    factor `1 / (1 - rate)`. Each query keeps at least one key, so that no row of the softmax is
    NaN: if all would be dropped, the one that drops at the highest rate stays. Keys whose logit is
    minus infinity already are not counted.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      logits: `(..., keys)`, of a floating dtype; usually `(batch..., heads, queries, keys)`.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, with length 1 along the keys. The paper uses 0.1 to 0.3,
        less in deeper layers. At 1 each query keeps one key.
      broadcast_dims: axes along which the mask is shared; not the last one.
      deterministic: if True, or if `rate` is the number 0, `logits` itself is returned.
      spec: as in `jaxdrop.dropout`; the last axis may not be divided.
      part: as in `jaxdrop.dropout`, of queries: of the last axis there must be all.

    Returns:
      An array like `logits`.

    Raises:
      TypeError: `logits` is complex or holds integers; otherwise as `jaxdrop.dropout`.
      ValueError: `broadcast_dims` or `spec` names the last axis; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Li, Hu, Nie, Han, Jiang, Guo & Liu, "DropKey for vision transformer", 2022,
      arXiv:2208.02646. Copies of its code add `-1e-12` in place of `-1e12`, which drops nothing.
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
    part = masks.check_part(part, logits, spec, "logits")
    if part is not None and part.axis == last:
        raise ValueError(f"part={part} is one of the keys, axis {last}, of which one must stay.")
    if not isinstance(rate, float) and rate.ndim and rate.shape[-1] != 1:
        raise ValueError(
            "drop_key takes one rate for all keys of a query, got rates of shape"
            f" {tuple(rate.shape)}"
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return logits
    key, logits = _checks.consume_key(key, "drop_key"), masks.nan_if_impossible(logits, rate)
    logits = masks.nan_outside(logits, part)
    return _drop_key(
        key, logits, masks.distribution(rate).threshold, part, shared=shared, spec=spec
    )


@kernel("drop_key")
def _drop_key(
    key: jax.Array,
    logits: jax.Array,
    threshold: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, logits, broadcast_dims=shared, spec=spec, part=part)
    # A key is kept if its bits are below a threshold, which falls as the rate rises. So the key
    # with the lowest bits stays up to the highest rate.
    there = jnp.where(jnp.isneginf(logits), np.uint32(0xFFFFFFFF), bits)
    keep = masks.below(bits, threshold) | (there == there.min(-1, keepdims=True))
    return jnp.where(keep, logits, jnp.array(-jnp.inf, logits.dtype))


_one_rate = _checks.one_rate("drop_head takes one rate for all heads")


@cites("zhou2020scheduled")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,), rate=_one_rate)
def drop_head(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    normalize: Normalize = "example",
    head_axis: int = -2,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropHead: whole attention heads of each example are dropped, `y = m x c`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: the outputs of the heads, before the projection that joins them: `(batch..., length, heads,
        depth)`, or `(batch..., heads, length, depth)` with `head_axis=-3`; any floating or complex
        dtype.
      rate: the probability of dropping a head, in [0, 1]: a number or a traced scalar. The paper
        lets 0.2 fall to 0 and rise again over the training: `jaxdrop.schedules.cyclic(0.2, 0.0,
        steps)`.
      normalize: which share of the `H` heads divides the kept ones. `'example'`: the share that is
        kept in the example, `c = H / (number kept)`, as in the paper; where none is kept, `y` is 0.
        `'expected'`: the expected share, `c = 1 / (1 - rate)`, so that `E[y] = x`. `'fixed'` drops
        exactly `n = round(rate H)` heads of each example, and `c = H / (H - n)`: also `E[y] = x`.
      head_axis: the axis of the heads, among the last three.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`; the heads may be divided with `'expected'` only.

    Returns:
      An array like `x`.

    Raises:
      TypeError: as `jaxdrop.dropout`.
      ValueError: `x` has fewer than three axes, `head_axis` is none of the two places, `rate` has
        axes, `normalize` is unknown, `spec` divides the heads; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Zhou, Ge, Wei, Zhou & Xu, "Scheduled DropHead: a regularization method for transformer
      models", 2020, arXiv:2004.13342.
    """
    x, rate, _, spec = _checks.check_site("drop_head", x, rate, (), spec)
    _checks.check_one_of(normalize, "normalize", Normalize)
    heads = _checks.check_axis(head_axis, "head_axis", max(x.ndim, 3))
    if x.ndim < 3 or heads not in (x.ndim - 2, x.ndim - 3):
        raise ValueError(
            "drop_head takes (batch..., length, heads, depth), or head_axis=-3 and (batch...,"
            f" heads, length, depth), got {_checks.shown('x')} of shape {x.shape} and"
            f" head_axis={head_axis}."
        )
    rate = _one_rate(rate, "rate")
    if normalize != "expected" and _mapped_axes.names_and_size(spec, [heads])[0]:
        raise ValueError(
            f"spec={spec} divides the heads, axis {heads}, which normalize={normalize!r} counts."
        )
    shared = tuple(axis for axis in range(x.ndim - 3, x.ndim) if axis != heads)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if normalize == "expected":
        with jax.named_scope("jaxdrop.drop_head"):
            return elements.dropout(key, x, rate, broadcast_dims=shared, spec=spec)
    key, x = _checks.consume_key(key, "drop_head"), masks.nan_if_impossible(x, rate)
    dropped = jnp.nan_to_num(jnp.round(jnp.asarray(rate) * x.shape[heads])).astype(jnp.int32)
    return _drop_head(
        key,
        x,
        masks.distribution(rate).threshold,
        dropped,
        fixed=normalize == "fixed",
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
