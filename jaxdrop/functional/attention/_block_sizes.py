"""The window of keys around a query, and the number of queries and keys in a block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdrop import _checks


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
# Bytes of scores in a block. On CPU they fit into a cache; elsewhere a block is enough work for all
# cores of the device.
_CACHE, _LARGE = 2**21, 2**27
# Up to so many queries make one block, whatever memory their scores take, and off the CPU no block
# is smaller: there each core computes a part of the batch.
_SHORT, _LEAST = 256, 64


def block_sizes(
    given: tuple[int, int] | None, lengths: tuple[int, int], batch_and_heads: Sequence[int]
) -> tuple[int, int]:
    """Queries and keys in a block: as given, or so that the scores of a block are few.

    Dimensions may be symbolic, as in `jax.export`. Blocks never are.
    """
    if given is not None:
        queries, keys = (
            min(size, max(of, 1)) if _known(of) else size
            for size, of in zip(given, lengths, strict=True)
        )
        return queries, keys
    on_cpu = jax.default_backend() == "cpu"
    most_queries, most_keys = (1024, 512) if on_cpu else (2048, 1024)
    keys = _even(lengths[1], most_keys)
    rows = (_CACHE if on_cpu else _LARGE) // max(
        1, 4 * math.prod(filter(_known, batch_and_heads)) * keys
    )
    least = _SHORT if not on_cpu or (_known(lengths[0]) and lengths[0] <= _SHORT) else _LEAST
    return _even(lengths[0], min(max(rows, least), most_queries)), keys


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
