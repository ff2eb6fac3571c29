"""The moments of the union of two groups of samples, from the moments of each group."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks, _compiler


class Shares(NamedTuple):
    """The shares of two groups of samples in their union, as weights of means."""

    first: jax.Array
    second: jax.Array

    def mean(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """The mean of the union."""
        return along(self.first, first) * first + along(self.second, second) * second

    def variance(self, first: jax.Array, second: jax.Array, gap: jax.Array) -> jax.Array:
        """The population variance of the union, from the groups' and the `gap` between their means.

        References:
          Chan, Golub & LeVeque, "Algorithms for computing the sample variance: analysis and
          recommendations", The American Statistician 37(3), 1983.
        """
        return self.mean(first, second) + along(self.first * self.second, gap) * gap**2

    def location(self, first: Location, second: Location) -> tuple[Location, jax.Array]:
        """The mean of the union, and the gap between the two means."""
        gap = (second.mean - first.mean) + (second.residual - first.residual)
        # XLA may compute the mean and what its rounding took in two loops. It must not contract
        # the product and the sum in one of them only.
        shift = _compiler.rounding_barrier(along(self.second, gap) * gap)
        merged = _sum(first.mean, first.residual + shift)
        # If a mean is infinite, the gap is infinite or NaN; the mean of the union is infinite too.
        whole = jnp.isfinite(gap)
        mean = jnp.where(whole, merged.mean, self.mean(first.mean, second.mean))
        return Location(mean, jnp.where(whole, merged.residual, 0)), gap


class Location(NamedTuple):
    """A mean to twice the digits of its dtype: the unevaluated sum `mean + residual`.

    The gap between the means of two groups is about one standard deviation or less. If the mean is
    1e6 standard deviations, the rounding of the mean alone is a tenth of the gap.
    """

    mean: jax.Array
    residual: jax.Array


def shares(num: jax.Array, other: jax.Array, dtype: Any) -> Shares:
    """The shares of groups of `num` and `other` samples, integers, in their union."""
    total = (num + other).astype(dtype)
    return Shares(num.astype(dtype) / total, other.astype(dtype) / total)


def center(samples: jax.Array) -> tuple[Location, jax.Array]:
    """The mean along the first axis, and the deviations of the samples from it.

    The difference of a sample and the rounded mean is exact, or nearly so. The mean of these
    differences is the rounding error of the mean: the second pass of Chan, Golub & LeVeque.
    """
    rough = lax.stop_gradient(samples.mean(0))
    # The difference from an infinite mean is NaN, and would make the mean NaN.
    rough = jnp.where(jnp.isfinite(rough), rough, 0)
    apart = samples - rough[None]
    left = apart.mean(0)
    return _sum(rough, left), apart - left[None]


def _sum(first: jax.Array, second: jax.Array) -> Location:
    """`first + second`, and its rounding error (Knuth, TAOCP 2, theorem 4.2.2B)."""
    total = first + second
    moved = total - first
    residual = (first - (total - moved)) + (second - moved)
    return Location(total, jnp.where(jnp.isfinite(total), residual, 0))


def check(summary: Any, other: Any) -> None:
    """Checks that two summaries are of one kind and of the same inputs, and are not the same."""
    name = type(summary).__name__
    if type(other) is not type(summary):
        raise TypeError(
            f"other must be a {name}, which merges with one of its kind, got"
            f" {_checks.quoted(other)}"
        )
    if other is summary:
        raise ValueError(f"other must be a {name} of other samples, got itself")
    forms, others = (_forms(each) for each in (summary, other))
    if forms.keys() != others.keys():
        raise ValueError(
            f"summaries of the same inputs merge, but one has {', '.join(forms)} and the other"
            f" {', '.join(others)}"
        )
    for field, form in forms.items():
        if form != others[field]:
            raise ValueError(
                f"summaries of the same inputs merge, but their {field} differ: {form[1]}{form[0]}"
                f" and {others[field][1]}{others[field][0]}"
            )


def _forms(summary: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of each array by its path in the pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(summary)
    return {jax.tree_util.keystr(at): (jnp.shape(x), jnp.result_type(x)) for at, x in leaves}


def along(values: jax.Array, like: jax.Array) -> jax.Array:
    """`values`, a scalar or one for each entry along the first axes of `like`, with axes of length
    1 for the other axes of `like`.
    """
    return (
        jnp.reshape(values, (*values.shape, *[1] * (like.ndim - values.ndim)))
        if values.ndim
        else values
    )
