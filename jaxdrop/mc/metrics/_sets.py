"""Coverage and size of sets of classes, and coverage in groups."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop.mc import _inputs, _labels, _reduction
from jaxdrop.mc._labels import group_numbers
from jaxdrop.mc._reduction import masked, reduction


class GroupCoverage(NamedTuple):
    """The coverage of each of G groups."""

    size: jax.Array
    """The number of examples, integers of shape (G,)."""
    covered: jax.Array
    """How many of them are covered, numbers of shape (G,)."""

    @property
    def coverage(self) -> jax.Array:
        """The share that is covered, shape (G,); NaN in an empty group."""
        number = jnp.maximum(self.size, 1).astype(self.covered.dtype)
        return jnp.where(self.size > 0, self.covered / number, jnp.nan)


@_checks.hinted
def set_coverage(
    labels: _inputs.ArrayLike, sets: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None
) -> jax.Array:
    """The share of examples whose set holds their label, `mean_n sets[n, y_n]`.

    Args:
      labels: integers in [0, C), shape (...).
      sets: booleans, shape (..., C), such as the result of `mc.conformal.sets`.
      where: booleans, the labels that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: labels are not integers, or sets not booleans.
      ValueError: shapes do not fit or are empty, or a label that counts is out of range.
    """
    members = _members("set_coverage", sets)
    judged = _labels.predictions(
        "set_coverage", labels, members, name="sets", binary=None, where=where
    )
    return _set_coverage(judged)


@reduction("set_coverage")
def _set_coverage(judged: _labels.Predictions) -> jax.Array:
    return _reduction.mean(_labels.of_labels(judged), judged.where)


@_checks.hinted
def set_size(sets: _inputs.ArrayLike, *, where: _inputs.ArrayLike | None = None) -> jax.Array:
    """The mean number of classes in a set.

    Args:
      sets: booleans, shape (..., C).
      where: booleans of shape (...), the sets that count, as in `mc.metrics`.

    Returns:
      A scalar array.

    Raises:
      TypeError: sets are not booleans.
      ValueError: there are none.
    """
    members = _members("set_size", sets)
    return _set_size(members, _inputs.selection(where, members.shape[:-1]))


@reduction("set_size")
def _set_size(members: jax.Array, where: jax.Array | None) -> jax.Array:
    return _reduction.mean(members.sum(-1), where)


@_checks.hinted
def coverage_by_group(
    covered: _inputs.ArrayLike,
    groups: _inputs.ArrayLike,
    *,
    num_groups: int | None = None,
    where: _inputs.ArrayLike | None = None,
) -> GroupCoverage:
    """The share of covered examples in each group.

        covered = (lower <= y) & (y <= upper)
        mc.metrics.coverage_by_group(covered, region)
        covered = np.take_along_axis(sets, labels[:, None], -1)[:, 0]
        mc.metrics.coverage_by_group(covered, sets.sum(-1))      # by the size of the set

    Args:
      covered: booleans, any shape.
      groups: integers in [0, G), of the same shape.
      num_groups: G. By default, the largest of `groups` and one more. It must be known under `jit`.
      where: booleans, the examples that count, as in `mc.metrics`.

    Returns:
      A `GroupCoverage`.

    Raises:
      TypeError: `covered` is not boolean, groups are not integers, or `num_groups` is not given
        where groups are traced.
      ValueError: shapes differ or are empty, or a group is out of range (under `jit`, where values
        are not known, coverage is NaN).
    """
    given = _boolean("coverage_by_group", "covered", covered)
    if not given.size:
        raise ValueError(
            f"coverage_by_group takes one example at least, got covered of shape {given.shape}"
        )
    selected = _inputs.selection(where, given.shape)
    numbers, count = group_numbers("coverage_by_group", groups, given.shape, num_groups, selected)
    return _coverage_by_group(given, numbers, selected, num_groups=count)


@reduction("coverage_by_group")
def _coverage_by_group(
    covered: jax.Array, groups: jax.Array, where: jax.Array | None, *, num_groups: int
) -> GroupCoverage:
    groups, inside = _labels.valid(groups, num_groups)
    bins = masked(where, groups, num_groups).ravel()
    count = _reduction.counts(bins, num_groups)
    hits = _reduction.counts(jnp.where(covered.ravel(), bins, num_groups), num_groups)
    known = masked(where, inside, fill=True).all()
    return GroupCoverage(count, jnp.where(known, hits.astype(jnp.float32), jnp.nan))


def _members(caller: str, sets: _inputs.ArrayLike) -> jax.Array:
    given = _boolean(caller, "sets", sets)
    if not given.ndim or not given.size:
        raise ValueError(f"{caller} takes sets of shape (..., C), got {given.shape}")
    return given.astype(jnp.float32)


def _boolean(caller: str, name: str, x: _inputs.ArrayLike) -> jax.Array:
    given = _inputs.array(x, caller, f"{name} of booleans")
    if given.dtype != jnp.bool_:
        raise TypeError(f"{caller} takes boolean {name}, got {given.dtype}{list(given.shape)}")
    return jnp.asarray(given)
