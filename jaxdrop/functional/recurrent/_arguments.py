"""Checks of the arguments of the recurrent layers of both frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import _checks
from jaxdrop.functional.recurrent._rates import Family


def flag(call: bool | None, module: bool, name: str) -> bool:
    """A flag: the argument of a call unless it is None, else the module's, which is checked in any
    case.
    """
    module = _checks.check_flag(module, name)
    return module if call is None else _checks.check_flag(call, name)


def check_settings(layer: Any, *flags: str) -> None:
    """Checks flags, and `unroll`, of a layer that has them as attributes."""
    for name in flags:
        _checks.check_flag(getattr(layer, name), name)
    if not isinstance(layer.unroll, bool):  # which `jax.lax.scan` takes for all steps, or one
        _checks.check_count(layer.unroll, "unroll")


def checked_inputs(inputs: Any, cell: Any) -> jax.Array:
    """The sequences, if they have as many features as a cell says that it takes."""
    inputs = _checks.check_array(inputs, "inputs", "floating numbers", "RNN")
    features = getattr(cell, "in_features", None)
    if isinstance(features, int) and inputs.ndim and inputs.shape[-1] != features:
        raise ValueError(
            f"inputs must have in_features={features} features, for which the cell was made, got"
            f" shape {tuple(inputs.shape)}"
        )
    return inputs


def checked_carry(carry: Any, family: Family, shape: tuple[int, ...]) -> Any:
    """The argument `initial_carry` for one cell, whose states have this shape if its family is
    known.
    """
    if not family.gates:
        return jax.tree.map(
            lambda part: _checks.check_array(part, "initial_carry"),
            carry,
            is_leaf=lambda part: part is None,
        )
    form = (
        f"{'a pair of arrays' if family.has_cell else 'an array'} of floating numbers, of shape"
        f" {shape}"
    )
    if family.has_cell and not (isinstance(carry, (tuple, list)) and len(carry) == 2):
        raise TypeError(f"initial_carry must be {form}, got {_checks.quoted(carry)}")
    parts = tuple(
        _checks.check_array(part, "initial_carry")
        for part in (carry if family.has_cell else (carry,))
    )
    for part in parts:
        if not jnp.issubdtype(part.dtype, jnp.inexact) or part.shape != shape:
            raise ValueError(f"initial_carry must be {form}, got {_checks.quoted(part)}")
    return parts if family.has_cell else parts[0]


def checked_carries(carries: Any, layers: Sequence[Sequence[Any]]) -> Any:
    """The argument `initial_carry` for a stack of layers: a state for each direction of each
    layer.
    """
    counts = [len(directions) for directions in layers]
    if carries is None:
        return [[None] * count for count in counts]
    if (
        not _is_sequence(carries)
        or not all(map(_is_sequence, carries))
        or [len(each) for each in carries] != counts
    ):
        raise TypeError(
            f"initial_carry must hold for each of the {len(counts)} layers a tuple of the states of"
            f" its {counts[0]} directions, as they are returned, got {_checks.quoted(carries)}"
        )
    return carries


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))
