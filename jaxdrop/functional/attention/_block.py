"""One block of attention: the logits of the queries of block `i` and the keys of block `j`, and
which of their weights are kept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _mapped_axes, _numerics, masks, random
from jaxdrop.functional.attention import _target
from jaxdrop.functional.attention._splitting import anchor, at

T = TypeVar("T")


class Plan(NamedTuple):
    """The static part of a call: lengths, block sizes and options."""

    lengths: tuple[int, int]
    """The numbers of queries and of keys."""
    blocks: tuple[int, int]
    """The numbers of queries and of keys in a block."""
    scale: float
    before: int | None
    """How many keys before its own position a query sees; None for all."""
    after: int | None
    """How many keys after its own position a query sees; None for all."""
    shared: tuple[int, ...]
    """Axes of the weights along which the mask is shared."""
    spec: PartitionSpec | None
    """The layout of the whole weights."""
    precision: Any
    kernels: bool | None = False
    """Whether the kernels of `_triton` compute it; None to use them if they are faster."""
    parts: tuple[int, ...] = ()
    """Into how many parts each of the first axes, up to that of the groups, is divided that are
    computed one after the other.
    """

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of blocks of queries and of keys."""
        return -(-self.lengths[0] // self.blocks[0]), -(-self.lengths[1] // self.blocks[1])

    @property
    def padded(self) -> tuple[int, int]:
        """The lengths of whole blocks."""
        return self.blocks[0] * self.counts[0], self.blocks[1] * self.counts[1]

    @property
    def is_banded(self) -> bool:
        """Whether a query sees only keys near its own position."""
        return self.before is not None or self.after is not None


class Operands(NamedTuple):
    """The operands. An array with the axes of the weights has the length of the weights, or 1,
    along each axis.
    """

    key: jax.Array | None
    """None if nothing is dropped."""
    threshold: Any
    """With `scale`, the distribution of the mask."""
    scale: Any
    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    allowed: tuple[jax.Array, ...]
    """Boolean masks that must all be true."""
    segments: tuple[jax.Array, jax.Array] | None
    """The segments of the queries and of the keys, with the axes of the weights: a query sees keys
    of its own segment only.
    """
    offset: jax.Array | None
    """The position of the first query, with the axes of the weights. The whole then has as many
    queries as keys.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lead:
    """Where batch and heads stand in the whole mask."""

    coordinates: tuple[Any, ...]
    """The coordinates along each of their axes, with the axes of the weights."""
    mask_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """The shape of the whole mask."""


def lead_of(plan: Plan, operands: Operands) -> Lead | None:
    """Where batch and heads stand in the whole mask; None without a mask."""
    if operands.key is None:
        return None
    like = operands.q[..., :1, 0]
    shared = tuple(axis for axis in plan.shared if axis < like.ndim - 1)
    spec = None if plan.spec is None else PartitionSpec(*plan.spec[: like.ndim - 1])
    coordinates, shape = masks.coordinates(like, broadcast_dims=shared, spec=spec)
    _, devices = _mapped_axes.names_and_size(plan.spec, [like.ndim - 1])
    queries = plan.lengths[0] * devices if operands.offset is None else plan.lengths[1]
    whole = (*shape[:-1], queries, plan.lengths[1])
    return Lead(
        tuple(jax.tree.map(lambda coordinate: coordinate[..., None], coordinates[:-1])),
        tuple(1 if axis in plan.shared else length for axis, length in enumerate(whole)),
    )


def kept_of(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`x` with zeros where the mask drops; `x` itself without one."""
    return x if mask is None else jnp.where(mask, x, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of the queries of block `i` against the keys of block `j`: logits, masks, products."""

    plan: Plan = dataclasses.field(metadata={"static": True})
    operands: Operands
    lead: Lead | None
    row: jax.Array
    """The place of the first query."""

    @classmethod
    def of(cls, plan: Plan, operands: Operands, lead: Lead | None = None) -> Scores:
        """Operands may be a part of the batch; `lead` then says which."""
        row: jax.Array = jnp.int32(0)
        names, _ = _mapped_axes.names_and_size(plan.spec, [operands.q.ndim - 2])
        if names:
            row = _mapped_axes.index_and_size(names)[0] * np.int32(plan.lengths[0])
        if operands.offset is not None:
            row = row + operands.offset
        return cls(plan, operands, lead or lead_of(plan, operands), row)

    @property
    def products(self) -> dict[str, Any]:
        """How matrices are multiplied."""
        wide = _numerics.compute_dtype(self.operands.q.dtype)
        return {"precision": self.plan.precision, "preferred_element_type": wide}

    def logits(self, i: jax.Array, j: jax.Array, q: jax.Array) -> tuple[jax.Array, float]:
        """An array and a positive factor, whose product are the logits, minus infinity where the
        query may not see the key. On a CPU the factor is the scale, so that the maximum is taken of
        what the product of matrices leaves; elsewhere, XLA scales that as it leaves it.
        """
        s, factor = self._product(q, at(self.operands.k, j, self.plan.blocks[1], -2)), 1.0
        is_cpu, scale = _target.platform() == "cpu", self.plan.scale
        if is_cpu and scale > 0 and self.operands.bias is None:
            factor = scale
        else:
            s *= scale
        if self.operands.bias is not None:
            s += self._part(self.operands.bias, i, j).astype(s.dtype)
        allowed = [self._part(mask, i, j) for mask in self.operands.allowed]
        row, column = self._coordinates(i, j)
        if self.plan.before is not None:
            allowed.append(column >= row - self.plan.before)
        if self.plan.after is not None:
            allowed.append(column <= row + self.plan.after)
        if self.plan.padded[1] != self.plan.lengths[1]:
            allowed.append(column < self.plan.lengths[1])
        if self.operands.segments is not None:
            of_queries, of_keys = self.operands.segments
            allowed.append(self._part(of_queries, i, j) == self._part(of_keys, i, j))
        if allowed:
            s = jnp.where(functools.reduce(jnp.logical_and, allowed), s, -jnp.inf)
        return s, factor

    def product(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """Queries times keys, scaled."""
        return self._product(q, k) * self.plan.scale

    def _product(self, q: jax.Array, k: jax.Array) -> jax.Array:
        return jnp.einsum("...kgqd,...ksd->...kgqs", q, k, **self.products)

    def values(self, mask: jax.Array | None, p: jax.Array, v: jax.Array) -> jax.Array:
        """The weights `p` that the mask keeps, times the values."""
        kept = kept_of(p, mask).astype(v.dtype)
        return jnp.einsum("...kgqs,...ksd->...kgqd", kept, v, **self.products)

    def start(self, q: jax.Array, tree: Any) -> tuple[jax.Array, jax.Array]:
        """Where a sum over blocks of keys starts: zeros, one for each query of `q`, and one for
        each entry of its output. They vary over the devices over which the arrays of `tree` vary.
        """
        wide, depth = _numerics.compute_dtype(self.operands.v.dtype), self.operands.v.shape[-1]
        zeros = jnp.zeros_like(q[..., 0], wide) + anchor(tree).astype(wide)
        return zeros, jnp.broadcast_to(zeros[..., None], (*zeros.shape, depth))

    def mask(self, i: jax.Array, j: jax.Array) -> jax.Array | None:
        """Which weights are kept, or None for all."""
        if self.operands.key is None or self.lead is None:
            return None
        before, shape = self.lead.coordinates, self.lead.mask_shape
        count, columns = self.plan.counts[1], self.plan.blocks[1]
        row, column = self._coordinates(i, j)
        place: tuple[jax.Array, ...] = (row, column)
        if shape[-1] == count * columns:
            # With the axis of keys as two axes, of blocks and within a block, every weight has the
            # same position. The place within a block is then the last coordinate, which `Positions`
            # keeps apart from the others if it can.
            shape = (*shape[:-1], count, columns)
            place = (row, j, self._columns())
        place = tuple(
            x.astype(jnp.uint32) if length != 1 else jnp.zeros((1,) * row.ndim, jnp.uint32)
            for x, length in zip(place, shape[len(before) :], strict=True)
        )
        return masks.below(
            random.bits_at(self.operands.key, (*before, *place), shape), self.operands.threshold
        )

    def over_columns(self, i: jax.Array, block: Callable[[T, Any], T], carry: T, xs: Any) -> T:
        """`carry = block(carry, x)` for each block of keys of which a query of block `i` may see
        one; the others leave the carry as it is.

        Each turn is under `jax.checkpoint`: the backward pass gets the carry of the turn and
        computes the rest again.
        """
        rematerialized = functools.partial(jax.checkpoint, prevent_cse=False)

        @rematerialized
        def step(carry: T, x: tuple[jax.Array | None, Any]) -> tuple[T, None]:
            here, each = x
            if here is None:
                return block(carry, each), None
            return lax.cond(here, lambda carry: block(carry, each), lambda same: same, carry), None

        if self.plan.counts[1] == 1:
            return step(carry, (None, jax.tree.map(lambda x: x[0], xs)))[0]
        return lax.scan(step, carry, (self._seen(i), xs))[0]

    def _seen(self, i: jax.Array) -> jax.Array | None:
        """Which blocks of keys have a key that a query of block `i` may see, or None for all."""
        rows, columns = self.plan.blocks
        segments = self.operands.segments
        if not self.plan.is_banded and segments is None:
            return None
        near = jnp.arange(self.plan.counts[1], dtype=jnp.int32) * columns
        seen = jnp.ones_like(near, bool)
        if self.plan.before is not None:
            seen &= near + (columns - 1) >= self.row.min() + i * rows - self.plan.before
        if self.plan.after is not None:
            seen &= near <= self.row.max() + i * rows + (rows - 1 + self.plan.after)
        if segments is not None:
            # Two blocks may share a segment if the ranges of their segment numbers overlap. In
            # packed sequences the numbers rise, so that few ranges do.
            queries, keys = at(segments[0], i, rows, -2), segments[1]
            keys = keys.reshape(*keys.shape[:-1], self.plan.counts[1], columns)
            meet = (keys.min(-1) <= queries.max(-2, keepdims=True)) & (
                keys.max(-1) >= queries.min(-2, keepdims=True)
            )
            seen &= meet.any(range(meet.ndim - 1))
        return seen

    def _coordinates(self, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, columns = self.plan.blocks
        ndim = self.operands.q.ndim
        row = lax.broadcasted_iota(jnp.int32, (*(1,) * (ndim - 2), rows, 1), ndim - 2) + (
            self.row + i * rows
        )
        return row, self._columns() + j * columns

    def _columns(self) -> jax.Array:
        """The places of the keys within a block."""
        columns, ndim = self.plan.blocks[1], self.operands.q.ndim
        return lax.broadcasted_iota(jnp.int32, (*(1,) * (ndim - 1), columns), ndim - 1)

    def _part(self, x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        return at(at(x, i, self.plan.blocks[0], -2), j, self.plan.blocks[1], -1)
