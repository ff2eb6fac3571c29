"""The masks of `jaxdrop.key(seed)` in PyTorch, on any device.

    from jaxdrop_torch import dropout, dropout_key, fold_in, step_key
    y = dropout(step_key(dropout_key(seed), step), x, 0.1)

Copy this file. docs/randomness.md explains the generator; tests/test_ports.py holds this file
against jaxdrop, bit for bit. License: Apache-2.0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch

WORD = 2**32 - 1

Key = tuple[int, int]


def dropout_key(seed: int) -> Key:
    """`jaxdrop.key(seed)`, for seeds of 32 bits; JAX reads more only with `jax_enable_x64`."""
    return 0, seed & WORD


def fold_in(key: Key, number: int) -> Key:
    """`jax.random.fold_in(key, number)`, by Threefry-2x32 with 20 rounds.

    `jax.random.split(key, n)[i]` is the same as `fold_in(key, i)`.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = schedule[0], (number + schedule[1]) & WORD
    for block in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            a = (a + b) & WORD
            b = a ^ ((b << rotation | b >> (32 - rotation)) & WORD)
        a = (a + schedule[(block + 1) % 3]) & WORD
        b = (b + schedule[(block + 2) % 3] + block + 1) & WORD
    return a, b


def step_key(key: Key, step: int) -> Key:
    """`jaxdrop.step_key(key, step)`: the letters "step" are folded in, then the number."""
    return fold_in(fold_in(key, int.from_bytes(b"step", "big")), step)


def bits(key: Key, positions: torch.Tensor) -> torch.Tensor:
    """`jaxdrop.random.bits(key, shape)` at the entries of these row-major indices, int64.

    Words are the low halves of int64, because PyTorch's uint32 lacks operations.
    """
    first, second = _spread(key)
    high = positions >> 32
    first = first ^ (high * 0x9E3779B1 & WORD)
    second = second + high * 0x85EBCA77
    x = (positions & WORD) ^ first
    fed = (x ^ x >> 17) * 0xED5AD4BB & WORD
    x = ((fed ^ fed >> 11 ^ first) * 0xAC4C1B51 + second) & WORD
    x = (x ^ x >> 15) * 0x31848BAB & WORD
    return ((x ^ x >> 14) + fed) & WORD


def threshold(rate: float) -> int:
    """How many of 2**23 equally likely values a mask of this rate keeps; 1 - rate in float32."""
    return math.ceil(struct.unpack("f", struct.pack("f", 1 - rate))[0] * 2**23)


def keep_mask(
    key: Key, shape: Sequence[int], rate: float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Which entries of an array of this shape `jaxdrop.dropout(key, x, rate)` keeps."""
    positions = torch.arange(math.prod(shape), dtype=torch.int64, device=device).reshape(*shape)
    return bits(key, positions) >> 9 < threshold(rate)


def dropout(key: Key, x: torch.Tensor, rate: float) -> torch.Tensor:
    """`jaxdrop.dropout(key, x, rate)`: the same entries are kept, and scaled by the same."""
    keep = threshold(rate) / 2**23 if rate > 15 / 16 else 1 - rate
    scaled = x / keep if keep else x
    return torch.where(keep_mask(key, x.shape, rate, x.device), scaled, torch.zeros_like(x))


def _spread(key: Key) -> Key:
    """Two words from those of a key, which may be as plain as (0, 1): three Feistel rounds."""
    left, right = key
    for step in (1, 2, 3):
        x = (right ^ right >> 17) * 0xED5AD4BB & WORD
        x = ((x ^ x >> 11) * 0xAC4C1B51 + step * 0x9E3779B9) & WORD
        x = (x ^ x >> 15) * 0x31848BAB & WORD
        left, right = right, left ^ x ^ x >> 14
    return left, right
