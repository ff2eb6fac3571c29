"""The shapes of attention, and checks of the arrays that must have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _mapped_axes


class Shapes(NamedTuple):
    """The lengths of the axes of attention.

    The weights are `(batch..., heads, queries, keys)`, and grouped `(batch..., groups, heads /
    groups, queries, keys)`.
    """

    batch: tuple[int, ...]
    heads: int
    groups: int
    queries: int
    keys: int
    depth: int
    value_depth: int

    @classmethod
    def of(
        cls,
        caller: str,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        names: Sequence[str] = ("q", "k", "v"),
        kind: Any = jnp.floating,
    ) -> Shapes:
        """The shapes of `q`, `k` and `v`, if they fit each other and have dtypes of `kind`. `names`
        are the names of these arguments in `caller`, for messages.
        """
        one, two, three = names
        every = f"{one}, {two} and {three}"
        for name, x in zip(names, (q, k, v), strict=True):
            if not hasattr(x, "dtype"):
                raise TypeError(
                    f"{name} must be an array of floating numbers, got {_checks.quoted(x)}"
                )
            if not jnp.issubdtype(x.dtype, kind):
                hint = (
                    "Complex weights have no order."
                    if jnp.iscomplexobj(x)
                    else "The PRNG key comes first."
                )
                raise TypeError(
                    f"{name} must be an array of floating numbers, got dtype {x.dtype}. {hint}"
                )
            _checks.check_dtype_of_jax(x, name)
        if len({q.dtype, k.dtype, v.dtype}) > 1:
            raise TypeError(
                f"{every} must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}. Convert them"
                " with astype."
            )
        shown = f"got {one} {q.shape}, {two} {k.shape} and {three} {v.shape}"
        if not 3 <= q.ndim == k.ndim == v.ndim:
            raise ValueError(
                f"{caller} takes (batch..., length, heads, depth) three times, of the same rank,"
                f" {shown}"
            )
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(
                f"{two} and {three} lengths must match, and so must their batch dims and heads,"
                f" {shown}"
            )
        if q.shape[:-3] != k.shape[:-3]:
            raise ValueError(f"{one} and {two} must have the same batch dims, {shown}")
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(
                f"{one} and {two} depths must match, which are their last axes, {shown}"
            )
        heads, groups = q.shape[-2], k.shape[-2]
        if groups == 0 or heads % groups:
            raise ValueError(
                f"the heads of {one}, {heads}, must be a multiple of those of {two} and {three},"
                f" {groups}: {shown}"
            )
        return cls(q.shape[:-3], heads, groups, q.shape[-3], k.shape[-3], q.shape[-1], v.shape[-1])

    @property
    def weights(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return *self.batch, self.heads, self.queries, self.keys

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of the output."""
        return *self.batch, self.queries, self.heads, self.value_depth

    def like_weights(self, name: str, x: jax.Array, kind: Any = jnp.floating) -> jax.Array:
        """A mask or a bias with as many axes as the weights: axes of length 1 are put in front."""
        x = jnp.asarray(_checks.check_array(x, name))
        if kind is jnp.bool_ and x.dtype != bool:
            raise TypeError(
                f"{name} must be boolean, True where a query may see a key, got {x.dtype}. What is"
                " added is a bias."
            )
        if not jnp.issubdtype(x.dtype, kind):
            raise TypeError(
                f"{name} must be an array of floating numbers, got {x.dtype}. A boolean one is a"
                " mask."
            )
        expected = f"(batch..., heads, queries, keys), here {self.weights}"
        if x.ndim < len(self.weights) and any(length != 1 for length in x.shape[:-2]):
            raise ValueError(
                f"{name} of shape {x.shape} has fewer axes than {expected}, so its first may stand"
                f" for examples or for heads. For one a head give {name}[None], for one an example"
                f" {name}[:, None]: of the axes in front, none may be left out."
            )
        whole = self.weights[-x.ndim :] if x.ndim else ()
        if x.ndim > len(self.weights) or any(
            length not in (1, all_of) for length, all_of in zip(x.shape, whole, strict=True)
        ):
            hint = f" If it is (batch, keys), give {name}[:, None, None, :]." if x.ndim == 2 else ""
            raise ValueError(f"{name} of shape {x.shape} does not broadcast to {expected}.{hint}")
        return lax.expand_dims(x, range(len(self.weights) - x.ndim))

    def within(
        self, name: str, lengths: jax.Array, length: int, origin: jax.Array | int = 0
    ) -> jax.Array:
        """Booleans `(batch..., length)`: which of the positions from `origin` on lie within the
        length of each example.
        """
        lengths = jnp.asarray(_checks.check_array(lengths, name, "integers"))
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(f"{name} must be integers, got {lengths.dtype}")
        if lengths.shape != self.batch:
            raise ValueError(
                f"{name} must have one length for each example, shape {self.batch}, got shape"
                f" {lengths.shape}"
            )
        place = lax.broadcasted_iota(jnp.int32, (*(1,) * len(self.batch), length), len(self.batch))
        return place + origin < jnp.expand_dims(lengths.astype(jnp.int32), -1)

    def padding(
        self, of_queries: Any, of_keys: Any, names: Sequence[str]
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Which queries, and which keys, lie within the arguments `query_seq_lengths` and
        `key_value_seq_lengths`; None where there is none. `names` are the axes of the mesh that
        divide the queries.
        """
        if of_queries is not None:
            first = _mapped_axes.index_and_size(names)[0] * self.queries if names else 0
            of_queries = self.within("query_seq_lengths", of_queries, self.queries, first)
        if of_keys is not None:
            of_keys = self.within("key_value_seq_lengths", of_keys, self.keys)
        return of_queries, of_keys

    def segments(self, segment_ids: Any) -> tuple[jax.Array, jax.Array]:
        """The segments of the queries and of the keys, integers of one dtype, `(batch...,
        length)`.
        """
        pair = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
        if len(pair) != 2:
            raise ValueError(
                "segment_ids must be one array or (of queries, of keys), got a tuple of"
                f" {len(pair)}"
            )
        shapes = [(*self.batch, self.queries), (*self.batch, self.keys)]
        for ids, shape in zip(pair, shapes, strict=True):
            if not jnp.issubdtype(getattr(ids, "dtype", np.dtype(object)), jnp.integer):
                raise TypeError(
                    "segment_ids must be arrays of integers, got"
                    f" {getattr(ids, 'dtype', repr(ids))}"
                )
            if ids.shape != shape:
                raise ValueError(
                    f"segment_ids must have an id for each query, shape {shapes[0]}, and one for"
                    f" each key, shape {shapes[1]}: one array for both where they are the same,"
                    f" otherwise (of queries, of keys). Got shape {ids.shape}."
                )
        first, second = map(jnp.asarray, pair)  # as 32 bits, where JAX has no more
        dtype = jnp.int64 if 8 in (first.dtype.itemsize, second.dtype.itemsize) else jnp.int32
        return first.astype(dtype), second.astype(dtype)

    def offset(self, query_offset: Any, queries: int | None) -> jax.Array:
        """The argument `query_offset` as int32, one number for all examples or one for each.

        `queries` is the number of queries of the whole array if masks are drawn, for each query
        must then have a row among the weights; otherwise None.
        """
        if queries is None:
            shapes = {(), self.batch}
            return _checks.check_offset(query_offset, "query_offset", shapes, 2**31 - 1)
        last = self.keys - queries
        return _checks.check_offset(
            query_offset,
            "query_offset",
            {(), self.batch},
            last,
            f" and, with the {queries} queries, at most {last}",
            f" Each query draws at a place of its own among {self.keys}, as many as keys.",
        )


def check_spec(spec: PartitionSpec | None, shapes: Shapes) -> PartitionSpec | None:
    """The layout of the whole `q`, if it does not divide the depth."""
    layout = _checks.check_spec(spec, len(shapes.output))
    if layout is not None and len(layout) == len(shapes.output) and layout[-1]:
        raise ValueError(
            f"spec={spec} divides the depth, over which attention sums. Batch, queries and heads"
            " may be divided."
        )
    return layout
