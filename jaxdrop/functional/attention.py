"""Dropout inside attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import masks, random
from jaxdrop.functional import _arguments, _attention_shapes, _blocked
from jaxdrop.functional._attention_shapes import Shapes
from jaxdrop.functional._kernel import kernel


def dot_product_attention(
    key: jax.Array | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rate: masks.Rate = 0.0,
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    is_causal: bool = False,
    local_window_size: int | tuple[int, int] | None = None,
    query_seq_lengths: jax.Array | None = None,
    key_value_seq_lengths: jax.Array | None = None,
    scale: float | None = None,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    precision: Any = None,
    block_sizes: tuple[int, int] | None = None,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Attention with dropout on its weights: `y = (m P / (1 - rate)) v` with `P = softmax(scale q k + bias)` and Bernoulli `m`.

    Computed by blocks, forward and backward, in memory that grows with the length and not with its square. The mask is the one of
    `dropout(key, P, rate)`, whatever the blocks and the layout: each block asks for its own part. For the backward pass `q`, `k`,
    `v`, the output, two numbers a query, and the key are kept. Products of 16-bit inputs are summed in float32.

    A query that sees no key gets 0, not NaN, and so do its gradients.

    Args:
      key: a single PRNG key, of a generator with random access: `jaxdrop.key(seed)` or `jax.random.key(seed)`. May be None if
        nothing is drawn.
      q: queries, `(batch..., queries, heads, depth)`, of a floating dtype.
      k: keys, `(batch..., keys, groups, depth)`. `heads` is a multiple of `groups`: one group for each head is multi-head
        attention, fewer are grouped-query attention, one is multi-query attention.
      v: values, `(batch..., keys, groups, depth of values)`.
      rate: the probability of dropping a weight, in [0, 1]: a number or a traced scalar. At 1 the output is 0.
      bias: added to the logits; broadcasts to `(batch..., heads, queries, keys)`. It gets a gradient. Minus infinity masks.
      mask: boolean, True where a query may see a key; broadcasts as `bias` does.
      is_causal: query `i` sees keys `0` to `i` only. Blocks that nobody sees are skipped.
      local_window_size: query `i` sees keys `i - before` to `i + after`, of `(before, after)` or one number for both.
      query_seq_lengths: integers `(batch...)`: queries from there on are padding, and get 0.
      key_value_seq_lengths: integers `(batch...)`: keys from there on are padding, and are not seen.
      scale: of the logits, a number; `1 / sqrt(depth)` by default.
      broadcast_dims: axes of the weights `(batch..., heads, queries, keys)` along which the mask is shared. None by default;
        Flax's `broadcast_dropout=True` is `range(q.ndim - 2)`.
      deterministic: if True, or if `rate` is the number 0, nothing is dropped. In half precision on a GPU this is
        `jax.nn.dot_product_attention` by cuDNN, where that takes the arguments.
      precision: of the matrix products, as in `jax.numpy.einsum`.
      block_sizes: how many queries and keys make a block; chosen by the lengths by default. It changes rounding, and no mask.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole `q`, of which `q` is this
        device's part. Batch, queries and heads may be divided; `k` and `v` hold all keys for these queries. Without a device's
        place, devices that hold the same key draw the same mask.

    Returns:
      `(batch..., queries, heads, depth of values)`, of the dtype of `v`.

    Raises:
      TypeError: `q`, `k` and `v` are not of one floating dtype; `mask` is not boolean; an argument is of a wrong type.
      ValueError: shapes do not fit; `rate` is outside [0, 1] or has axes; `key` is missing or an array of keys.
      NotImplementedError: the key's generator can only draw whole arrays (rbg, philox).

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762. Rabe & Staats, "Self-attention does not need O(n^2)
      memory", 2021, arXiv:2112.05682. Dao et al., "FlashAttention", 2022, arXiv:2205.14135.
    """
    shapes = Shapes.of("dot_product_attention", q, k, v)
    checked = masks.check_rate(rate)
    masks.check_one_rate(checked, "dot_product_attention takes one rate for all weights")
    layout = masks.check_spec(spec, q.ndim)
    before, after = _attention_shapes.window(local_window_size, is_causal)
    plan = _blocked.Plan(
        lengths=(shapes.queries, shapes.keys),
        blocks=_attention_shapes.block_sizes(block_sizes, shapes),
        scale=shapes.depth**-0.5 if scale is None else _number("scale", scale),
        before=before,
        after=after,
        shared=shapes.grouped_axes(masks.check_broadcast_dims(broadcast_dims, len(shapes.weights))),
        spec=shapes.grouped_spec(layout),
        precision=precision,
    )
    allowed = []
    if mask is not None:
        allowed.append(shapes.grouped("mask", mask, boolean=True))
    if query_seq_lengths is not None:
        names, _ = masks.mapped_axes(layout, [len(shapes.batch)])
        first = random.axis_place(names)[0] * shapes.queries if names else 0
        allowed.append(shapes.within("query_seq_lengths", query_seq_lengths, -2, first))
    if key_value_seq_lengths is not None:
        allowed.append(shapes.within("key_value_seq_lengths", key_value_seq_lengths, -1))
    added = None if bias is None else shapes.grouped("bias", bias)

    draws = not (_arguments.is_true(deterministic) or masks.is_number(checked, 0))
    if 0 in (*shapes.weights, *shapes.output) or (draws and masks.is_number(checked, 1)):
        return jnp.zeros(shapes.output, v.dtype)
    single = random.single(key, "dot_product_attention") if draws else None
    law = masks.law(checked if draws else 0.0, v.dtype)
    blocked = functools.partial(_dot_product_attention, single, *law, bias=added, allowed=tuple(allowed), plan=plan)
    if not draws and added is None and not allowed and local_window_size is None and len(shapes.batch) == 1:
        return _fused(blocked, q, k, v, scale=plan.scale, is_causal=is_causal)
    return blocked(q, k, v)


def _number(name: str, value: Any) -> float:
    if isinstance(value, jax.core.Tracer) or np.ndim(value) or not np.isrealobj(value):
        raise TypeError(
            f"{name} must be a number, known when the function is traced, got {value!r}. Multiply q by a learned one."
        )
    return float(value)


def _fused(blocked: Callable[..., jax.Array], *operands: jax.Array, scale: float, is_causal: bool) -> jax.Array:
    """Attention without dropout by cuDNN, where JAX has it for these operands, and otherwise `blocked`."""
    if jax.default_backend() != "gpu" or operands[0].dtype.itemsize != 2:
        return blocked(*operands)
    cudnn = functools.partial(jax.nn.dot_product_attention, scale=scale, is_causal=is_causal, implementation="cudnn")
    try:
        jax.eval_shape(cudnn, *operands)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # a depth, a dtype or a version that it does not have
        return blocked(*operands)
    return jax.lax.platform_dependent(*operands, cuda=cudnn, default=blocked)


@kernel("dot_product_attention", checkpoint=False)
def _dot_product_attention(
    key: jax.Array | None,
    threshold: jax.Array,
    scale: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    allowed: tuple[jax.Array, ...],
    *,
    plan: _blocked.Plan,
) -> jax.Array:
    groups = k.shape[-2]
    q = jnp.moveaxis(q.reshape(*q.shape[:-2], groups, -1, q.shape[-1]), -4, -2)
    k, v = jnp.moveaxis(k, -3, -2), jnp.moveaxis(v, -3, -2)
    out = _blocked.attend(plan, _blocked.Operands(key, threshold, scale, q, k, v, bias, allowed))
    out = jnp.moveaxis(out, -2, -4)
    return out.reshape(*out.shape[:-3], -1, out.shape[-1])


def for_flax(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    broadcast_dropout: bool,
    dropout_rng: jax.Array | None,
    dropout_rate: masks.Rate,
    deterministic: bool,
    dtype: Any,
    precision: Any,
    is_causal: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """`dot_product_attention` with the arguments of Flax's: `key` are the keys of attention, and a mask may be of numbers."""
    dtype = jnp.result_type(query, key, value) if dtype is None else dtype
    q, k, v = (jnp.asarray(x, dtype) for x in (query, key, value))
    return dot_product_attention(
        dropout_rng,
        q,
        k,
        v,
        dropout_rate,
        bias=bias,
        mask=None if mask is None else jnp.asarray(mask, bool),
        is_causal=is_causal,
        broadcast_dims=range(q.ndim - 2) if broadcast_dropout else (),
        deterministic=deterministic,
        precision=precision,
        spec=spec,
    )


def no_weights(spec: PartitionSpec | None) -> None:
    """Checks that no layout was given where Flax's own function draws the masks."""
    if spec is not None:
        raise ValueError(
            f"spec={spec} is for attention without an array of weights, but they are sown or multiplied by functions of the"
            " layer's own. Leave out one of the two."
        )
