"""Attention by blocks: no array of query length times key length, forward or backward.

With `s = scale q k + bias` (minus infinity where attention is not allowed), `P = softmax(s)` and a mask `D` of kept entries,
scaled to mean 1, attention is `o = (D P) v`. The forward pass walks over blocks of keys with an online softmax, and leaves `o`,
`m = max(s)` and `t = sum exp(s - m)`. (Their sum `L = m + log(t)` would lose `log(t)` where `m` is huge.) From these the
derivative is one sum over blocks that do not depend on each other:

    ds = scale (dq k + q dk) + dbias,   W = P ds = exp(s - m) ds / t,   dL = sum W,   do = (D W) v + (D P) dv - dL o.

It is linear in the tangents, so JAX transposes it: forward mode, reverse mode and all higher derivatives come from this one
formula. Each block is computed again where it is needed, its part of the mask included.

Arrays here are `(batch..., groups, heads of a group, length, depth)`; keys and values have no axis for the heads of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from jaxdrop import masks, random

T = TypeVar("T")


class Plan(NamedTuple):
    """What is known when the function is traced."""

    lengths: tuple[int, int]
    """Of the queries and of the keys."""
    blocks: tuple[int, int]
    """How many queries and keys make a block."""
    scale: float
    before: int | None
    """How many keys before its own place a query sees; None for all."""
    after: int | None
    shared: tuple[int, ...]
    """Axes of the weights along which the mask is shared."""
    spec: PartitionSpec | None
    """The layout of the whole weights."""
    precision: Any

    @property
    def counts(self) -> tuple[int, int]:
        """How many blocks there are."""
        return -(-self.lengths[0] // self.blocks[0]), -(-self.lengths[1] // self.blocks[1])

    @property
    def is_banded(self) -> bool:
        """Whether whole blocks may be out of every query's sight."""
        return self.before is not None or self.after is not None


class Operands(NamedTuple):
    """The arrays. A mask or a bias has the axes of the weights, each of its length there or of length 1."""

    key: jax.Array | None
    """None if nothing is dropped."""
    threshold: jax.Array
    scale: jax.Array
    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    allowed: tuple[jax.Array, ...]
    """Boolean masks that must all be true."""


def attend(plan: Plan, operands: Operands) -> jax.Array:
    """The attention, of the shape of `q` with the depth of `v`, and of the dtype of `v`."""
    rows, columns = (block * count for block, count in zip(plan.blocks, plan.counts, strict=True))
    padded = operands._replace(
        q=_pad(operands.q, -2, rows),
        k=_pad(operands.k, -2, columns),
        v=_pad(operands.v, -2, columns),
        bias=None if operands.bias is None else _pad(_pad(operands.bias, -2, rows), -1, columns),
        allowed=tuple(_pad(_pad(mask, -2, rows), -1, columns) for mask in operands.allowed),
    )
    return _attend(plan, padded)[0][..., : plan.lengths[0], :]


def _pad(x: jax.Array, axis: int, length: int) -> jax.Array:
    """`x` with zeros at the end of `axis`, unless all entries along it are the same one."""
    missing = length - x.shape[axis]
    if missing == 0 or x.shape[axis] == 1:
        return x
    return jnp.pad(x, [(0, missing if at == axis % x.ndim else 0) for at in range(x.ndim)])


# -- the forward pass, and its derivative


class _Softmax(NamedTuple):
    """What has been seen so far."""

    top: jax.Array
    """The highest score."""
    total: jax.Array
    """The sum of `exp(score - top)`."""
    out: jax.Array
    """The sum of `exp(score - top)` times value, over what is kept."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention; the highest score and the sum of exponentials of each query, 0 and 1 for a query that sees no key."""
    wide, v = masks.wide(operands.v.dtype), operands.v
    see = _Sight(plan, operands)

    def rows(i: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def block(carry: _Softmax, j: jax.Array) -> _Softmax:
            top, total, out = carry
            s = see.scores(i, j, q)
            higher = jnp.maximum(top, s.max(-1))
            base = jnp.where(jnp.isneginf(higher), 0, higher)
            p, fade = jnp.exp(s - base[..., None]), jnp.exp(top - base)
            more = see.values(see.mask(i, j), p, _at(v, j, plan.blocks[1], -2))
            return _Softmax(higher, total * fade + p.sum(-1), out * fade[..., None] + more)

        none, nothing = see.start(q, operands)
        carry = _Softmax(none - jnp.inf, none, nothing)
        top, total, out = see.over_columns(i, block, carry, jnp.arange(plan.counts[1], dtype=jnp.int32))
        sees = total > 0
        total = jnp.where(sees, total, 1)
        out = out * (operands.scale.astype(wide) / total)[..., None]
        return out.astype(v.dtype), jnp.where(sees, top, 0), total

    out, top, total = _over(plan.counts[0], lambda i: rows(i, _at(operands.q, i, plan.blocks[0], -2)))
    return _join(out, -2), _join(top, -1), _join(total, -1)


@functools.partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(
    plan: Plan, primals: tuple[Operands], tangents: tuple[Operands]
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    (operands,), (given,) = primals, tangents
    moving = _Tangents(*(_known(tangent) for tangent in (given.q, given.k, given.v, given.bias)))
    # What is the same on all devices gets a sum over them as its cotangent: here, once, and not in the loops, block by block.
    here = _anchor((operands, moving)) == 0
    moving = jax.tree.map(lambda tangent: lax.select_n(here, tangent, tangent), moving)
    out, top, total = _attend(plan, operands)
    derivative = jax.checkpoint(functools.partial(_derivative, plan), prevent_cse=False)
    moved, spread = derivative(operands, top, total, moving)
    moved = moved - spread[..., None] * out.astype(moved.dtype)
    # Of top and total only log(total) + top is of use, and all of its tangent is given to top.
    return (out, top, total), (moved.astype(out.dtype), spread, jnp.zeros_like(total))


class _Tangents(NamedTuple):
    """Those of the inputs, None where there is none."""

    q: jax.Array | None
    k: jax.Array | None
    v: jax.Array | None
    bias: jax.Array | None


def _known(tangent: Any) -> jax.Array | None:
    return None if isinstance(tangent, SymbolicZero) else tangent


def _derivative(
    plan: Plan, operands: Operands, top: jax.Array, total: jax.Array, moving: _Tangents
) -> tuple[jax.Array, jax.Array]:
    """`(D W) v + (D P) dv` and `dL` of the module's formula."""
    (rows, columns), (wide, v) = plan.blocks, (masks.wide(operands.v.dtype), operands.v)
    see = _Sight(plan, operands)
    # What is divided along the queries comes block by block from the outer loop, along the keys from the inner one.
    outer = _Tangents(*(_split(x, -2, plan.counts[0]) for x in (moving.q, None, None, moving.bias)))
    keys, values = (_split(x, -2, plan.counts[1]) for x in (moving.k, moving.v))

    def one(i: jax.Array, j: jax.Array, d: _Tangents) -> tuple[jax.Array, jax.Array]:
        q, value = _at(operands.q, i, rows, -2), _at(v, j, columns, -2)
        p = jnp.exp(see.scores(i, j, q) - _at(top, i, rows, -1)[..., None]) / _at(total, i, rows, -1)[..., None]
        ds = jnp.zeros((), wide)
        if d.q is not None:
            ds += see.product(d.q, _at(operands.k, j, columns, -2))
        if d.k is not None:
            ds += see.product(q, d.k)
        if d.bias is not None:
            ds += d.bias.astype(wide)
        w, mask = p * ds, see.mask(i, j)
        out = see.values(mask, w, value)
        if d.v is not None:
            out += see.values(mask, p, d.v)
        return out * operands.scale.astype(wide), w.sum(-1)

    def row(i: jax.Array, d: _Tangents) -> tuple[jax.Array, jax.Array]:
        bias = moving.bias if d.bias is None else d.bias
        biases = _split(bias, -1, plan.counts[1])

        def block(carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, _Tangents]) -> tuple[jax.Array, jax.Array]:
            j, part = x
            found = one(i, j, part._replace(q=d.q, bias=bias if part.bias is None else part.bias))
            return carry[0] + found[0], carry[1] + found[1]

        none, nothing = see.start(_at(operands.q, i, rows, -2), (operands, moving))
        xs = jnp.arange(plan.counts[1], dtype=jnp.int32), _Tangents(None, keys, values, biases)
        return see.over_columns(i, block, (nothing, none), xs)

    found = _over(plan.counts[0], row, outer)
    return _join(found[0], -2), _join(found[1], -1)


# -- one block


class _Sight:
    """What the queries of block `i` see of the keys of block `j`."""

    def __init__(self, plan: Plan, operands: Operands) -> None:
        self.plan, self.operands = plan, operands
        self.products = {"precision": plan.precision, "preferred_element_type": masks.wide(operands.q.dtype)}
        lead = operands.q[..., :1, 0]
        self.row: jax.Array = jnp.int32(0)
        names, self.parts = masks.mapped_axes(plan.spec, [lead.ndim - 1])
        if names:
            self.row = random.axis_place(names)[0] * np.int32(plan.lengths[0])
        if operands.key is not None:
            shared = tuple(axis for axis in plan.shared if axis < lead.ndim - 1)
            spec = None if plan.spec is None else PartitionSpec(*plan.spec[: lead.ndim - 1])
            coordinates, extent = masks.coordinates(lead, broadcast_dims=shared, spec=spec)
            self.lead = jax.tree.map(lambda coordinate: coordinate[..., None], coordinates[:-1])
            self.extent = (*extent[:-1], plan.lengths[0] * self.parts, plan.lengths[1])

    def scores(self, i: jax.Array, j: jax.Array, q: jax.Array) -> jax.Array:
        """The logits, minus infinity where a key is out of sight."""
        columns = self.plan.blocks[1]
        s = self.product(q, _at(self.operands.k, j, columns, -2))
        if self.operands.bias is not None:
            s += self._part(self.operands.bias, i, j).astype(s.dtype)
        allowed = [self._part(mask, i, j) for mask in self.operands.allowed]
        row, column = self._coordinates(i, j)
        if self.plan.before is not None:
            allowed.append(column >= row - self.plan.before)
        if self.plan.after is not None:
            allowed.append(column <= row + self.plan.after)
        if self.plan.lengths[1] % columns:
            allowed.append(column < self.plan.lengths[1])
        return jnp.where(functools.reduce(jnp.logical_and, allowed), s, -jnp.inf) if allowed else s

    def product(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """Queries times keys, scaled."""
        return jnp.einsum("...kgqd,...ksd->...kgqs", q, k, **self.products) * self.plan.scale

    def values(self, mask: jax.Array | None, p: jax.Array, v: jax.Array) -> jax.Array:
        """`p` where the mask keeps it, times values."""
        kept = p if mask is None else jnp.where(mask, p, 0)
        return jnp.einsum("...kgqs,...ksd->...kgqd", kept.astype(v.dtype), v, **self.products)

    def start(self, q: jax.Array, tree: Any) -> tuple[jax.Array, jax.Array]:
        """Zeros to which numbers of each query of `q` are added, and outputs; `tree` is what these come from."""
        wide, depth = masks.wide(self.operands.v.dtype), self.operands.v.shape[-1]
        none = jnp.zeros_like(q[..., 0], wide) + _anchor(tree).astype(wide)
        return none, jnp.broadcast_to(none[..., None], (*none.shape, depth))

    def mask(self, i: jax.Array, j: jax.Array) -> jax.Array | None:
        """Which weights are kept, or None for all."""
        if self.operands.key is None:
            return None
        row, column = (x.astype(jnp.uint32) for x in self._coordinates(i, j))
        axes = len(self.lead)
        extent = [1 if axis in self.plan.shared else length for axis, length in enumerate(self.extent)]
        place = [x if extent[axes + at] > 1 else jnp.zeros_like(x[..., :1, :1]) for at, x in enumerate((row, column))]
        return masks.below(random.bits_at(self.operands.key, (*self.lead, *place), extent), self.operands.threshold)

    def over_columns(self, i: jax.Array, block: Callable[[T, Any], T], carry: T, xs: Any) -> T:
        """`block` for each block of keys, but for those of which no query of block `i` sees any.

        What it computes is not stored for a backward pass, nor is what a branch would hand out of a condition.
        """
        rows, columns = self.plan.blocks

        forgetful = functools.partial(jax.checkpoint, prevent_cse=False)

        @forgetful
        def step(carry: T, x: Any) -> tuple[T, None]:
            if not self.plan.is_banded:
                return block(carry, x), None
            j = jax.tree.leaves(x)[0]
            first, near = self.row + i * rows, j * columns
            seen = jnp.bool_(True)
            if self.plan.before is not None:
                seen &= near + (columns - 1) >= first - self.plan.before
            if self.plan.after is not None:
                seen &= near <= first + (rows - 1) + self.plan.after
            return lax.cond(seen, lambda carry: block(carry, x), lambda carry: carry, carry), None

        if self.plan.counts[1] == 1:
            return forgetful(block)(carry, jax.tree.map(lambda x: x[0], xs))
        return lax.scan(step, carry, xs)[0]

    def _coordinates(self, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, columns = self.plan.blocks
        ndim = self.operands.q.ndim
        row = lax.broadcasted_iota(jnp.int32, (*(1,) * (ndim - 2), rows, 1), ndim - 2) + (self.row + i * rows)
        return row, lax.broadcasted_iota(jnp.int32, (*(1,) * (ndim - 1), columns), ndim - 1) + j * columns

    def _part(self, x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        return _at(_at(x, i, self.plan.blocks[0], -2), j, self.plan.blocks[1], -1)


def _at(x: jax.Array, index: jax.Array, length: int, axis: int) -> jax.Array:
    """Block `index` along `axis`; all of `x` where there is one block, or one entry for all."""
    return x if x.shape[axis] in (1, length) else lax.dynamic_slice_in_dim(x, index * length, length, axis)


def _split(x: jax.Array | None, axis: int, count: int) -> jax.Array | None:
    """The blocks along `axis`, one behind the other along a new first axis; None if there is one entry for all of them."""
    if x is None or (x.shape[axis] == 1 and count > 1):
        return None
    axis %= x.ndim
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)


def _join(blocks: jax.Array, axis: int) -> jax.Array:
    """The array of which these are the blocks."""
    axis %= blocks.ndim - 1
    x = jnp.moveaxis(blocks, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _over(count: int, row: Callable[..., Any], *xs: Any) -> Any:
    """`row(i, *xs[i])` for each block of queries, stacked."""
    if count == 1:
        found = row(jnp.int32(0), *jax.tree.map(lambda x: x[0], xs))
        return jax.tree.map(lambda x: x[None], found)
    return lax.map(lambda x: row(*x), (jnp.arange(count, dtype=jnp.int32), *xs))


def _anchor(tree: Any) -> jax.Array:
    """A zero that varies over the devices wherever one of the arrays does: where a sum of their products starts."""
    leaves = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]
    return functools.reduce(jnp.add, [jnp.zeros_like(leaf.sum(), jnp.float32) for leaf in leaves])
