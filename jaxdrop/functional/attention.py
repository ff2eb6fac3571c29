"""Dropout inside attention."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes, masks
from jaxdrop.functional import _attention_shapes, _attention_weights, _blocked
from jaxdrop.functional._attention_layout import Arrays, by_device
from jaxdrop.functional._attention_shapes import Shapes
from jaxdrop.functional._attention_weights import Products
from jaxdrop.functional._kernel import kernel
from jaxdrop.functional._sight import Operands, Plan

Implementation = Literal["xla", "pallas"]


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
    + bias)` and Bernoulli `m`.

    Computed by blocks, forward and backward, in memory that grows with the length and not with its
    square. The mask is the one of `dropout(key, P, rate)`, whatever the blocks and the layout: each
    block asks for its own part. For the backward pass `q`, `k`, `v`, the output, two numbers a
    query, and the key are kept. Products of 16-bit inputs are summed in float32.

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
        gradient. Minus infinity masks. Axes in front may be of length 1. Left out may be both batch
        and heads, as in `(queries, keys)`, but not one of them, for `(n, queries, keys)` could mean
        either.
      mask: boolean, True where a query may see a key; of a shape as that of `bias`.
      is_causal: query `i` sees keys `0` to `i` only. Blocks that nobody sees are skipped.
      local_window_size: query `i` sees keys `i - before` to `i + after`, of `(before, after)` or
        one number for both.
      query_seq_lengths: integers `(batch...)`: queries from there on are padding, and get 0.
      key_value_seq_lengths: integers `(batch...)`: keys from there on are padding, and are not
        seen.
      segment_ids: for packed sequences: a query sees the keys of its own segment only. Integers
        `(batch..., length)` for queries and keys alike, or `(of queries, of keys)`, as the
        `SegmentIds` of JAX's kernels. Blocks of keys that have no segment in common with the block
        of queries are skipped, where segments are numbered in rising order. Padding is a segment
        too.
      query_offset: the position of the first query among the keys, for `is_causal` and
        `local_window_size`: a number or an integer array, of shape () or `(batch...)`, traced or
        not. `q` is then a part, from there on, of as many queries as there are keys, and draws the
        mask of that part: decoding with a cache of all keys drops what one pass over all queries
        does.
      scale: of the logits, a number; `1 / sqrt(depth)` by default.
      broadcast_dims: axes of the weights `(batch..., heads, queries, keys)` along which the mask is
        shared. None by default; Flax's `broadcast_dropout=True` is `range(q.ndim - 2)`.
      deterministic: if True, or if `rate` is the number 0, nothing is dropped. In half precision on
        a GPU this is `jax.nn.dot_product_attention` by cuDNN, where that takes the arguments.
      precision: of the matrix products, as in `jax.numpy.einsum`.
      block_sizes: how many queries and keys make a block; chosen by the lengths by default. It
        changes rounding, and no mask.
      implementation: `'xla'` computes block by block in XLA, everywhere. `'pallas'` is a kernel for
        GPUs, with the same masks. It takes bfloat16 and float16, depths up to 128, `is_causal`,
        `local_window_size` and `query_offset`, but no `bias`, `mask`, lengths and segments. The
        compiler cannot divide it: with several devices call it inside `shard_map`. By default the
        kernel, on a machine with one GPU, where it takes the arguments, and XLA elsewhere.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `q`, of which `q` is this device's part. Batch, queries and heads may be divided; `k` and
        `v` hold all keys for these queries. Without a device's place, devices that hold the same
        key draw the same mask.

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
    before, after = _attention_shapes.window(local_window_size, is_causal)
    if implementation is not None:
        _checks.check_one_of(implementation, "implementation", Implementation)
    settings = _Settings(
        block_sizes=_attention_shapes.check_block_sizes(block_sizes),
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
    of_queries = of_keys = None
    if query_seq_lengths is not None:
        first = _mapped_axes.index_and_size(names)[0] * shapes.queries if names else 0
        of_queries = shapes.within("query_seq_lengths", query_seq_lengths, shapes.queries, first)
    if key_value_seq_lengths is not None:
        of_keys = shapes.within("key_value_seq_lengths", key_value_seq_lengths, shapes.keys)

    nothing = 0 in (*shapes.weights, *shapes.output) or (draws and masks.is_number(checked, 1))
    law = masks.distribution(checked if draws else 0.0, v.dtype)
    arrays = Arrays(
        key=_checks.consume_key(key, "dot_product_attention") if draws and not nothing else None,
        threshold=law.threshold,
        scale=law.scale,
        q=q,
        k=k,
        v=v,
        bias=None if bias is None else shapes.like_weights("bias", bias),
        allowed=() if mask is None else (shapes.like_weights("mask", mask, jnp.bool_),),
        inside=(of_queries, of_keys),
        segments=None if segment_ids is None else shapes.segments(segment_ids),
        offset=(
            None
            if query_offset is None
            else shapes.offset(query_offset, shapes.queries * parts if draws else None)
        ),
    )
    if nothing:
        return jnp.broadcast_to(jnp.zeros_like(q.sum(-1, keepdims=True)), shapes.output)
    return _dot_product_attention(arrays, settings=settings)


class _Settings(NamedTuple):
    """What is known when the function is traced."""

    block_sizes: tuple[int, int] | None
    implementation: Implementation | None
    scale: float
    before: int | None
    after: int | None
    shared: tuple[int, ...]
    precision: Any
    spec: PartitionSpec | None


def check_spec(spec: PartitionSpec | None, shapes: Shapes) -> PartitionSpec | None:
    """The layout of the whole `q`, if it does not divide the depth."""
    layout = _checks.check_spec(spec, len(shapes.output))
    if layout is not None and len(layout) == len(shapes.output) and layout[-1]:
        raise ValueError(
            f"spec={spec} divides the depth, over which attention sums. Batch, queries and heads"
            " may be divided."
        )
    return layout


def _number(name: str, value: Any) -> float:
    _checks.check_not_traced(value, name, "multiply q by a learned one")
    number = _checks.check_number(value, name, least=-math.inf)
    if not isinstance(number, float):
        raise TypeError(f"{name} must be a single number, got {_checks.quoted(value)}")
    return number


def _only(inside: jax.Array | None, x: jax.Array) -> jax.Array:
    """`x`, of shape `(batch..., length, heads, depth)`, with zeros where it is padding.

    Padding may hold anything, and in a product 0 times NaN is NaN: in the output for a value, in
    gradients for all.
    """
    return (
        x
        if inside is None
        else jnp.where(jnp.expand_dims(inside, (-2, -1)), x, jnp.zeros((), x.dtype))
    )


@kernel("dot_product_attention", checkpoint=False)
def _dot_product_attention(arrays: Arrays, *, settings: _Settings) -> jax.Array:
    return by_device(
        functools.partial(_by_blocks, settings), arrays, settings.spec, lambda layout: layout.like_q
    )


def _by_blocks(settings: _Settings, arrays: Arrays, spec: PartitionSpec | None) -> jax.Array:
    special = (
        arrays.key,
        arrays.bias,
        *arrays.inside,
        arrays.segments,
        arrays.offset,
        settings.before,
        settings.implementation,
    )
    plain = all(x is None for x in special) and not arrays.allowed
    blocked = functools.partial(_blocked_attention, settings, arrays, spec)
    if plain and settings.after in (None, 0) and arrays.q.ndim == 4:
        return _fused(
            blocked,
            arrays.q,
            arrays.k,
            arrays.v,
            scale=settings.scale,
            is_causal=settings.after == 0,
        )
    of_queries, of_keys = arrays.inside
    return blocked(_only(of_queries, arrays.q), _only(of_keys, arrays.k), _only(of_keys, arrays.v))


def _fused(
    blocked: Callable[..., jax.Array], *operands: jax.Array, scale: float, is_causal: bool
) -> jax.Array:
    """Attention without dropout by cuDNN, where JAX has it for these operands, and otherwise
    `blocked`.
    """
    if jax.default_backend() != "gpu" or operands[0].dtype.itemsize != 2:
        return blocked(*operands)
    cudnn = functools.partial(
        jax.nn.dot_product_attention, scale=scale, is_causal=is_causal, implementation="cudnn"
    )
    try:
        jax.eval_shape(cudnn, *operands)
    except (
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # a depth, a dtype or a version that it does not have
        return blocked(*operands)
    return jax.lax.platform_dependent(*operands, cuda=cudnn, default=blocked)


def _blocked_attention(
    settings: _Settings,
    arrays: Arrays,
    spec: PartitionSpec | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """Heads stand in groups, in front of the length: `(batch..., groups, heads of a group, length,
    depth)`.
    """
    *batch, queries, heads, depth = q.shape
    groups, head = k.shape[-2], len(batch)
    blocks = _attention_shapes.block_sizes(
        settings.block_sizes, (queries, k.shape[-3]), (*batch, heads)
    )

    def grouped(x: jax.Array) -> jax.Array:
        lead = (1, 1) if x.shape[head] == 1 else (groups, heads // groups)
        return x.reshape(*x.shape[:head], *lead, *x.shape[head + 1 :])

    shared = {axis + (axis > head) for axis in settings.shared} | {
        head + 1 for axis in settings.shared if axis == head
    }
    entries = [*(spec or ()), *[None] * q.ndim]
    plan = Plan(
        lengths=(queries, k.shape[-3]),
        blocks=blocks,
        scale=settings.scale,
        before=settings.before,
        after=settings.after,
        shared=tuple(sorted(shared)),
        spec=(
            None
            if spec is None
            else PartitionSpec(*entries[:head], entries[head + 1], None, entries[head], None)
        ),
        precision=settings.precision,
        kernels={None: None, "xla": False, "pallas": True}[settings.implementation],
    )
    segments, offset, (of_queries, of_keys) = arrays.segments, arrays.offset, arrays.inside
    allowed = list(arrays.allowed)
    if of_queries is not None:
        allowed.append(jnp.expand_dims(of_queries, (-3, -1)))
    if of_keys is not None:
        allowed.append(jnp.expand_dims(of_keys, (-3, -2)))
    if segments is not None:
        segments = (
            jnp.expand_dims(segments[0], (head, head + 1, -1)),
            jnp.expand_dims(segments[1], (head, head + 1, -2)),
        )
    if offset is not None and offset.ndim:
        offset = jnp.expand_dims(offset, range(-4, 0))
    out = _blocked.attend(
        plan,
        Operands(
            key=arrays.key,
            threshold=arrays.threshold,
            scale=arrays.scale,
            q=jnp.moveaxis(q.reshape(*batch, queries, groups, heads // groups, depth), -4, -2),
            k=jnp.moveaxis(k, -3, -2),
            v=jnp.moveaxis(v, -3, -2),
            bias=None if arrays.bias is None else grouped(arrays.bias),
            allowed=tuple(map(grouped, allowed)),
            segments=segments,
            offset=offset,
        ),
    )
    out = jnp.moveaxis(out, -2, -4)
    return out.reshape(*out.shape[:-3], heads, out.shape[-1])


def for_flax(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    *,
    broadcast_dropout: bool,
    dropout_rng: jax.Array | None,
    dropout_rate: masks.Rate,
    deterministic: bool,
    dtype: Any,
    precision: Any,
    is_causal: bool,
    spec: PartitionSpec | None,
    sow: Callable[[jax.Array], Any] | None,
    force_fp32_for_softmax: bool = False,
    products: Products | None = None,
    dot_general: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """`dot_product_attention` with the arguments of Flax's: `key` are the keys of attention, and a
    mask may be of numbers.
    """
    dtype = _common(query, key, value) if dtype is None else jnp.dtype(dtype)
    names = "query", "key", "value"
    for name, x in zip(names, (query, key, value), strict=True):
        if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{name} is complex, of dtype {x.dtype}, and dtype={dtype} is not: its imaginary"
                " part would be lost."
            )
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    with _checks.renamed(rate="dropout_rate"):
        rate = _checks.check_rate(dropout_rate)
    mask = None if mask is None else jnp.asarray(mask, bool)
    shared = (
        tuple(range(query.ndim - 2))
        if _checks.check_flag(broadcast_dropout, "broadcast_dropout")
        else ()
    )
    wide = jnp.promote_types(dtype, jnp.float32) if force_fp32_for_softmax else dtype
    if all(x is None for x in (sow, products, dot_general)) and not jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        Shapes.of("dot_product_attention", query, key, value, names)
        return dot_product_attention(
            dropout_rng,
            query,
            key,
            value,
            rate,
            bias=bias,
            mask=mask,
            is_causal=is_causal,
            broadcast_dims=shared,
            deterministic=deterministic,
            precision=precision,
            spec=spec,
        ).astype(wide)

    shapes = Shapes.of("dot_product_attention", query, key, value, names, kind=jnp.inexact)
    _checks.check_one_rate(rate, "dot_product_attention takes one rate for all weights")
    draws = not (_checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0))
    law = masks.distribution(rate if draws else 0.0, dtype)
    arrays = Arrays(
        key=_checks.consume_key(dropout_rng, "dot_product_attention") if draws else None,
        threshold=law.threshold,
        scale=law.scale,
        q=query,
        k=key,
        v=value,
        bias=None if bias is None else shapes.like_weights("bias", bias, jnp.inexact),
        allowed=() if mask is None else (shapes.like_weights("mask", mask, jnp.bool_),),
        inside=(None, None),
        segments=None,
        offset=None,
    )
    weights, output = _attention_weights.attend(
        arrays,
        products or Products.of(precision, dtype, dot_general),
        is_causal=is_causal,
        broadcast_dims=shared,
        dtype=wide,
        spec=check_spec(spec, shapes),
    )
    if sow is not None:
        sow(weights)
    return output if products else output.astype(wide)


def _common(*arrays: jax.Array) -> Any:
    dtype = jnp.result_type(*arrays)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.promote_types(dtype, jnp.float32)
