"""The moments of two groups of samples together, from those of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Shares(NamedTuple):
    """The parts that two groups of samples have in their union, and means with these weights."""

    first: jax.Array
    second: jax.Array

    def mean(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """The mean of the union."""
        return along(self.first, first) * first + along(self.second, second) * second

    def variance(self, first: jax.Array, second: jax.Array, gap: jax.Array) -> jax.Array:
        """The population variance of the union, from the groups' and the `gap` between their means.

        References:
          Chan, Golub & LeVeque, "Algorithms for computing the sample variance: analysis and recommendations", The American
          Statistician 37(3), 1983.
        """
        return self.mean(first, second) + along(self.first * self.second, gap) * gap**2


def shares(num: jax.Array, other: jax.Array, dtype: Any) -> Shares:
    """The parts of groups of `num` and `other` samples, integers, in their union."""
    total = (num + other).astype(dtype)
    return Shares(num.astype(dtype) / total, other.astype(dtype) / total)


def check(summary: Any, other: Any) -> None:
    """Checks that two summaries are of one kind and of the same shapes."""
    if type(other) is not type(summary):
        raise TypeError(f"a {type(summary).__name__} merges with one of its kind, got {type(other).__name__} {other!r}")
    shapes, others = ([jnp.shape(leaf) for leaf in jax.tree.leaves(each)] for each in (summary, other))
    if shapes != others:
        raise ValueError(f"summaries of the same inputs merge, but their arrays have shapes {shapes} and {others}")


def along(values: jax.Array, like: jax.Array) -> jax.Array:
    """`values`, a number or one for each entry along the first axes of `like`, with axes to broadcast along its others."""
    return jnp.reshape(values, (*values.shape, *[1] * (like.ndim - values.ndim))) if values.ndim else values
