"""Moments of the outputs of any function."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jaxdrop import _checks, _numerics
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _describe, _groups, _merging


@cites("gal2016dropout")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Moments(_groups.Grouped):
    """Mean and spread of S samples `y_s`. `num_samples` and `num_groups` are numbers; the other
    fields are pytrees of the structure and shapes of one sample.
    """

    num_samples: jax.Array
    """S, an integer scalar."""
    mean: Any
    """`1/S sum_s y_s`."""
    variance: Any
    """`1/S sum_s (y_s - mean)^2`, the variance of the population."""
    log_mean_exp: Any
    """`log 1/S sum_s exp(y_s)`: if `y_s` are log-likelihoods, the log of the mean likelihood."""
    mean_residual: Any
    """The rounding error of `mean`: the sum of the two has twice the digits, so that summaries
    merge without loss.
    """
    num_groups: jax.Array | None = None
    """How many groups of samples are independent of each other; None if each sample is."""
    group_variance: Any = None
    """The variance of the groups' means; None if each sample is a group."""

    @property
    def std(self) -> Any:
        """The standard deviation of the samples, the root of `variance`."""
        return jax.tree.map(jnp.sqrt, self.variance)

    @_checks.hinted
    def merge(self, other: Moments) -> Moments:
        """The moments of these samples and of `other` ones together. Exact up to rounding.

        Raises:
          TypeError: `other` is not a `Moments`.
          ValueError: it is of other outputs: structure, shapes or dtypes differ. Or it is `self`.
        """
        first, second = _groups.alike(self, other)
        return _merge(first, second)

    def _spread(self) -> Any:
        return self.variance

    def __repr__(self) -> str:
        return _describe.line(self, self._shape, self._told)

    def _shape(self) -> str:
        leaves = jax.tree.leaves(self.mean)
        return f"shape {tuple(leaves[0].shape)}" if len(leaves) == 1 else f"{len(leaves)} arrays"

    def _told(self) -> dict[str, Any]:
        leaves = jax.tree.leaves(self.variance)
        return {"std": np.sqrt(_describe.known(leaves[0]))} if len(leaves) == 1 else {}


def of(samples: Any, groups: int | None = None) -> Moments:
    """The moments of a pytree of samples, which lie along the first axis."""
    leaves = jax.tree.leaves(samples)
    if not leaves:
        raise ValueError(f"fn must return an array or a pytree of arrays, got {samples!r}")
    return _of(
        jax.tree.map(_real, samples), groups=_groups.check_optional(groups, leaves[0].shape[0])
    )


def _real(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            "moments takes real outputs, got complex ones: return their real and imaginary parts,"
            " or their modulus"
        )
    return x.astype(
        _numerics.compute_dtype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    )


class _Leaf(NamedTuple):
    """The moments of one array: the fields of `Moments` from `mean` on, but for the number of
    groups.
    """

    mean: jax.Array
    variance: jax.Array
    log_mean_exp: jax.Array
    mean_residual: jax.Array
    group_variance: Any


@kernel("moments", checkpoint=False)
def _of(samples: Any, *, groups: int | None) -> Moments:
    def one(x: jax.Array) -> _Leaf:
        location, apart = _merging.center(x)
        log_mean_exp = logsumexp(x, axis=0) - np.log(x.shape[0]).astype(x.dtype)
        among = None if groups is None else _groups.of(apart, groups).variance
        return _Leaf(location.mean, (apart**2).mean(0), log_mean_exp, location.residual, among)

    leaves, structure = jax.tree.flatten(samples)
    num_groups = None if groups is None else jnp.int32(groups)
    return _of_leaves(
        jnp.int32(leaves[0].shape[0]), num_groups, structure, [one(x) for x in leaves]
    )


@kernel("merge", checkpoint=False)
def _merge(first: Moments, second: Moments) -> Moments:
    def one(a: _Leaf, b: _Leaf) -> _Leaf:
        shares = _merging.shares(first.num_samples, second.num_samples, a.mean.dtype)
        location, gap = shares.location(
            *(_merging.Location(x.mean, x.mean_residual) for x in (a, b))
        )
        logs = (
            x.log_mean_exp + _merging.along(jnp.log(share), x.mean)
            for x, share in zip((a, b), shares, strict=True)
        )
        among = (
            None
            if a.group_variance is None
            else shares.variance(a.group_variance, b.group_variance, gap)
        )
        variance = shares.variance(a.variance, b.variance, gap)
        return _Leaf(location.mean, variance, jnp.logaddexp(*logs), location.residual, among)

    structure = jax.tree.structure(first.mean)
    merged = [one(*leaves) for leaves in zip(_leaves(first), _leaves(second), strict=True)]
    num_groups = first.num_groups
    if num_groups is not None and second.num_groups is not None:
        num_groups = num_groups + second.num_groups
    return _of_leaves(first.num_samples + second.num_samples, num_groups, structure, merged)


def _leaves(moments: Moments) -> list[_Leaf]:
    trees = [moments.mean, moments.variance, moments.log_mean_exp, moments.mean_residual]
    columns = [jax.tree.leaves(tree) for tree in trees]
    among = (
        [None] * len(columns[0])
        if moments.num_groups is None
        else jax.tree.leaves(moments.group_variance)
    )
    return [_Leaf(*row) for row in zip(*columns, among, strict=True)]


def _of_leaves(
    num_samples: jax.Array, num_groups: jax.Array | None, structure: Any, leaves: list[_Leaf]
) -> Moments:
    mean, variance, log_mean_exp, residual, among = (
        jax.tree.unflatten(structure, column) for column in zip(*leaves, strict=True)
    )
    among = None if num_groups is None else among
    return Moments(num_samples, mean, variance, log_mean_exp, residual, num_groups, among)
