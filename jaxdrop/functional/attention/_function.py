"""Attention with dropout on its weights: the public function, and the checks of its arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes, masks
from jaxdrop._references import cites
from jaxdrop.functional.attention import _block_sizes
from jaxdrop.functional.attention._compute import Implementation, Settings, compute
from jaxdrop.functional.attention._layout import Arrays
from jaxdrop.functional.attention._shapes import Shapes, check_spec


@cites("vaswani2017attention", "rabe2021self", "dao2022flashattention")
@_checks.hinted
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
    segment_ids: jax.Array | tuple[jax.Array, jax.Array] | None = None,
    query_offset: int | jax.Array | None = None,
    scale: float | None = None,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    precision: Any = None,
    block_sizes: tuple[int, int] | None = None,
    implementation: Implementation | None = None,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Attention with dropout on its weights: `y = (m P / (1 - rate)) v` with `P = softmax(scale q k
    + bias)` and `m ~ Bernoulli(1 - rate)` for each weight.

    Computed by blocks, forward and backward, in memory that grows with the length and not with its
    square. The mask is the one of `dropout(key, P, rate)`, whatever the blocks and the layout: each
    block draws its own part. The residuals of the backward pass are `q`, `k`, `v`, the output, two
    numbers for each query, and the key. Products of 16-bit inputs are summed in float32.

    `jax.checkpoint` around a layer computes the output and the two numbers again. They have the
    name `"jaxdrop.dot_product_attention"`, so that its `policy` can keep them:
    `jax.checkpoint_policies.save_only_these_names("jaxdrop.dot_product_attention")`.

    A query that sees no key gets 0, not NaN, and so do its gradients. What `q`, `k` and `v` hold
    beyond `query_seq_lengths` and `key_value_seq_lengths` has no influence, even if it is NaN.

    Under `jit` the operands may be divided over a mesh in any way. On a mesh with explicit axes
    each device computes the queries that it holds, `k` and `v` are gathered along their length, and
    the output is divided like `q`. For other divisions give `jax.sharding.reshard(q, ...)`.

    Args:
      key: a single PRNG key, of a generator with random access: `jaxdrop.key(seed)` or
        `jax.random.key(seed)`. May be None if nothing is drawn.
      q: queries, `(batch..., queries, heads, depth)`, of a floating dtype.
      k: keys, `(batch..., keys, groups, depth)`. `heads` is a multiple of `groups`: one group for
        each head is multi-head attention, fewer are grouped-query attention, one is multi-query
        attention.
      v: values, `(batch..., keys, groups, depth of values)`.
      rate: the probability of dropping a weight, in [0, 1]: a number or a traced scalar. At 1 the
        output is 0.
      bias: added to the logits; broadcasts to `(batch..., heads, queries, keys)`. It gets a
        gradient. Minus infinity masks. Any axis may have length 1. A shape without batch and heads,
        `(queries, keys)`, is fine; one with either of them left out is an error, since `(n,
        queries, keys)` could be batch or heads.
      mask: boolean, True where a query may see a key; its shape is as that of `bias`.
      is_causal: query `i` sees keys `0` to `i` only. Blocks of keys that no query sees are skipped.
      local_window_size: `(before, after)`, or one number for both: query `i` sees keys `i - before`
        to `i + after`.
      query_seq_lengths: integers `(batch...)`: queries from this position on are padding, and their
        output is 0.
      key_value_seq_lengths: integers `(batch...)`: keys from this position on are padding, which no
        query sees.
      segment_ids: for packed sequences: a query sees the keys of its own segment only. Integers
        `(batch..., length)` for queries and keys alike, or a pair `(of queries, of keys)`, as the
        `SegmentIds` of JAX's kernels. If segments are numbered in rising order, blocks of keys that
        share no segment with a block of queries are skipped. Padding is a segment too.
      query_offset: the position of the first query among the keys, for `is_causal` and
        `local_window_size`: a number or an integer array, of shape () or `(batch...)`, traced or
        not. `q` then stands for a part, from this position on, of as many queries as there are
        keys, and gets the mask of that part: decoding step by step with a cache of all keys drops
        the same weights as one pass over all queries.
      scale: the factor of the logits, a number; `1 / sqrt(depth)` by default.
      broadcast_dims: axes of the weights `(batch..., heads, queries, keys)` along which the mask is
        shared. None by default; Flax's `broadcast_dropout=True` is `range(q.ndim - 2)`.
      deterministic: if True, or if `rate` is the number 0, nothing is dropped. In half precision on
        a GPU, cuDNN then computes it (`jax.nn.dot_product_attention`), if it takes the arguments.
      precision: the precision of the matrix products, as in `jax.numpy.einsum`.
      block_sizes: the numbers of queries and of keys in a block; by default chosen by the shapes
        and the devices of the current mesh (`jax.set_mesh`), which off the CPU are taken to share
        batch and heads. Give them where batch and heads are whole on each of many devices: a block
        would take that many times its memory. They change the rounding, but no mask.
      implementation: `'xla'` computes block by block in XLA, everywhere. `'pallas'` is a kernel for
        GPUs and TPUs, with the same masks. On a GPU it takes bfloat16 and float16, depths up to 128
        and no `precision`; on a TPU bfloat16 and float32. A `bias` that needs a gradient is
        differentiated by XLA's blocks. The compiler cannot divide a kernel: with several devices
        call it inside `shard_map`. By default the kernel is used on a machine with one GPU, for the
        options that one has been seen to compute exactly, and XLA otherwise.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the global
        array whose part on this device is `q`. Batch, queries and heads may be divided; `k` and `v`
        hold all keys for these queries. Without `spec`, devices that hold the same key draw the
        same mask.

    Returns:
      `(batch..., queries, heads, depth of values)`, of the dtype of `v`.

    Raises:
      TypeError: `q`, `k` and `v` are not of one floating dtype; `mask` is not boolean; an argument
        is of a wrong type.
      ValueError: shapes do not fit; `rate` is outside [0, 1] or has axes; `key` is missing or an
        array of keys.
      NotImplementedError: the key's generator can only draw whole arrays (rbg, philox).

    References:
      Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762. Rabe & Staats,
      "Self-attention does not need O(n^2) memory", 2021, arXiv:2112.05682. Dao et al.,
      "FlashAttention", 2022, arXiv:2205.14135.
    """
    shapes = Shapes.of("dot_product_attention", q, k, v)
    checked = _checks.check_rate(rate)
    _checks.check_one_rate(checked, "dot_product_attention takes one rate for all weights")
    layout = check_spec(spec, shapes)
    before, after = _block_sizes.window(local_window_size, is_causal)
    if implementation is not None:
        _checks.check_one_of(implementation, "implementation", Implementation)
    settings = Settings(
        block_sizes=_block_sizes.check_block_sizes(block_sizes),
        implementation=implementation,
        scale=shapes.depth**-0.5 if scale is None else _number("scale", scale),
        before=before,
        after=after,
        shared=_checks.check_broadcast_dims(broadcast_dims, len(shapes.weights)),
        precision=precision,
        spec=layout,
    )
    draws = not (_checks.check_flag(deterministic, "deterministic") or masks.is_number(checked, 0))
    names, parts = _mapped_axes.names_and_size(layout, [len(shapes.batch)])
    all_zero = 0 in (*shapes.weights, *shapes.output) or (draws and masks.is_number(checked, 1))
    distribution = masks.distribution(checked if draws else 0.0, v.dtype)
    arrays = Arrays(
        key=_checks.consume_key(key, "dot_product_attention") if draws and not all_zero else None,
        threshold=distribution.threshold,
        scale=distribution.scale,
        q=q,
        k=k,
        v=v,
        bias=None if bias is None else shapes.like_weights("bias", bias),
        allowed=() if mask is None else (shapes.like_weights("mask", mask, jnp.bool_),),
        inside=shapes.padding(query_seq_lengths, key_value_seq_lengths, names),
        segments=None if segment_ids is None else shapes.segments(segment_ids),
        offset=(
            None
            if query_offset is None
            else shapes.offset(query_offset, shapes.queries * parts if draws else None)
        ),
    )
    if all_zero:
        return jnp.broadcast_to(jnp.zeros_like(q.sum(-1, keepdims=True)), shapes.output)
    return compute(arrays, settings=settings)


def _number(name: str, value: Any) -> float:
    _checks.check_not_traced(value, name, "multiply q by a learned one")
    number = _checks.check_number(value, name, least=-math.inf)
    if not isinstance(number, float):
        raise TypeError(f"{name} must be a single number, got {_checks.quoted(value)}")
    return number
