"""Checks of labels, of the predictions for them, and of the numbers of groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs


class Predictions(NamedTuple):
    """Checked labels, and the numbers that were predicted for them."""

    labels: jax.Array
    """Integers. Where they were not known, some may be out of range."""
    given: jax.Array
    """Shape (..., C), or the shape of the labels if binary."""
    where: jax.Array | None
    """The labels that count: booleans of the shape of the labels; None for all."""


def predictions(
    caller: str,
    labels: Any,
    given: _inputs.ArrayLike,
    *,
    name: str = "probs",
    binary: bool | None = False,
    where: _inputs.ArrayLike | None = None,
) -> Predictions:
    """Checks integer labels against probabilities, or their logarithms, in `given`, of name `name`.

    They are of shape (...) and (..., C); if `binary`, of one shape, and `given` is of the label 1.
    `binary` is None for a caller that has no such argument, which no message may advise then.
    """
    y = integers(caller, labels, binary=binary)
    given = _inputs.floating(caller, name, given)
    if not given.size or not (binary or given.ndim):
        shape = "(...)" if binary else "(..., C)"
        raise ValueError(
            f"{caller} takes {name} of shape {shape}, with at least one prediction, got shape"
            f" {given.shape}"
        )
    fit(caller, y, given.shape, name=name, binary=binary)
    selected = _inputs.selection(where, y.shape)
    return Predictions(
        within(y, 2 if binary else given.shape[-1], selected, of=name), given, selected
    )


def integers(
    caller: str, labels: Any, *, binary: bool | None = False
) -> jax.Array | np.ndarray[Any, Any]:
    """`labels` as integers of all bits; anything else is a TypeError. If `binary`, booleans count
    as 0 and 1.
    """
    y = _inputs.array(labels, caller, "of integer labels", "labels")
    if binary and y.dtype == np.bool_:
        return y.astype(np.int32)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        if binary:
            advice = "Zeros and ones: pass labels.astype(int)."
        elif binary is False and y.dtype == np.bool_:
            advice = "Labels with two values: pass binary=True."
        else:
            advice = (
                "Labels that are one-hot: pass labels.argmax(-1). Whole numbers: pass"
                " labels.astype(int)."
            )
        raise TypeError(
            f"{caller} takes integer labels, and takes them first, got {y.dtype}{list(y.shape)}."
            f" {advice}"
        )
    return y


def fit(
    caller: str,
    y: jax.Array | np.ndarray[Any, Any],
    shape: tuple[int, ...],
    *,
    name: str = "probs",
    binary: bool | None = False,
) -> None:
    """Checks that labels fit predictions of `shape`."""
    expected = shape if binary else shape[:-1]
    if y.shape != expected:
        raise ValueError(
            f"{caller} takes a label for each prediction: shape {expected}, got labels of shape"
            f" {y.shape} for {name} of shape {shape}.{_way_out(y.shape, shape, name, binary)}"
        )
    if not binary and shape[-1] == 1:
        advice = (
            ""
            if binary is None
            else f" The probability of the label 1 alone: pass {name}[..., 0] and binary=True."
        )
        raise ValueError(
            f"{caller} takes {name} of two classes at least, got shape {shape}.{advice}"
        )


def _way_out(
    labels: tuple[int, ...], shape: tuple[int, ...], name: str, binary: bool | None
) -> str:
    if not binary and labels == shape:
        alone = (
            ""
            if binary is None
            else " Predictions of the label 1 alone, or of several labels that do not exclude each"
            " other: pass binary=True."
        )
        return f" One-hot labels: pass labels.argmax(-1).{alone}"
    if len(shape) > 1 and labels == (shape[1:] if binary else shape[1:-1]):
        return (
            f" If the first axis of {name} is that of samples, pass their mean, as in"
            " mc.classification(probs=samples).mean."
        )
    if binary and (*labels, 1) == shape:
        return f" Pass {name}[..., 0]."
    if binary and (*labels, 2) == shape:
        return f" Pass {name}[..., 1], or leave binary=True out."
    return ""


def within(
    y: jax.Array | np.ndarray[Any, Any],
    num_classes: int,
    where: jax.Array | None,
    *,
    of: str = "probs",
    advice: str | None = None,
) -> jax.Array:
    """Labels in [0, num_classes), which is checked at `where` if both are known. `of` and `advice`
    are for the message.
    """
    if not _inputs.holds(lambda y: _inside(y, num_classes), y, where):
        found = np.asarray(y)
        if advice is None:
            wrong = found[~_inside(found, num_classes)].ravel()[0]
            advice = f"Those that do not count: pass where=..., such as where=labels != {wrong}."
        got = f"got {found.min()} to {found.max()}"
        raise ValueError(
            f"labels must lie in [0, {num_classes}), {got}. {advice} {of} have {num_classes}"
            " classes."
        )
    return _cut(y, num_classes)


def _inside(numbers: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    wide = numbers.astype(np.int64)  # what does not fit into it is negative then
    return (wide >= 0) & (wide < count)


def _cut(numbers: jax.Array | np.ndarray[Any, Any], count: int) -> jax.Array:
    """Checked numbers, cut to 32 bits. Those out of range, which do not count, become -1."""
    if isinstance(numbers, jax.Array):
        return numbers
    # Signed and wide first: NumPy does not put -1 beside unsigned numbers.
    wide = numbers.astype(np.int64)
    return jnp.asarray(np.where(_inside(numbers, count), wide, -1).astype(np.int32))


def valid(y: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """The labels, 0 in place of those out of range, and which are in range."""
    wide = y.astype(jnp.int64 if y.dtype in (jnp.int64, jnp.uint64) else jnp.int32)
    inside = (wide >= 0) & (wide < num_classes)
    return jnp.where(inside, wide, 0).astype(jnp.int32), inside


def of_labels(judged: Predictions) -> jax.Array:
    """The prediction for each label, `given[y]`; NaN for a label out of range."""
    labels, inside = valid(judged.labels, judged.given.shape[-1])
    picked = jnp.take_along_axis(judged.given, labels[..., None])[..., 0]
    return _inputs.nan_unless(inside, picked)


def group_numbers(
    caller: str,
    groups: _inputs.ArrayLike,
    shape: tuple[int, ...],
    num_groups: int | None,
    where: jax.Array | None = None,
) -> tuple[jax.Array, int]:
    """The arguments `groups`, of `shape`, and `num_groups`, checked. Where groups were traced, some
    may be out of range.
    """
    given = _inputs.array(groups, caller, "groups of integers")
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"{caller} takes groups of integers, got {given.dtype}{list(given.shape)}")
    if given.shape != shape:
        raise ValueError(
            f"{caller} takes a group for each example, groups of shape {shape}, got {given.shape}"
        )
    if num_groups is None:
        if not _inputs.is_known(given):
            raise TypeError(
                f"{caller} takes num_groups=..., the number of groups, where groups are traced: it"
                " is the shape of the result"
            )
        counted = np.asarray(given)[... if where is None else np.asarray(where)]
        num_groups = int(counted.max()) + 1
        if num_groups < 1:
            raise ValueError(f"groups must lie in [0, num_groups), got {_inputs.range_of(counted)}")
    count = _checks.check_count(num_groups, "num_groups")

    if not _inputs.holds(lambda x: _inside(x, count), given, where):
        raise ValueError(
            f"groups must lie in [0, {count}), where {count} is num_groups, got"
            f" {_inputs.range_of(np.asarray(given))}"
        )
    return _cut(given, count), count
