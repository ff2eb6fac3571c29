"""Attention by blocks: no array of query length times key length, forward or backward.

With `s = scale q k + bias` (minus infinity where attention is not allowed), `P = softmax(s)` and a
mask `D` of kept entries, scaled to mean 1, attention is `o = (D P) v`. The forward pass walks over
blocks of keys with an online softmax, and leaves `o`, `m = max(s)` and `t = sum exp(s - m)`. (Their
sum `L = m + log(t)` would lose `log(t)` where `m` is huge.) `_derivative` starts from these. Each
block is computed again where it is needed, its part of the mask included.

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
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from jaxdrop import _numerics
from jaxdrop.functional.attention import _kernels
from jaxdrop.functional.attention._block import Lead, Operands, Plan, Scores
from jaxdrop.functional.attention._derivative import Tangents, derivative
from jaxdrop.functional.attention._linear import linear_call
from jaxdrop.functional.attention._parts import by_parts
from jaxdrop.functional.attention._splitting import anchor, at, join, over
from jaxdrop.functional.attention._transpose import Cotangents, of, transposed

T = TypeVar("T")

_NAME = "jaxdrop.dot_product_attention"
"""The name, for `jax.checkpoint_policies`, of the results that the derivative is computed from."""


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
    scores = Scores.of(plan, operands, lead)

    def rows(i: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def block(carry: _Softmax, j: jax.Array) -> _Softmax:
            top, total, out = carry
            s, factor = scores.logits(i, j, q)
            higher = jnp.maximum(top, s.max(-1) * factor)
            base = jnp.where(jnp.isneginf(higher), 0, higher)
            p, rescale = jnp.exp(s * factor - base[..., None]), jnp.exp(top - base)
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
    moving = Tangents(*(_known(tangent) for tangent in (given.q, given.k, given.v, given.bias)))
    # Inside `shard_map`, an operand that is the same on all devices gets a cotangent that is summed
    # over them: a `psum`. Its tangent is made to vary here, so that the transpose has one `psum`
    # at this point, and not one in each turn of the loops.
    here = anchor((operands, moving)) == 0
    moving = jax.tree.map(lambda tangent: lax.select_n(here, tangent, tangent), moving)
    out, top, total = (checkpoint_name(x, _NAME) for x in _attend(plan, operands))
    moved, spread = _transposable(plan, operands, top, total, moving)
    moved = moved - spread[..., None] * out.astype(moved.dtype)
    # Only log(total) + top is ever used: the tangent of this sum is returned as that of `top`, and
    # that of `total` is 0.
    return (out, top, total), (moved.astype(out.dtype), spread, jnp.zeros_like(total))


def _transposable(
    plan: Plan, operands: Operands, top: jax.Array, total: jax.Array, moving: Tangents
) -> tuple[jax.Array, jax.Array]:
    """`derivative`, with the transpose of `_transpose`, or that of the kernels if they are
    chosen.
    """
    moves = tuple(x is not None for x in moving)
    by_kernels = moving.bias is None and _kernels.chosen(plan, operands) is not None

    @_rematerialized
    def forward(constants: Any, moving: Tangents) -> tuple[jax.Array, jax.Array]:
        operands, top, total = constants
        return derivative(plan, operands, top, total, moving)

    @_rematerialized
    def transpose(constants: Any, cotangents: tuple[jax.Array, jax.Array]) -> Tangents:
        operands, top, total = constants
        if by_kernels:
            return of(moves, *_transposed(plan, operands, top, total, *cotangents), None)
        return transposed(plan, operands, top, total, Cotangents(*cotangents), moves)

    return linear_call(forward, transpose, (operands, top, total), moving)


_rematerialized = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _transposed(plan: Plan, operands: Operands, *arrays: jax.Array) -> tuple[Any, ...]:
    """The cotangents of `q`, `k` and `v`, by the kernels."""
    return _by_kernels(plan, operands, "transposed", _of_all, operands, *arrays)


@_transposed.defjvp
def _transposed_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    blocks = functools.partial(_of_all, plan)
    return _transposed(plan, *primals), jax.jvp(blocks, primals, tangents)[1]


def _of_all(
    plan: Plan,
    operands: Operands,
    top: jax.Array,
    total: jax.Array,
    moved: jax.Array,
    spread: jax.Array,
) -> tuple[Any, ...]:
    """The cotangents of `q`, `k` and `v`, as the kernels give them."""
    given, of_all = Cotangents(moved, spread), (True, True, True, False)
    found = transposed(plan, operands, top, total, given, of_all)
    return found.q, found.k, found.v


def _known(tangent: Any) -> jax.Array | None:
    return None if isinstance(tangent, SymbolicZero) else tangent
