"""How the kernels of `_hopper_kernels` divide their work among warpgroups, and what they share.

A program has three warpgroups. One copies the blocks that the others walk over into shared memory.
The other two have a block of their own each, walk over the same blocks together, and take turns:
while one multiplies, the other forms weights and draws their mask. The mask needs twice the
instructions of the softmax, and so they run while the tensor cores work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxdrop.functional.attention import _problem
from jaxdrop.functional.attention._hopper_scores import plgpu
from jaxdrop.functional.attention._problem import Place, Problem

COMPUTE = 2
"""Warpgroups that compute; one more copies."""
_REGISTERS = 232, 40
"""Of a thread that computes, and of one that copies: together what a multiprocessor has."""


class Tile(NamedTuple):
    """How a kernel divides its work: queries and keys in a block, and stages of the pipeline of
    blocks that are copied. The block of a program is divided among its warpgroups.
    """

    queries: int
    keys: int
    stages: int


class Blocks(NamedTuple):
    """Blocks of arrays in shared memory that are copied together."""

    arrays: tuple[Any, ...]
    """The first axis has the warpgroups or the stages."""
    filled: Any
    """Barriers: the blocks are there."""
    read: Any
    """Barriers: both warpgroups have read the blocks of a stage. None for a warpgroup's own."""

    def wait(self, at: Any) -> None:
        """Waits until the blocks of a warpgroup or stage are there."""
        plgpu.barrier_wait(self.filled.at[at])


class Shared(NamedTuple):
    """A program's shared memory."""

    own: Blocks
    walked: tuple[Blocks, ...]
    found: tuple[Any, ...]
    """A block of each warpgroup for each kind of result."""
    turn: Any
    """A barrier: both warpgroups have come to where they change places."""


class Part(NamedTuple):
    """A warpgroup's part of a kernel."""

    problem: Problem
    tile: Tile
    mask: Any
    place: Place
    head: jax.Array
    first: jax.Array
    """The first query, or key, of its own block."""
    group: jax.Array
    steps: Steps
    shared: Shared

    def own(self) -> tuple[Any, ...]:
        """The warpgroup's own blocks."""
        return tuple(x.at[self.group] for x in self.shared.own.arrays)

    def release(self, blocks: Blocks, stage: Any) -> None:
        """Lets the blocks of a stage be overwritten."""
        if self.problem.interpret:  # it reads them by instructions that have to be waited for
            plgpu.commit_smem()
        plgpu.barrier_arrive(blocks.read.at[stage])

    def change(self) -> None:
        """Lets the other warpgroup multiply, or waits until it lets this one."""
        plgpu.barrier_arrive(self.shared.turn)
        plgpu.barrier_wait(self.shared.turn)

    def walk(self, length: int, step: Callable[..., Any], limited: bool, carry: Any) -> Any:
        """Runs `step(stage, start, carry, partly=...)` for each block of the walked arrays, which
        begins at `start` and has this length. If `limited`, some blocks need a mask of scores, and
        `partly` is true for these.

        A step changes places twice: behind its first products, and before its last ones.
        """

        def run(n: jax.Array, carry: Any, *, partly: bool) -> Any:
            stage = lax.rem(n, jnp.int32(self.tile.stages))
            return step(stage, self.steps.block(n) * length, carry, partly=partly)

        whole = self.steps.whole if limited else self.steps.total
        pl.when(self.group == 1)(self.change)
        carry = lax.fori_loop(0, whole, functools.partial(run, partly=False), carry)
        if limited:
            some = functools.partial(run, partly=True)
            carry = lax.fori_loop(whole, self.steps.total, some, carry)
        pl.when(self.group == 0)(self.change)
        return carry


class Steps(NamedTuple):
    """The blocks that a program walks over: first those in which every query sees every key, which
    need no mask of scores, then those on both sides of them.
    """

    begin: jax.Array
    whole_from: jax.Array
    whole_to: jax.Array
    end: jax.Array

    @property
    def whole(self) -> jax.Array:
        """How many need no mask of scores."""
        return self.whole_to - self.whole_from

    @property
    def total(self) -> jax.Array:
        """How many steps there are."""
        return self.end - self.begin

    def block(self, n: jax.Array) -> jax.Array:
        """The block of step `n`."""
        aside = _problem.aside(self.begin, self.whole_from, self.whole_to, n - self.whole)
        return jnp.where(n < self.whole, self.whole_from + n, aside)


def program(
    kernel: Callable[[Part], tuple[jax.Array, ...]], problem: Problem, tile: Tile, of_keys: bool,
    mask: Any, place: Place, own: tuple[Any, ...], walked: tuple[tuple[Any, ...], ...],
    *refs: Any,
) -> None:  # fmt: skip
    """Runs `kernel` in the warpgroups that compute, from their own blocks in shared memory, and
    stores what it finds.
    """
    *results, shared = refs
    head, at, group = (lax.axis_index(name) for name in ("heads", "programs", "warpgroups"))
    shared_head = lax.div(head, jnp.int32(problem.share))
    head_of_own, head_of_walked = (shared_head, head) if of_keys else (head, shared_head)
    steps = Steps(*(place.stretch[head, at, number] for number in range(4)))
    ours, theirs = (tile.keys, tile.queries) if of_keys else (tile.queries, tile.keys)

    @pl.when(group == COMPUTE)
    def _() -> None:
        plgpu.set_max_registers(_REGISTERS[1], action="decrease")

        @pl.loop(0, steps.total)
        def _(n: jax.Array) -> None:
            rows = pl.ds(steps.block(n) * theirs, theirs)
            stage = lax.rem(n, jnp.int32(tile.stages))
            for sources, blocks in zip(walked, shared.walked, strict=True):

                @pl.when(n >= tile.stages)
                def _(blocks: Blocks = blocks) -> None:
                    plgpu.barrier_wait(blocks.read.at[stage])

                for source, block in zip(sources, blocks.arrays, strict=True):
                    plgpu.copy_gmem_to_smem(
                        source.at[head_of_walked, rows], block.at[stage], blocks.filled.at[stage]
                    )

    @pl.when(group < COMPUTE)
    def _() -> None:
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        first = (at * COMPUTE + group) * (ours // COMPUTE)
        rows = pl.ds(first, ours // COMPUTE)
        part = Part(problem, tile, mask, place, head, first, group, steps, shared)
        for source, block in zip(own, part.own(), strict=True):
            which = head_of_own if source.ndim == 3 else head
            plgpu.copy_gmem_to_smem(source.at[which, rows], block, shared.own.filled.at[group])
        shared.own.wait(group)
        places = dict(zip(kinds(results), shared.found, strict=True))
        for found, result in zip(kernel(part), results, strict=True):
            block = places[kind(result)].at[group]
            block[...] = found.astype(result.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(block, result.at[head, rows])
            plgpu.wait_smem_to_gmem(0)


def kind(result: Any) -> tuple[tuple[int, ...], Any]:
    """Results of one kind leave by one place in the shared memory, which has no room for more."""
    return tuple(result.shape[2:]), jnp.dtype(result.dtype)


def kinds(results: Sequence[Any]) -> list[tuple[tuple[int, ...], Any]]:
    """The kinds of some results, each once."""
    return list(dict.fromkeys(map(kind, results)))
