"""The shapes of attention, and checks of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import _arguments


class Shapes(NamedTuple):
    """Lengths.

    The weights are `(batch..., heads, queries, keys)`, and grouped `(batch..., groups, heads / groups, queries, keys)`.
    """

    batch: tuple[int, ...]
    heads: int
    groups: int
    queries: int
    keys: int
    depth: int
    value_depth: int

    @classmethod
    def of(cls, caller: str, q: jax.Array, k: jax.Array, v: jax.Array) -> Shapes:
        """Those of these arrays, if they fit each other."""
        arrays = {"q": q, "k": k, "v": v}
        for name, x in arrays.items():
            if not hasattr(x, "dtype"):
                raise TypeError(f"{name} must be an array of floating numbers, got {type(x).__name__} {x!r}")
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise TypeError(f"{name} must be an array of floating numbers, got dtype {x.dtype}. The PRNG key comes first.")
        if len({x.dtype for x in arrays.values()}) > 1:
            raise TypeError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}. Convert them with astype.")
        shown = f"got q {q.shape}, k {k.shape} and v {v.shape}"
        if min(x.ndim for x in arrays.values()) < 3 or len({x.ndim for x in arrays.values()}) > 1:
            raise ValueError(f"{caller} takes (batch..., length, heads, depth) three times, {shown}")
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(f"k and v must agree in all axes but the last, {shown}")
        if q.shape[:-3] != k.shape[:-3]:
            raise ValueError(f"q and k must have the same batch axes, {shown}")
        if q.shape[-1] != k.shape[-1]:
            raise ValueError(f"q and k must have the same depth, their last axis, {shown}")
        heads, groups = q.shape[-2], k.shape[-2]
        if groups == 0 or heads % groups:
            raise ValueError(f"the heads of q, {heads}, must be a multiple of those of k and v, {groups}: {shown}")
        return cls(q.shape[:-3], heads, groups, q.shape[-3], k.shape[-3], q.shape[-1], v.shape[-1])

    @property
    def weights(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return *self.batch, self.heads, self.queries, self.keys

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of the output."""
        return *self.batch, self.queries, self.heads, self.value_depth

    def grouped(self, name: str, x: jax.Array, *, boolean: bool = False) -> jax.Array:
        """A mask or a bias with all the axes of the grouped weights, of length 1 where it has one entry for all."""
        x = jnp.asarray(x)
        if boolean and x.dtype != bool:
            raise TypeError(f"{name} must be boolean, True where a query may see a key, got {x.dtype}. What is added is a bias.")
        if not boolean and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be an array of floating numbers, got {x.dtype}. A boolean one is a mask.")
        if not masks.broadcasts(x.shape, self.weights):
            raise ValueError(
                f"{name} of shape {x.shape} does not broadcast to (batch..., heads, queries, keys), here {self.weights}"
            )
        *batch, heads, queries, keys = (1,) * (len(self.weights) - x.ndim) + x.shape
        groups = (1, 1) if heads == 1 else (self.groups, heads // self.groups)
        return x.reshape(*batch, *groups, queries, keys)

    def grouped_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of the grouped weights for those of the weights."""
        head = len(self.batch)
        return tuple(sorted({axis + (axis > head) for axis in axes} | {head + 1 for axis in axes if axis == head}))

    def grouped_spec(self, spec: PartitionSpec | None) -> PartitionSpec | None:
        """The layout of the grouped weights for that of q."""
        if spec is None:
            return None
        entries = [*spec, *[None] * (len(self.output) - len(spec))]
        batch, (queries, heads, depth) = entries[:-3], entries[-3:]
        if depth:
            raise ValueError(
                f"spec={spec} divides the depth, over which attention sums. Batch, queries and heads may be divided."
            )
        return PartitionSpec(*batch, heads, None, queries, None)

    def within(self, name: str, lengths: jax.Array, axis: int, origin: jax.Array | int = 0) -> jax.Array:
        """Which queries (`axis` -2) or keys (-1) are within `lengths`, a mask as from `grouped`."""
        lengths = jnp.asarray(lengths)
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(f"{name} must be integers, got {lengths.dtype}")
        if lengths.shape != self.batch:
            raise ValueError(f"{name} must have one length for each example, shape {self.batch}, got shape {lengths.shape}")
        ends = lengths.reshape(*lengths.shape, 1, 1, 1, 1)
        place = lax.broadcasted_iota(
            jnp.int32, (1,) * (ends.ndim + axis) + (self.weights[axis],) + (1,) * (-1 - axis), ends.ndim + axis
        )
        return place + origin < ends.astype(jnp.int32)


def window(local_window_size: Any, is_causal: bool) -> tuple[int | None, int | None]:
    """How many keys before and after its own place a query sees; None for all."""
    before = after = None
    if local_window_size is not None:
        sizes = local_window_size if isinstance(local_window_size, tuple) else (local_window_size,) * 2
        if len(sizes) != 2:
            raise ValueError(f"local_window_size must be one number or (before, after), got {local_window_size!r}")
        before, after = (_arguments.integer("local_window_size", size, "one number or (before, after)") for size in sizes)
        if before < 0 or after < 0:
            raise ValueError(f"local_window_size must not be negative, got {local_window_size!r}")
    if not isinstance(is_causal, (bool, np.bool_)):
        raise TypeError(f"is_causal must be True or False, known when the function is traced, got {is_causal!r}")
    return before, 0 if is_causal else after


# Bytes of scores in a block: what stays near the processor, or is work enough for a device of many cores.
_NEAR, _LARGE = 2**21, 2**27
# So many queries are one block, whatever they take. On devices of many cores none is smaller: each holds a share of the batch.
_SHORT, _LEAST = 256, 64


def block_sizes(given: tuple[int, int] | None, shapes: Shapes) -> tuple[int, int]:
    """Queries and keys in a block: as given, or so that the scores of a block are few."""
    if given is None:
        keys, near = _even(shapes.keys, 512), jax.default_backend() == "cpu"
        queries = (_NEAR if near else _LARGE) // max(1, 4 * math.prod(shapes.batch) * shapes.heads * keys)
        least = _LEAST if near and shapes.queries > _SHORT else _SHORT
        return _even(shapes.queries, min(max(queries, least), 1024)), keys
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"block_sizes must be (queries, keys), got {given!r}")
    sizes = tuple(_arguments.integer("block_sizes", size, "(queries, keys)") for size in given)
    if min(sizes) < 1:
        raise ValueError(f"block_sizes must be positive, got {given!r}")
    return min(sizes[0], max(shapes.queries, 1)), min(sizes[1], max(shapes.keys, 1))


def _even(length: int, most: int) -> int:
    """The length of blocks of at most about `most` that fill `length` with little left over."""
    count = max(1, -(-length // most))
    even = -(-length // count)
    return even if even * count == length else -(-even // 8) * 8
