"""The window of keys around a query, and how much of the scores is formed at a time: the numbers of
queries and keys in a block, and of parts of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdrop import _checks
from jaxdrop.functional.attention import _target


def window(local_window_size: Any, is_causal: bool) -> tuple[int | None, int | None]:
    """How many keys before and after its own place a query sees; None for all."""
    before = after = None
    if local_window_size is not None:
        sizes = (
            local_window_size if isinstance(local_window_size, tuple) else (local_window_size,) * 2
        )
        if len(sizes) != 2:
            raise ValueError(
                "local_window_size must be one number or (before, after), got"
                f" {local_window_size!r}"
            )
        before, after = (
            _checks.check_integer(size, "local_window_size", "one number or (before, after)")
            for size in sizes
        )
        if before < 0 or after < 0:
            raise ValueError(f"local_window_size must not be negative, got {local_window_size!r}")
        before, after = min(before, _FAR), min(after, _FAR)
    if not isinstance(is_causal, (bool, np.bool_)):
        raise TypeError(
            f"is_causal must be True or False, known when the function is traced, got {is_causal!r}"
        )
    return before, 0 if is_causal else after


# Longer than every sequence, and small enough that its sum with a position stays below 2**31.
_FAR = 2**30
# Bytes of scores in a block of a device. On a CPU they stay in the cache, and are so much work that
# a turn of the loop costs little beside it. On a TPU they stay in its vector memory, beside what is
# made of them: 128 MiB in a v5e. Elsewhere a block is work for all of the device.
_ON_CPU, _ON_TPU, _ELSEWHERE = 2**22, 2**26, 2**27
# With fewer bytes of scores in all, a loop over parts costs more than it saves.
_FEW = 2**24
# Up to so many queries of a group, and keys, a larger product is more efficient on a CPU.
_GOOD_QUERIES, _GOOD_KEYS = 512, 256
# Up to so many queries make one block, whatever memory their scores take, and off the CPU no block
# is smaller: there each core computes a part of the batch.
_SHORT, _LEAST = 256, 64
# Of a block: on a CPU, and elsewhere.
_MOST_ON_CPU, _MOST = (1024, 512), (2048, 1024)
# What a dimension that is not known yet is taken for.
_USUAL = 8


def parts(lengths: tuple[int, int], batch_and_groups: Sequence[int], heads: int) -> tuple[int, ...]:
    """Into how many equal parts each axis of the batch, and that of the groups of heads, is divided
    that are computed one after the other.

    On a CPU so many that a part has a few groups, whose blocks are large. The same number of scores
    in small blocks of many groups takes twice the time, and the scores of all heads at once do not
    stay in the cache. Elsewhere all is one part: each core of the device computes some heads. Also
    where several devices may divide the batch among themselves, which a loop over it would undo.

    Args:
      lengths: the numbers of queries and of keys.
      batch_and_groups: the length of each axis of the batch, and the number of groups of heads.
      heads: the number of heads of a group.
    """
    whole = (1,) * len(batch_and_groups)
    if _target.platform() != "cpu" or jax.device_count() > 1:
        return whole
    if not all(map(_known, (*lengths, *batch_and_groups, heads))):
        return whole
    queries, keys = lengths
    if 4 * math.prod(batch_and_groups) * heads * queries * keys <= _FEW:
        return whole
    product = min(queries * heads, _GOOD_QUERIES) * min(keys, _GOOD_KEYS)
    found: list[int] = []
    for axis, length in enumerate(batch_and_groups):
        inside = math.prod(batch_and_groups[axis + 1 :])
        found.append(length // _divisor(length, _ON_CPU / (4 * product * inside)))
        if found[-1] != length:  # the rest belongs to one part
            break
    return (*found, *whole[len(found) :])


def _divisor(length: int, size: float) -> int:
    """The divisor of `length` whose ratio to `size` is nearest to 1."""
    divisors = [of for of in range(1, length + 1) if length % of == 0]
    return min(divisors, key=lambda of: abs(math.log(of / size)))


def block_sizes(
    given: tuple[int, int] | None,
    lengths: tuple[int, int],
    batch_and_groups: Sequence[int],
    heads: int,
) -> tuple[int, int]:
    """Queries and keys in a block: as given, or so that the scores of a block are few.

    Dimensions may be symbolic, as in `jax.export`. Blocks never are.

    Args:
      given: the sizes that the caller asks for; None to choose them.
      lengths: the numbers of queries and of keys.
      batch_and_groups: as in `parts`, of one part. The devices of the current mesh are taken to
        divide them among themselves.
      heads: the number of heads of a group.
    """
    if given is not None:
        queries, keys = (
            min(size, max(of, 1)) if _known(of) else size
            for size, of in zip(given, lengths, strict=True)
        )
        return queries, keys
    *batch_and_groups, heads = (of if _known(of) else _USUAL for of in (*batch_and_groups, heads))
    groups = max(1, math.prod(batch_and_groups))
    if _target.platform() == "cpu":
        return _on_cpu(lengths, _ON_CPU // (4 * groups), heads)
    together = max(1, groups * heads // _target.devices())
    if _target.platform() == "tpu":
        return _on_tpu(lengths, _ON_TPU // (4 * together))
    keys = _even(lengths[1], _MOST[1])
    rows = min(_ELSEWHERE // max(1, 4 * together * keys), _MOST[0])
    return _even(lengths[0], max(rows, _SHORT)), keys


def _on_tpu(lengths: tuple[int, int], scores: int) -> tuple[int, int]:
    """Queries and keys of a block with about so many scores of a query head: as many of both, or
    twice as many keys. Queries are read once, and keys once for each block of queries.
    """
    side = 2 ** math.ceil(math.log2(max(scores, 1)) / 2)  # a power of two: see `Scores.mask`
    columns = min(max(side, _SHORT), _MOST[1])
    rows = min(max(scores // columns, _SHORT), _MOST[0])
    return _even(lengths[0], rows), _even(lengths[1], columns)


def _on_cpu(lengths: tuple[int, int], scores: int, heads: int) -> tuple[int, int]:
    """Queries and keys of a block with about so many scores of a group, whose queries, of all its
    heads, are twice as many as the keys.
    """
    queries, keys = (
        min(of, most) if _known(of) else most
        for of, most in zip(lengths, _MOST_ON_CPU, strict=True)
    )
    least = _SHORT if queries <= _SHORT else _LEAST
    columns = max(1, min(keys, max(128, math.isqrt(scores // 2))))
    rows = max(1, min(queries, max(scores // (columns * heads), least)))
    # Few queries leave room for more keys.
    columns = max(columns, min(keys, scores // (rows * heads)))
    return _even(lengths[0], rows), _even(lengths[1], columns)


def check_block_sizes(given: Any) -> tuple[int, int] | None:
    """Two positive integers, or None."""
    if given is None:
        return None
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"block_sizes must be (queries, keys), got {given!r}")
    queries, keys = (
        _checks.check_integer(size, "block_sizes", "(queries, keys)") for size in given
    )
    if min(queries, keys) < 1:
        raise ValueError(f"block_sizes must be positive, got {given!r}")
    return queries, keys


def _known(dimension: Any) -> bool:
    return isinstance(dimension, (int, np.integer))


def _even(length: int, most: int) -> int:
    """The length of blocks of at most about `most` that fill `length` with little left over."""
    if not _known(length):
        return most
    count = max(1, -(-length // most))
    even = -(-length // count)
    return even if even * count == length else -(-even // 8) * 8
