"""Attention by loops over parts of the batch and of the heads. A part has few heads, so that its
blocks can be large and yet stay in the cache of a CPU.

Examples and heads do not depend on each other: each part computes what it would as a part of the
whole, and its mask is a part of the whole mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

from jaxdrop.functional.attention._block import Operands, Plan, lead_of
from jaxdrop.functional.attention._splitting import join, split

T = TypeVar("T")


def by_parts(
    compute: Callable[..., T], plan: Plan, operands: Operands, *arrays: Any, like: Any = None
) -> T:
    """`compute(plan, operands, lead_of(plan, operands), *arrays)`; if the plan says so, and the
    program runs on a CPU, by loops over parts.

    A result has the axes of the batch and of the groups; or, with `like`, those of the array of
    `like` in its place, where 1 is the length of an axis that is summed over.

    The plan was made for the CPU of this process, and the program may be compiled for another
    device.
    """
    whole = functools.partial(compute, plan)
    looped: Callable[..., T] = whole
    for axis, count in reversed([*enumerate(plan.parts)]):
        if count > 1:
            looped = _over_parts(looped, axis, operands.q.shape[axis], count, like)
    given = operands, lead_of(plan, operands), *arrays
    return (
        whole(*given)
        if looped is whole
        else lax.platform_dependent(*given, cpu=looped, default=whole)
    )


def _over_parts(
    compute: Callable[..., T], axis: int, length: int, count: int, like: Any
) -> Callable[..., T]:
    """`compute` of `count` parts, one after the other, of the arrays that have this length along
    the axis. An array that has length 1 there, or is a scalar, belongs to every part.
    """

    def run(*given: Any) -> T:
        leaves, tree = jax.tree.flatten(given)
        divided = [x.ndim > axis and x.shape[axis] == length for x in leaves]

        def part(parts: list[jax.Array]) -> T:
            of_part = iter(parts)
            here = [next(of_part) if own else x for x, own in zip(leaves, divided, strict=True)]
            return compute(*jax.tree.unflatten(tree, here))

        def whole(x: jax.Array, like: jax.Array | None = None) -> jax.Array:
            is_sum = like is not None and like.shape[axis] != length
            return x.sum(0) if is_sum else join(x, axis)

        parts = [split(x, axis, count) for x, own in zip(leaves, divided, strict=True) if own]
        found = lax.map(part, parts)
        return jax.tree.map(whole, found, *([] if like is None else [like]))

    return run
