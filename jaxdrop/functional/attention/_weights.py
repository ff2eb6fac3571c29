"""Attention that forms the array of weights, for callers who read the weights or bring their own
matrix products.

The masks are those of attention by blocks, and a query that sees no key gets zeros here too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _mapped_axes, _numerics, masks
from jaxdrop.functional.attention._layout import Arrays, by_device

Einsum = Callable[..., jax.Array]


class Products(NamedTuple):
    """How queries are multiplied by keys, and weights by values: as `jnp.einsum(subscripts, a,
    b)`.
    """

    logits: Einsum
    output: Einsum

    @classmethod
    def of(cls, precision: Any, dtype: Any, dot_general: Einsum | None) -> Products:
        """The products of `jnp.einsum`, or of a `dot_general` that is given. Products of 16-bit
        numbers are summed in float32.
        """
        options = {"precision": precision, "preferred_element_type": _numerics.compute_dtype(dtype)}
        if dot_general is None:
            einsum = functools.partial(jnp.einsum, **options)
            return cls(einsum, einsum)

        def logits(_: str, q: jax.Array, k: jax.Array) -> jax.Array:
            batch = range(q.ndim - 3)
            axes = (*batch, q.ndim - 2)
            return dot_general(q, k, (((q.ndim - 1,), (k.ndim - 1,)), (axes, axes)), **options)

        def output(_: str, p: jax.Array, v: jax.Array) -> jax.Array:
            batch = range(v.ndim - 3)
            dimensions = (
                ((p.ndim - 1,), (v.ndim - 3,)),
                ((*batch, p.ndim - 3), (*batch, v.ndim - 2)),
            )
            return jnp.swapaxes(dot_general(p, v, dimensions, **options), -2, -3)

        return cls(logits, output)


@jax.named_scope("jaxdrop.dot_product_attention")
def attend(
    arrays: Arrays,
    products: Products,
    *,
    window: tuple[int | None, int | None],
    broadcast_dims: tuple[int, ...],
    dtype: Any,
    spec: PartitionSpec | None,
) -> tuple[jax.Array, jax.Array]:
    """The weights before dropout, of `dtype`, and the output. Logits and softmax are computed in
    float32 at least. `window` is how many keys before its place and behind it a query sees.
    """
    before, after = window

    def local(arrays: Arrays, spec: PartitionSpec | None) -> tuple[jax.Array, jax.Array]:
        q, k, v = arrays.q, arrays.k, arrays.v
        k, v = (jnp.repeat(x, q.shape[-2] // x.shape[-2], axis=-2) for x in (k, v))
        lead, names = q.ndim - 3, _mapped_axes.names_and_size(spec, [q.ndim - 3])[0]
        s = products.logits(
            "...qhd,...khd->...hqk", q * np.asarray(q.shape[-1] ** -0.5, q.dtype), k
        )
        s = s.astype(_numerics.compute_dtype(s.dtype))
        if arrays.bias is not None:
            s += arrays.bias.astype(s.dtype)
        allowed = list(arrays.allowed)
        row, column = (
            lax.broadcasted_iota(jnp.int32, (*(1,) * (lead + 1), *s.shape[-2:]), lead + at)
            for at in (1, 2)
        )
        if names:
            row += _mapped_axes.index_and_size(names)[0] * np.int32(s.shape[-2])
        if arrays.offset is not None:
            row += jnp.expand_dims(arrays.offset, range(arrays.offset.ndim, lead + 3))
        if before is not None:
            allowed.append(column >= row - before)
        if after is not None:
            allowed.append(column <= row + after)
        for seen in allowed:
            s = jnp.where(seen, s, jnp.asarray(-jnp.inf, s.dtype))
        weights = softmax(s).astype(dtype)
        kept = weights
        if arrays.key is not None:
            entries = [*(spec or ()), *[None] * q.ndim]
            whole = (
                None
                if spec is None
                else PartitionSpec(*entries[:lead], entries[lead + 1], entries[lead])
            )
            # The whole has as many queries as keys, if an offset says where these are.
            part = (
                None if arrays.offset is None else masks.Part(arrays.offset, s.shape[-1], lead + 1)
            )
            keep = masks.keep_mask(
                arrays.key,
                weights,
                arrays.threshold,
                broadcast_dims=broadcast_dims,
                spec=whole,
                part=part,
            )
            kept = masks.scaled(keep, weights, arrays.scale)
        return weights, products.output(
            "...hqk,...khd->...qhd", kept, v.astype(jnp.promote_types(v.dtype, dtype))
        )

    return by_device(local, arrays, spec, lambda layout: (layout.like_weights, layout.like_q))


def softmax(s: jax.Array) -> jax.Array:
    """Over the last axis: `exp(s) / sum exp(s)`, also of complex numbers, and 0 where all are minus
    infinity.
    """
    top = lax.stop_gradient(s.real.max(-1, keepdims=True))
    p = jnp.exp(s - jnp.where(jnp.isneginf(top), jnp.zeros_like(top), top).astype(s.dtype))
    total = p.sum(-1, keepdims=True)
    return p / jnp.where(jnp.isneginf(top), jnp.ones_like(total), total)
