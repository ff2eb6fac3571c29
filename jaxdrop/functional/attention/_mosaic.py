"""Attention by blocks as TPU kernels: the forward pass of `_blocked`, and the transpose of its
derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxdrop.functional.attention import _flat, _mosaic_kernels
from jaxdrop.functional.attention._block import Operands, Plan
from jaxdrop.functional.attention._mosaic_kernels import Scalars, Side

PLATFORM = "tpu"
INTERPRET: Any = False
"""Parameters of Pallas' interpreter of TPU kernels, which computes anywhere: for tests."""
BLOCK = 512, 512
"""The most queries and keys in a block."""
_UNIT = 128
"""Blocks and padded lengths are multiples of this, the number of lanes."""
_SCALARS = 2**18
"""The most bytes of the scalar memory that the stretches take."""


def refusal(plan: Plan, operands: Operands) -> str | None:
    """Why the kernels cannot compute this; None if they can."""
    q, v = operands.q, operands.v
    if q.dtype not in (jnp.float32, jnp.bfloat16) or v.dtype != q.dtype:
        return f"q is {q.dtype}, and on a TPU they take float32 and bfloat16"
    if reason := _flat.refusal(plan, operands):
        return reason
    queries, keys = (
        -(-length // of) for length, of in zip(plan.lengths, _block(plan), strict=True)
    )
    if 16 * max(queries, keys) * math.prod(q.shape[:-2]) > _SCALARS:
        return "the scalar memory does not hold so many blocks"
    return None


def forward(plan: Plan, operands: Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results of `_blocked._attend`."""
    call = _Call(plan, operands)
    (heads, length, _), depth = call.inputs.q.shape, call.inputs.v.shape[-1]
    rows, columns = call.counts
    found = call(
        _mosaic_kernels.forward,
        (rows,),
        (heads, rows, columns),
        [
            (_of_rows, (heads, length, depth), operands.v.dtype),
            (_along_lanes, (heads, 1, length), jnp.float32),
            (_along_lanes, (heads, 1, length), jnp.float32),
        ],
        [(1, call.block[0]), (1, call.block[0]), (depth, call.block[0])],
    )
    lead, queries = operands.q.shape[:-2], operands.q.shape[-2]
    out, top, total = (x.reshape(*lead, length, -1)[..., :queries, :] for x in found)
    return out, top[..., 0], total[..., 0]


def transposed(
    plan: Plan,
    operands: Operands,
    top: jax.Array,
    total: jax.Array,
    moved: jax.Array,
    spread: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of `q`, `k` and `v` from those of the results of `_derivative.derivative`."""
    call = _Call(plan, operands)
    inputs, (rows, columns), (queries, keys) = call.inputs, call.counts, call.block
    length, share = inputs.q.shape[1], call.problem.share

    def along_lanes(x: jax.Array) -> jax.Array:
        return _flat.padded(_flat.merged(x, 1), 1, length)[:, None]

    given = (
        (_along_lanes, along_lanes(_flat.log2_total(top, total))),
        (_of_rows, _flat.padded(_flat.merged(moved, 2), 1, length).astype(operands.v.dtype)),
        (_along_lanes, along_lanes(spread)),
    )
    (dq,) = call(
        _mosaic_kernels.of_queries,
        (rows,),
        (inputs.q.shape[0], rows, columns),
        [(_of_rows, inputs.q.shape, operands.q.dtype)],
        [(inputs.q.shape[-1], queries)],
        given,
    )
    dk, dv = _Call(plan, operands, of_keys=True)(
        _mosaic_kernels.of_keys,
        (columns, rows),
        (inputs.k.shape[0], columns, share * rows),
        [(_of_columns, x.shape, x.dtype) for x in (inputs.k, inputs.v)],
        [(keys, x.shape[-1]) for x in (inputs.k, inputs.v)],
        given,
    )

    def like(found: jax.Array, x: jax.Array) -> jax.Array:
        return found[:, : x.shape[-2]].reshape(x.shape)

    return like(dq, operands.q), like(dk, operands.k), like(dv, operands.v)


# -- how arrays reach a kernel


class _Step(NamedTuple):
    """What a step of the grid computes: a block of scores of a head."""

    head: Any
    group: Any
    """Of the head: its keys and values."""
    i: Any
    """The block of queries."""
    j: Any
    """The block of keys."""


def _of_rows(block: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """`(heads, queries, depth)`."""
    return (None, block[0], shape[-1]), lambda step: (step.head, step.i, 0)


def _of_columns(block: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """`(groups, keys, depth)`."""
    return (None, block[1], shape[-1]), lambda step: (step.group, step.j, 0)


def _along_lanes(block: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """`(heads, 1, queries)`."""
    return (None, 1, block[0]), lambda step: (step.head, 0, step.i)


class _Call:
    """Runs kernels over the operands of a call."""

    def __init__(self, plan: Plan, operands: Operands, *, of_keys: bool = False) -> None:
        self.block, self.of_keys = _block(plan), of_keys
        queries, keys = (
            _flat.rounded_up(max(x.shape[-2], 1), of)
            for x, of in zip((operands.q, operands.k), self.block, strict=True)
        )
        self.counts = queries // self.block[0], keys // self.block[1]
        self.problem, self.mask, self.inputs = _flat.described(
            plan,
            operands,
            self.block,
            of_keys=of_keys,
            lengths=(queries, keys),
            depth=None,
            tiles=self.block,
            interpret=INTERPRET,
        )

    def __call__(
        self,
        kernel: Callable[..., None],
        settings: tuple[int, ...],
        grid: tuple[int, ...],
        outputs: list[tuple[Any, tuple[int, ...], Any]],
        scratch: list[tuple[int, ...]],
        given: tuple[tuple[Any, jax.Array], ...] = (),
    ) -> list[jax.Array]:
        """The outputs of a kernel.

        Args:
          kernel: of `_mosaic_kernels`.
          settings: numbers of blocks that it takes.
          grid: the last axis runs in order.
          outputs: the layout, the shape and the dtype of each.
          scratch: the shapes of its sums.
          given: the layout of each further operand, and the operand.
        """
        inputs = self.inputs
        structure: Any
        sides, structure = jax.tree.flatten(inputs.sides)
        turned = [x.shape[-1] != 1 for x in sides]
        # Numbers of queries alone are turned here, where it costs nothing.
        sides = [x if turns else x.mT for x, turns in zip(sides, turned, strict=True)]
        place = (inputs.place.stretch, inputs.place.row, inputs.place.scale)
        scalars = [x.reshape(-1) for x in (*place, *(self.mask or ()))]
        arrays = [inputs.q, inputs.k, inputs.v, *(x for _, x in given)]
        layouts = [_of_rows, _of_columns, _of_columns, *(layout for layout, _ in given)]
        (scalars, sides, arrays), moved = _flat.aligned((scalars, sides, arrays))
        specs = [self._spec(*self._side(x, turns)) for x, turns in zip(sides, turned, strict=True)]
        specs += [
            self._spec(*layout(self.block, x.shape))
            for layout, x in zip(layouts, arrays, strict=True)
        ]

        def run(*refs: Any) -> None:
            own, of_sides = refs[: len(scalars)], refs[len(scalars) : len(scalars) + len(sides)]
            tree = structure.unflatten(map(Side, of_sides, turned))
            others = refs[len(scalars) + len(sides) :]
            kernel(self.problem, *settings, Scalars(*own), tree, *others)

        call = pl.pallas_call(
            run,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(scalars),
                grid=grid,
                in_specs=specs,
                out_specs=[self._spec(*layout(self.block, shape)) for layout, shape, _ in outputs],
                scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
            ),
            out_shape=[moved(shape, dtype) for _, shape, dtype in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
            interpret=self.problem.interpret,
            name=f"attention_{kernel.__name__}",
        )
        return list(call(*scalars, *sides, *arrays))

    def _side(self, x: jax.Array, is_turned: bool) -> tuple[Any, Callable[[_Step], Any]]:
        *lead, queries, keys = x.shape
        if not is_turned:
            queries, keys = keys, queries
        rows, columns = (
            1 if own == 1 else of for own, of in zip((queries, keys), self.block, strict=True)
        )

        def index(step: _Step) -> tuple[Any, ...]:
            last = (0 if queries == 1 else step.i), (0 if keys == 1 else step.j)
            return *_flat.place(step.head, self.inputs.lead, tuple(lead)), *(
                last if is_turned else reversed(last)
            )

        shape = (rows, columns) if is_turned else (columns, rows)
        return (*[None] * len(lead), *shape), index

    def _spec(self, shape: Any, index: Callable[[_Step], Any]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda a, b, c, stretch, *_: index(self._step(a, b, c, stretch)))

    def _step(self, a: Any, b: Any, c: Any, stretch: Any) -> _Step:
        """A step, by its place in the grid. A block that is not seen is replaced by the nearest one
        that is, so that it is not loaded.
        """
        rows, share = self.counts[0], self.problem.share

        def seen(head: Any, own: Any, other: Any) -> Any:
            at = (head * self.counts[self.of_keys] + own) * 4
            begin, end = stretch[at], stretch[at + 3]
            return jnp.clip(other, begin, jnp.maximum(end - 1, begin))

        if not self.of_keys:
            return _Step(a, lax.div(a, np.int32(share)), b, seen(a, b, c))
        head = a * share + lax.div(c, np.int32(rows))
        return _Step(head, a, seen(head, b, lax.rem(c, np.int32(rows))), b)


def _block(plan: Plan) -> tuple[int, int]:
    queries, keys = (
        min(most, _flat.rounded_up(length, _UNIT))
        for most, length in zip(BLOCK, plan.lengths, strict=True)
    )
    return queries, keys
