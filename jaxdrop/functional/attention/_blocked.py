"""Attention by blocks: no array of query length times key length, forward or backward.

With `s = scale q k + bias` (minus infinity where attention is not allowed), `P = softmax(s)` and a
mask `D` of kept entries, scaled to mean 1, attention is `o = (D P) v`. The forward pass walks over
blocks of keys with an online softmax, and leaves `o`, `m = max(s)` and `t = sum exp(s - m)`. (Their
sum `L = m + log(t)` would lose `log(t)` where `m` is huge.) From these the derivative is one sum
over blocks that do not depend on each other:

    ds = scale (dq k + q dk) + dbias,    W = P ds = exp(s - m) ds / t,    dL = sum W,
    do = (D W) v + (D P) dv - dL o.

It is linear in the tangents, so JAX transposes it: forward mode, reverse mode and all higher
derivatives come from this one formula. Each block is computed again where it is needed, its part of
the mask included.

Arrays here are `(batch..., groups, heads of a group, length, depth)`; keys and values have no axis
for the heads of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxdrop import _numerics
from jaxdrop.functional.attention import _kernels
from jaxdrop.functional.attention._block import (
    Lead,
    Operands,
    Plan,
    Scores,
    anchor,
    at,
    join,
    over,
    split,
)
from jaxdrop.functional.attention._linear import linear_call
from jaxdrop.functional.attention._parts import by_parts

T = TypeVar("T")


def attend(plan: Plan, operands: Operands) -> jax.Array:
    """The attention, of the shape of `q` with the depth of `v`, and of the dtype of `v`."""
    rows, columns = plan.padded
    segments = operands.segments
    padded = operands._replace(
        q=_pad(operands.q, -2, rows),
        k=_pad(operands.k, -2, columns),
        v=_pad(operands.v, -2, columns),
        bias=None if operands.bias is None else _pad(_pad(operands.bias, -2, rows), -1, columns),
        allowed=tuple(_pad(_pad(mask, -2, rows), -1, columns) for mask in operands.allowed),
        segments=(
            None
            if segments is None
            else (_pad(segments[0], -2, rows), _pad(segments[1], -1, columns))
        ),
    )
    return _attend(plan, padded)[0][..., : plan.lengths[0], :]


def _pad(x: jax.Array, axis: int, length: int) -> jax.Array:
    """`x` with zeros at the end of `axis` up to `length`; itself if `axis` has length 1, and
    broadcasts.
    """
    missing = length - x.shape[axis]
    if x.shape[axis] in (1, length):
        return x
    return jnp.pad(x, [(0, missing if at == axis % x.ndim else 0) for at in range(x.ndim)])


# -- the forward pass, and its derivative


class _Softmax(NamedTuple):
    """The online softmax of each query over the blocks of keys so far."""

    top: jax.Array
    """The highest score."""
    total: jax.Array
    """The sum of `exp(score - top)`."""
    out: jax.Array
    """The sum of `exp(score - top)` times value, over the weights that are kept."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The attention, and for each query its highest score and its sum of exponentials (0 and 1 for
    a query that sees no key).
    """
    return _by_kernels(plan, operands, "forward", functools.partial(by_parts, _forward), operands)


def _by_kernels(
    plan: Plan, operands: Operands, name: str, blocks: Callable[..., T], *arrays: Any
) -> T:
    """`blocks(plan, *arrays)`, or the function `name` of the kernels where the program runs on a
    device for which they are chosen.
    """
    chosen, blocks = _kernels.chosen(plan, operands), functools.partial(blocks, plan)
    if chosen is None:
        return blocks(*arrays)
    kernels = functools.partial(getattr(chosen, name), plan)
    if chosen.INTERPRET:
        return kernels(*arrays)
    return lax.platform_dependent(*arrays, **{chosen.PLATFORM: kernels}, default=blocks)


def _forward(
    plan: Plan, operands: Operands, lead: Lead | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    wide, v = _numerics.compute_dtype(operands.v.dtype), operands.v
    scores = Scores(plan, operands, lead)

    def rows(i: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def block(carry: _Softmax, j: jax.Array) -> _Softmax:
            top, total, out = carry
            s = scores.logits(i, j, q)
            higher = jnp.maximum(top, s.max(-1))
            base = jnp.where(jnp.isneginf(higher), 0, higher)
            p, rescale = jnp.exp(s - base[..., None]), jnp.exp(top - base)
            more = scores.values(scores.mask(i, j), p, at(v, j, plan.blocks[1], -2))
            return _Softmax(higher, total * rescale + p.sum(-1), out * rescale[..., None] + more)

        zeros, initial = scores.start(q, operands)
        carry = _Softmax(zeros - jnp.inf, zeros, initial)
        top, total, out = scores.over_columns(
            i, block, carry, jnp.arange(plan.counts[1], dtype=jnp.int32)
        )
        sees = total > 0
        total = jnp.where(sees, total, 1)
        out = out * (operands.scale.astype(wide) / total)[..., None]
        return out.astype(v.dtype), jnp.where(sees, top, 0), total

    out, top, total = over(plan.counts[0], lambda i: rows(i, at(operands.q, i, plan.blocks[0], -2)))
    return join(out, -2), join(top, -1), join(total, -1)


@functools.partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(
    plan: Plan, primals: tuple[Operands], tangents: tuple[Operands]
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    (operands,), (given,) = primals, tangents
    moving = _Tangents(*(_known(tangent) for tangent in (given.q, given.k, given.v, given.bias)))
    # Inside `shard_map`, an operand that is the same on all devices gets a cotangent that is summed
    # over them: a `psum`. Its tangent is made to vary here, so that the transpose has one `psum`
    # at this point, and not one in each turn of the loops.
    here = anchor((operands, moving)) == 0
    moving = jax.tree.map(lambda tangent: lax.select_n(here, tangent, tangent), moving)
    out, top, total = _attend(plan, operands)
    moved, spread = _transposable(plan, operands, top, total, moving)
    moved = moved - spread[..., None] * out.astype(moved.dtype)
    # Only log(total) + top is ever used: the tangent of this sum is returned as that of `top`, and
    # that of `total` is 0.
    return (out, top, total), (moved.astype(out.dtype), spread, jnp.zeros_like(total))


def _transposable(
    plan: Plan, operands: Operands, top: jax.Array, total: jax.Array, moving: _Tangents
) -> tuple[jax.Array, jax.Array]:
    """`_derivative`, with the transpose computed by the kernels if they are chosen."""
    derivative = jax.checkpoint(functools.partial(_derivative, plan), prevent_cse=False)
    if _kernels.chosen(plan, operands) is None or moving.bias is not None:
        return derivative(operands, top, total, moving)

    def forward(constants: Any, moving: _Tangents) -> tuple[jax.Array, jax.Array]:
        return derivative(*constants, moving)

    @jax.custom_jvp
    def transpose(constants: Any, cotangents: tuple[jax.Array, jax.Array]) -> _Tangents:
        found = (
            *_by_kernels(plan, operands, "transposed", _transposed, *constants, *cotangents),
            None,
        )
        return _Tangents(
            *(None if like is None else x for x, like in zip(found, moving, strict=True))
        )

    @transpose.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        def by_blocks(constants: Any, cotangents: Any) -> _Tangents:
            return jax.linear_transpose(functools.partial(forward, constants), moving)(cotangents)[
                0
            ]

        return transpose(*primals), jax.jvp(by_blocks, primals, tangents)[1]

    return linear_call(forward, transpose, (operands, top, total), moving)


def _transposed(
    plan: Plan,
    operands: Operands,
    top: jax.Array,
    total: jax.Array,
    moved: jax.Array,
    spread: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of `q`, `k` and `v` from those of the results of `_derivative`."""
    derivative = functools.partial(_derivative, plan, operands, top, total)
    moving = operands.q, operands.k, operands.v
    of_moving = jax.linear_transpose(lambda q, k, v: derivative(_Tangents(q, k, v, None)), *moving)
    return of_moving((moved, spread))


class _Tangents(NamedTuple):
    """The tangents of the inputs, None for an input that has none."""

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
    return by_parts(_derivative_of_part, plan, operands, top, total, moving)


def _derivative_of_part(
    plan: Plan,
    operands: Operands,
    lead: Lead | None,
    top: jax.Array,
    total: jax.Array,
    moving: _Tangents,
) -> tuple[jax.Array, jax.Array]:
    (rows, columns), v = plan.blocks, operands.v
    wide, scores = _numerics.compute_dtype(v.dtype), Scores(plan, operands, lead)
    # Tangents with an axis of queries are split for the outer loop, those with an axis of keys for
    # the inner loop.
    outer = _Tangents(*(_split(x, -2, plan.counts[0]) for x in (moving.q, None, None, moving.bias)))
    keys, values = (_split(x, -2, plan.counts[1]) for x in (moving.k, moving.v))

    def one(i: jax.Array, j: jax.Array, d: _Tangents) -> tuple[jax.Array, jax.Array]:
        q, value = at(operands.q, i, rows, -2), at(v, j, columns, -2)
        p = (
            jnp.exp(scores.logits(i, j, q) - at(top, i, rows, -1)[..., None])
            / at(total, i, rows, -1)[..., None]
        )
        ds = jnp.zeros((), wide)
        if d.q is not None:
            ds += scores.product(d.q, at(operands.k, j, columns, -2))
        if d.k is not None:
            ds += scores.product(q, d.k)
        if d.bias is not None:
            ds += d.bias.astype(wide)
        w, mask = p * ds, scores.mask(i, j)
        out = scores.values(mask, w, value)
        if d.v is not None:
            out += scores.values(mask, p, d.v)
        return out * operands.scale.astype(wide), w.sum(-1)

    def row(i: jax.Array, d: _Tangents) -> tuple[jax.Array, jax.Array]:
        bias = moving.bias if d.bias is None else d.bias
        biases = _split(bias, -1, plan.counts[1])

        def block(
            carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, _Tangents]
        ) -> tuple[jax.Array, jax.Array]:
            j, part = x
            found = one(i, j, part._replace(q=d.q, bias=bias if part.bias is None else part.bias))
            return carry[0] + found[0], carry[1] + found[1]

        zeros, initial = scores.start(at(operands.q, i, rows, -2), (operands, moving))
        xs = jnp.arange(plan.counts[1], dtype=jnp.int32), _Tangents(None, keys, values, biases)
        return scores.over_columns(i, block, (initial, zeros), xs)

    found = over(plan.counts[0], row, outer)
    return join(found[0], -2), join(found[1], -1)


# -- blocks


def _split(x: jax.Array | None, axis: int, count: int) -> jax.Array | None:
    """The `count` blocks of `x`, along a new first axis; None if `x` is None, or if its
    one entry along `axis` is shared by several blocks.
    """
    return None if x is None or (x.shape[axis] == 1 and count != 1) else split(x, axis, count)
