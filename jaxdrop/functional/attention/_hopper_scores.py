"""Blocks of scores in the registers of a warpgroup, in the layouts that its products have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from jaxdrop.functional.attention import _problem
from jaxdrop.functional.attention._problem import Mask, Problem

plgpu: Any = mosaic_gpu
"""Its names differ from JAX to JAX."""


class Accumulator(NamedTuple):
    """The layout of a block of scores: queries along rows and keys along columns, or turned."""

    shape: tuple[int, int]
    turned: bool

    @property
    def keys(self) -> int:
        """How many keys the block has."""
        return self.shape[not self.turned]

    def of_queries(self, x: jax.Array) -> jax.Array:
        """A number for each query."""
        return lax.broadcast_in_dim(x, self.shape, (int(self.turned),))

    def loaded(self, ref: Any) -> jax.Array:
        """`of_queries`, from shared memory."""
        return self.of_queries(plgpu.load(ref, layout=self.per_query()))

    def per_query(self) -> Any:
        """The layout of one number for each query."""
        return plgpu.Layout.WGMMA.reduce(int(not self.turned))

    def query(self) -> jax.Array:
        """The number of the query, from the block's first."""
        numbers = lax.iota(jnp.int32, self.shape[self.turned])
        return self.of_queries(plgpu.layout_cast(numbers, self.per_query()))

    def key(self) -> jax.Array:
        """The number of the key, from the block's first."""
        return plgpu.broadcasted_iota(
            jnp.int32, self.shape, int(not self.turned), layout=plgpu.Layout.WGMMA
        )


def filled(shape: tuple[int, ...], value: float, layout: Any = None) -> jax.Array:
    """An accumulator, or a vector of another layout."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout or plgpu.Layout.WGMMA)


def products(
    problem: Problem, factors: list[tuple[Any, Any]], meanwhile: Callable[[], None]
) -> list[jax.Array]:
    """`a b'` for pairs of blocks in shared memory; `meanwhile` happens while they are computed."""
    if problem.interpret:
        meanwhile()
        return [jnp.dot(a[...], b[...].T, preferred_element_type=jnp.float32) for a, b in factors]

    def multiply(*found: Any) -> list[jax.Array]:
        for to, (a, b) in zip(found, factors, strict=True):
            plgpu.wgmma(to, a, b.transpose((1, 0)))
        meanwhile()
        return [to[...] for to in found]

    shapes = ((a.shape[0], b.shape[0]) for a, b in factors)
    return pl.run_scoped(multiply, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


def added(problem: Problem, terms: list[tuple[jax.Array, jax.Array, Any]]) -> tuple[jax.Array, ...]:
    """`to + a b` for each `(to, a, b)`, with `b` in shared memory."""
    if problem.interpret:
        return tuple(
            to + jnp.dot(a, b[...], preferred_element_type=jnp.float32) for to, a, b in terms
        )

    def multiply(found: Any) -> None:
        for to, (_, a, b) in zip(found, terms, strict=True):
            plgpu.wgmma(to, a, b)

    return pl.run_state(multiply)(tuple(plgpu.ACC.init(to) for to, _, _ in terms))


def limits(problem: Problem, scores: Accumulator, row: Any, column: Any) -> list[jax.Array]:
    """What must hold for a query, counted from `row`, to see a key, counted from `column`."""
    key = scores.key()
    distance = key - scores.query()
    seen = []
    if problem.lengths[1] % scores.keys:
        seen.append(key < problem.lengths[1] - column)
    if problem.after is not None:
        seen.append(distance <= problem.after + row - column)
    if problem.before is not None:
        seen.append(distance >= row - column - problem.before)
    return seen


def keeper(
    problem: Problem, mask: Any, head: jax.Array, scores: Accumulator
) -> Callable[[Any, Any], Callable[[jax.Array], jax.Array]]:
    """`keeper(...)(row, column)(x)` is `x` where a weight of the block from `row` and `column` on
    is kept, and 0 elsewhere.
    """
    if mask is None:
        return lambda row, column: lambda x: x
    loaded: Any = Mask.loaded(mask._replace(low=mask.low.at[head], high=mask.high.at[head]))

    def keep(row: Any, column: Any) -> Callable[[jax.Array], jax.Array]:
        bits = _problem.bits(
            problem, loaded, row + scores.query(), column, scores.key(), scores.keys
        )
        kept = bits <= loaded.last
        return lambda x: jnp.where(kept, x, 0.0)

    return keep
