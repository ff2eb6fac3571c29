"""Checks of layouts, and of all that one place takes where something is dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from jaxdrop._checks._arrays import check_inexact
from jaxdrop._checks._messages import quoted, shown
from jaxdrop._checks._numbers import check_rate, check_rate_shape
from jaxdrop._checks._settings import check_broadcast_dims


def check_spec(spec: Any, ndim: int, of: str = "x") -> PartitionSpec | None:
    """Checks that `spec` describes an array of `ndim` axes, the argument `of`. Axes that it leaves
    out are not divided.
    """
    if spec is None:
        return None
    name = shown("spec")
    entries = (
        [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
        if isinstance(spec, (PartitionSpec, tuple))
        else None
    )
    if entries is None or any(
        not (axis is None or isinstance(axis, str)) for entry in entries for axis in entry
    ):
        raise TypeError(f"{name} must be a jax.sharding.PartitionSpec of names, got {quoted(spec)}")
    if len(spec) > ndim:
        raise ValueError(f"{name}={spec} lays out {len(spec)} axes, but {shown(of)} has {ndim}.")
    names = [axis for entry in entries for axis in entry if axis]
    if len(set(names)) < len(names):
        raise ValueError(
            f"{name}={spec} names an axis twice: each mapped axis divides one axis of {shown(of)}."
        )
    return PartitionSpec(*spec)


class Site(NamedTuple):
    """The checked arguments of one place where something is dropped."""

    x: jax.Array
    rate: float | jax.Array
    shared: tuple[int, ...]
    spec: PartitionSpec | None


def check_site(
    caller: str, x: Any, rate: Any, broadcast_dims: Any, spec: Any, name: str = "x"
) -> Site:
    """Checks what nearly every function takes: an inexact array, a rate that fits its mask, shared
    axes, and a layout.
    """
    x = check_inexact(x, caller, name)
    checked = check_rate(rate)
    shared = check_broadcast_dims(broadcast_dims, x.ndim, name)
    check_rate_shape(checked, x.shape, shared)
    return Site(x, checked, shared, check_spec(spec, x.ndim, name))
