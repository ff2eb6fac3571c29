"""The kernels of attention on a Hopper GPU, in Pallas' Mosaic GPU dialect. `_hopper` calls them.

A program has three warpgroups. One copies blocks of keys and values into shared memory. The two
others have a block of queries each, walk over the blocks of keys together, and take turns: while
one multiplies, the other forms weights and draws their mask. So the mask, which needs twice the
instructions of the softmax, is drawn while the tensor cores work.

The mask is that of the dense weights: a warpgroup draws the bits of its block from the block's
position. Exponentials are to base 2, which the hardware has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from jaxdrop.functional.attention import _problem
from jaxdrop.functional.attention._problem import LOG2_E, Mask, Place, Problem

plgpu: Any = mosaic_gpu
"""Its names differ from JAX to JAX."""
COMPUTE = 2
"""Warpgroups that compute; one more copies."""
_ACCUMULATOR = plgpu.Layout.WGMMA
_ROWS = plgpu.Layout.WGMMA.reduce(1)
"""One number for each row of an accumulator."""


class Tile(NamedTuple):
    """How a kernel divides its work: queries and keys in a block, and stages of the pipeline of
    blocks that are copied. The block of a program is divided among its warpgroups.
    """

    queries: int
    keys: int
    stages: int


class Tiles(NamedTuple):
    """The tiles of the kernels."""

    forward: Tile


class Shared(NamedTuple):
    """A program's shared memory."""

    queries: Any
    """A block for each warpgroup; at the end their attention."""
    keys: Any
    values: Any
    """A block for each stage."""
    top: Any
    total: Any


class Barriers(NamedTuple):
    """What warpgroups wait for."""

    queries: Any
    """That the queries of a warpgroup are there."""
    keys: Any
    values: Any
    """That the blocks of a stage are there."""
    keys_read: Any
    values_read: Any
    """That both warpgroups have read the blocks of a stage."""
    turn: Any
    """That the two warpgroups have reached the points where they change places."""


def forward(
    problem: Problem, tile: Tile, mask: Any, place: Place, q: Any, k: Any, v: Any,
    out: Any, top: Any, total: Any, shared: Shared, barriers: Barriers,
) -> None:  # fmt: skip
    """The attention of the queries of a program, their highest scores and sums of exponentials."""
    head, program, group = (lax.axis_index(name) for name in ("heads", "programs", "warpgroups"))
    steps = _Steps.of(place.stretch, head, program)

    @pl.when(group == COMPUTE)
    def _() -> None:
        plgpu.set_max_registers(40, action="decrease")
        _copy(problem, tile, steps, lax.div(head, jnp.int32(problem.share)), k, v, shared, barriers)

    @pl.when(group < COMPUTE)
    def _() -> None:
        plgpu.set_max_registers(232, action="increase")
        length = tile.queries // COMPUTE
        first = (program * COMPUTE + group) * length
        rows = pl.ds(first, length)
        mine = shared._replace(
            **{name: getattr(shared, name).at[group] for name in ("queries", "top", "total")}
        )
        plgpu.copy_gmem_to_smem(q.at[head, rows], mine.queries, barriers.queries.at[group])
        plgpu.barrier_wait(barriers.queries.at[group])
        _attend(problem, tile, steps, mask, place, head, first, group, mine, barriers)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(mine.queries, out.at[head, rows])
        plgpu.copy_smem_to_gmem(mine.top, top.at[head, rows])
        plgpu.copy_smem_to_gmem(mine.total, total.at[head, rows])
        plgpu.wait_smem_to_gmem(0)


class _Steps(NamedTuple):
    """The blocks of keys that a program walks over: first those in which every query sees every
    key, which need no mask of scores, then those on both sides of them.
    """

    begin: jax.Array
    whole_from: jax.Array
    whole_to: jax.Array
    end: jax.Array

    @classmethod
    def of(cls, stretch: Any, head: Any, program: Any) -> _Steps:
        return cls(*(stretch[head, program, at] for at in range(4)))

    @property
    def whole(self) -> jax.Array:
        """How many need no mask of scores."""
        return self.whole_to - self.whole_from

    @property
    def total(self) -> jax.Array:
        return self.end - self.begin

    def block(self, n: jax.Array) -> jax.Array:
        """The block of step `n`."""
        aside = n - self.whole
        before = self.whole_from - self.begin
        return jnp.where(
            aside < 0,
            self.whole_from + n,
            jnp.where(aside < before, self.begin, self.whole_to - before) + aside,
        )


def _copy(
    problem: Problem, tile: Tile, steps: _Steps, head: jax.Array, k: Any, v: Any, shared: Shared,
    barriers: Barriers,
) -> None:  # fmt: skip
    """Copies the blocks of keys and values, each as soon as its place in shared memory is free."""
    del problem

    @pl.loop(0, steps.total)
    def _(n: jax.Array) -> None:
        at = head, pl.ds(steps.block(n) * tile.keys, tile.keys)
        stage = lax.rem(n, jnp.int32(tile.stages))
        for source, place, read, filled in (
            (k, shared.keys, barriers.keys_read, barriers.keys),
            (v, shared.values, barriers.values_read, barriers.values),
        ):

            @pl.when(n >= tile.stages)
            def _(read: Any = read) -> None:
                plgpu.barrier_wait(read.at[stage])

            plgpu.copy_gmem_to_smem(source.at[at], place.at[stage], filled.at[stage])


def _attend(
    problem: Problem, tile: Tile, steps: _Steps, mask: Any, place: Place, head: jax.Array,
    first: jax.Array, group: jax.Array, shared: Shared, barriers: Barriers,
) -> None:  # fmt: skip
    """One warpgroup's part of `forward`, from its queries in shared memory to its results there."""
    (length, depth), shape = shared.queries.shape, (tile.queries // COMPUTE, tile.keys)
    row = place.row[head, 0] + first
    keep = _keep(problem, mask, head, row, shape)
    factor = problem.scale * LOG2_E

    def change() -> None:
        plgpu.barrier_arrive(barriers.turn)
        plgpu.barrier_wait(barriers.turn)

    def step(n: jax.Array, carry: tuple[jax.Array, ...], *, partly: bool) -> tuple[jax.Array, ...]:
        highest, sums, out = carry
        stage = lax.rem(n, jnp.int32(tile.stages))
        start = steps.block(n) * tile.keys
        plgpu.barrier_wait(barriers.keys.at[stage])
        s = _product(problem, shared.queries, shared.keys.at[stage], shape, change)
        plgpu.barrier_arrive(barriers.keys_read.at[stage])
        if partly:
            seen = functools.reduce(jnp.logical_and, _limits(problem, shape, row, start))
            s = jnp.where(seen, s, -jnp.inf)
        higher = jnp.maximum(highest, s.max(1) * np.float32(factor))
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p = jnp.exp2(s * np.float32(factor) - _along_rows(base, shape))
        lower = jnp.exp2(highest - base)
        sums = sums * lower + p.sum(1)
        out = out * _along_rows(lower, out.shape)
        p = keep(start, p).astype(shared.values.dtype)
        higher, sums, out, p = lax.optimization_barrier((higher, sums, out, p))
        plgpu.barrier_arrive(barriers.turn)
        plgpu.barrier_wait(barriers.values.at[stage])
        plgpu.barrier_wait(barriers.turn)
        out = _added(problem, out, p, shared.values.at[stage])
        plgpu.barrier_arrive(barriers.values_read.at[stage])
        return higher, sums, out

    pl.when(group == 1)(change)
    carry = (
        _filled((length,), -jnp.inf, _ROWS),
        _filled((length,), 0.0, _ROWS),
        _filled((length, depth), 0.0, _ACCUMULATOR),
    )
    limited = bool(_limits(problem, shape, row, steps.begin))
    whole = steps.whole if limited else steps.total
    carry = lax.fori_loop(0, whole, functools.partial(step, partly=False), carry)
    if limited:
        carry = lax.fori_loop(whole, steps.total, functools.partial(step, partly=True), carry)
    highest, sums, result = carry
    pl.when(group == 0)(change)
    sees = sums > 0
    sums = jnp.where(sees, sums, 1.0)
    result = result * _along_rows(place.scale[0] / sums, result.shape)
    shared.queries[...] = result.astype(shared.queries.dtype)
    shared.top[...] = jnp.where(sees, highest * np.float32(1 / LOG2_E), 0.0)
    shared.total[...] = sums


# -- parts of a kernel


def _filled(shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def _along_rows(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A number for each row."""
    return lax.broadcast_in_dim(x, shape, (0,))


def _numbers(shape: tuple[int, int], axis: int) -> jax.Array:
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=_ACCUMULATOR)


def _product(
    problem: Problem, a: Any, b: Any, shape: tuple[int, int], meanwhile: Callable[[], None]
) -> jax.Array:
    """`a b'` of two blocks in shared memory; `meanwhile` happens while it is computed."""
    if problem.interpret:
        meanwhile()
        return jnp.dot(a[...], b[...].T, preferred_element_type=jnp.float32)

    def multiply(found: Any) -> jax.Array:
        plgpu.wgmma(found, a, b.transpose((1, 0)))
        meanwhile()
        return found[...]

    return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))


def _added(problem: Problem, to: jax.Array, a: jax.Array, b: Any) -> jax.Array:
    """`to + a b`, with `b` in shared memory."""
    if problem.interpret:
        return to + jnp.dot(a, b[...], preferred_element_type=jnp.float32)

    def multiply(found: Any) -> None:
        plgpu.wgmma(found, a, b)

    return pl.run_state(multiply)(plgpu.ACC.init(to))


def _limits(problem: Problem, shape: tuple[int, int], row: Any, start: Any) -> list[jax.Array]:
    """What must hold for a query, counted from `row`, to see a key, counted from `start`."""
    column = _numbers(shape, 1)
    distance = column - _numbers(shape, 0)
    seen = []
    if problem.lengths[1] % shape[1]:
        seen.append(column < problem.lengths[1] - start)
    if problem.after is not None:
        seen.append(distance <= problem.after + row - start)
    if problem.before is not None:
        seen.append(distance >= row - start - problem.before)
    return seen


def _keep(
    problem: Problem, mask: Any, head: Any, row: Any, shape: tuple[int, int]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`keep(start, x)`: `x` where the weight is kept, and 0 elsewhere; the keys of the block begin
    at `start`.
    """
    if mask is None:
        return lambda start, x: x
    of_head = mask._replace(low=mask.low.at[head], high=mask.high.at[head])
    loaded: Any = Mask.loaded(of_head)
    numbers = plgpu.layout_cast(lax.iota(jnp.int32, shape[0]), _ROWS)
    rows = _along_rows(row + numbers, shape)

    def keep(start: jax.Array, x: jax.Array) -> jax.Array:
        bits = _problem.bits(problem, loaded, rows, start, _numbers(shape, 1), shape[1])
        # The compiler would move the selection behind the rounding to 16 bits, where it takes more
        # instructions.
        return lax.optimization_barrier(jnp.where(bits <= loaded.last, x, 0.0))

    return keep
