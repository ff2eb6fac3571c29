"""Choosing subsets at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _lengths, _mapped_axes, masks
from jaxdrop._in_full import in_full
from jaxdrop._kernel import kernel
from jaxdrop.subsets._moves import runs
from jaxdrop.subsets._subset import Subset, check_groups

Pattern = Literal["unit", "block", "slice"]
"""Which sets are drawn: of single members, of blocks of them, or of consecutive members."""


def draw(
    key: jax.Array,
    shape: int | Sequence[int],
    rate: float,
    *,
    groups: int = 1,
    pattern: Pattern = "unit",
    block_size: int = 128,
    spec: PartitionSpec | None = None,
) -> Subset:
    """A random subset, of `number_kept` members of each group.

    Args:
      key: a single PRNG key.
      shape: the length of the axis; or a shape, each row of which gets a subset of its own.
      rate: the probability of dropping, in [0, 1): a number, since it sets a shape.
      groups: how many groups the axis consists of, each of which keeps the same number.
      pattern: what is kept. `'unit'`: single entries. `'block'`: blocks of `block_size` entries.
        `'slice'`: in each group one run of consecutive entries. A run that reaches the end of its
        group goes on at the start, so that all entries are equally likely to be kept; entries that
        are close fall together.
      block_size: of the pattern `'block'`. 128 is the width of a TPU's tile.
      spec: inside `shard_map` or `pmap`, the layout of the whole array, of which `shape` is a part:
        the subset is the part of that of the whole array. `groups` counts those of the whole array.

    Raises:
      TypeError, ValueError: an argument is of a wrong type or outside its range; nothing would be
        dropped; the axis cannot be divided into groups, or the groups over the devices.
      NotImplementedError: as `jaxdrop.dropout`.
    """
    *rows, last = shape if isinstance(shape, (tuple, list)) and shape else (shape,)
    # The other lengths may be symbols of `jax.export`.
    known = [length for length in rows if _lengths.is_known(length)]
    *_, size = _checks.check_integers((*known, last), "shape")
    if size < 1:
        raise ValueError(f"shape must end in a length of at least 1, got {shape}")
    spec = _checks.check_spec(spec, len(rows) + 1, "shape")
    groups = _checks.check_count(groups, "groups")
    names, devices = _mapped_axes.names_and_size(spec, [len(rows)])
    members, kept = number_kept(
        size * devices, rate, groups=groups, pattern=pattern, block_size=block_size
    )
    check_groups(groups, [devices], names)
    groups //= devices
    draws = groups if pattern == "slice" else groups * members
    key = _checks.consume_key(key, "subsets.draw")
    return cast(
        Subset,
        _draw(
            key,
            shape=(*rows, draws),
            members=members,
            kept=kept,
            slices=pattern == "slice",
            spec=spec,
        ),
    )


@kernel("subset", checkpoint=False)
def _draw(
    key: jax.Array,
    *,
    shape: tuple[int, ...],
    members: int,
    kept: int,
    slices: bool,
    spec: PartitionSpec | None,
) -> Subset:
    bits = masks.draw(key, jax.ShapeDtypeStruct(shape, jnp.uint32), spec=spec)
    if slices:
        return _slice((bits % jnp.uint32(members)).astype(jnp.int32), members, kept)
    return smallest(bits.reshape(*shape[:-1], -1, members), kept)


def number_kept(
    size: int, rate: float, *, groups: int = 1, pattern: Pattern = "unit", block_size: int = 128
) -> tuple[int, int]:
    """The number of members of each group, and of those that are kept: `round((1 - rate) members)`,
    at least 1. So the probability of dropping is `1 - kept / members`.

    Args and Raises: as `draw`.
    """
    rate = check_known_rate(rate, "rate")
    groups = _checks.check_count(groups, "groups")
    _checks.check_one_of(pattern, "pattern", Pattern)
    block = _checks.check_count(block_size, "block_size")
    block = block if pattern == "block" else 1
    if size % (groups * block):
        of = f" of blocks of block_size={block} entries" if pattern == "block" else ""
        raise ValueError(f"groups={groups} do not divide {size} entries into equal groups{of}.")
    members = size // (groups * block)
    kept = max(1, round((1 - rate) * members))
    if kept >= members:
        raise ValueError(
            f"rate={rate:g} drops nothing: of {members} members of a group,"
            f" round({(1 - rate) * members:g}) are kept. Raise the rate, divide the {size} entries"
            " into fewer parts, or drop them by a mask, which takes any rate."
        )
    return members, kept


def check_known_rate(
    rate: Any,
    name: str,
    way: str = "drop by a mask, which takes a traced rate, and saves no work.",
) -> float:
    """Checks a rate that sets a shape.

    Args:
      rate: must be a number in [0, 1).
      name: of the argument, for messages.
      way: what else a caller with a traced rate can do, for the message.

    Returns:
      The rate as a float.

    Raises:
      TypeError: the rate is traced, or no number.
      ValueError: it is outside [0, 1).
    """
    reason = (
        "it sets the shape of what is computed. Either\n"
        "1. mark it static, and change it in few steps, for each of which JAX compiles a program:"
        " jax.jit(f, static_argnames='rate');\n"
        f"2. {way}"
    )
    known = _checks.check_known_rate(rate, name, reason)
    if known == 1:
        raise ValueError(f"{name} must be below 1, for something must be kept.")
    return known


def smallest(bits: jax.Array, kept: int) -> Subset:
    """The members of the smallest words; of equal words, those that come first.

    Args:
      bits: uint32 words of shape `(..., groups, members)`.
      kept: how many members of each group are kept.
    """
    numbers = lax.broadcasted_iota(jnp.int32, bits.shape, bits.ndim - 1)
    if in_full.value:
        order = jnp.argsort(bits)
        return Subset(order[..., :kept].astype(jnp.int32), jnp.argsort(order).astype(jnp.int32))
    # XLA for CPU sorts one array several times faster than two by the first of them.
    words = lax.sort(bits, is_stable=False)
    last = words[..., kept - 1 : kept]
    below, equal = bits < last, bits == last
    others = kept - below.sum(-1, keepdims=True, dtype=jnp.int32)
    keep = below | (equal & (_counted(equal) <= others))
    place = _counted(keep) - 1
    in_order = lax.sort(jnp.where(keep, numbers, bits.shape[-1]), is_stable=False)
    return Subset(in_order[..., :kept], jnp.where(keep, place, kept))


def _counted(flags: jax.Array) -> jax.Array:
    """How many flags up to each are set, that one included."""
    return jnp.cumsum(flags, axis=-1, dtype=jnp.int32)


def _slice(starts: jax.Array, members: int, kept: int) -> Subset:
    """`kept` consecutive members of each group, round its end."""
    shape, at = starts.shape, starts[..., None]
    place = lax.broadcasted_iota(jnp.int32, (*shape, kept), len(shape))
    number = lax.broadcasted_iota(jnp.int32, (*shape, members), len(shape))
    wrapped, first = runs(at, members, kept)
    indices = jnp.where(place < wrapped, place, place + first)
    ranks = jnp.where(number < wrapped, number, number - first)
    return Subset(indices, jnp.where((number - at) % members < kept, ranks, kept), starts)
