"""Lengths of axes, which are symbols in a function that `jax.export` exports for any batch size."""

from __future__ import annotations

import numbers

import jax


def is_known(length: int) -> bool:
    """Whether a length is a number, and not a symbolic length of `jax.export`."""
    return isinstance(length, numbers.Integral)


def at_most(length: int, bound: int) -> bool:
    """Whether a length is at most `bound` for certain. A symbolic length counts as longer, unless
    its constraints rule that out.
    """
    try:
        return bool(length <= bound)
    except jax.errors.InconclusiveDimensionOperation:
        return False
