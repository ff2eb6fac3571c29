"""Checks of fields that follow from their types and names."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from jaxdrop import _checks
from jaxdrop._checks import Check, axis, one_of, optional


def _size(value: Any, name: str) -> int:
    return _checks.check_count(value, name, most=_checks.LONGEST)


def _initializer(value: Any, name: str) -> Any:
    _checks.check_callable(value, name, "(key, shape, dtype)")
    return value


def _dtype(value: Any, name: str) -> Any:
    _checks.check_float_dtype(value, name)
    return value


def _layout(value: Any, name: str) -> Any:
    return _checks.check_spec(value, _checks.LONGEST)  # the number of axes is not known yet


_NAMES: dict[str, Check] = {
    "rate": lambda value, name: _checks.check_rate(value, name),
    "deterministic": optional(_checks.check_flag),
    "rng_collection": _checks.check_text,
    "broadcast_dims": lambda value, _: _checks.axis_numbers(value),
    "spec": _layout,
    "axis": optional(axis),
    "features": _size,
    "init": _initializer,
    "dtype": _dtype,
}
"""By the name of the field, or by its last word, as in `batch_axis`."""

_TYPES: dict[Any, Check] = {
    bool: _checks.check_flag,
    int: _checks.check_integer,
    float: _checks.check_number,
}

MEANINGS = {
    "module": "any module of the same framework.",
    "in_features": "the length of the input's last axis.",
    "out_features": "that of the output's last axis.",
    "features": "the length of the output's last axis.",
    "num_features": "the length of the last axis.",
    "rate": "the probability of dropping, a number in [0, 1].",
    "broadcast_dims": "axes along which all entries share one mask value.",
    "channel_axis": "where the channels are: last, or before `n` spatial axes (`-1 - n`).",
    "spatial_rank": "the number of spatial axes; None for all but the first axis and the channels.",
    "use_scale": "whether there is a scale, a parameter.",
    "use_bias": "whether there is a bias, a parameter that is added.",
    "kernel_init": "initializes the kernel.",
    "scale_init": "initializes the scale.",
    "bias_init": "initializes the bias.",
    "param_dtype": "the dtype of the parameters.",
    "spec": "inside `shard_map` and `pmap`, the layout of the whole input, for one mask over all\n"
    "    devices.",
}
"""What fields are that mean the same in all layers, for the docstrings that do not say it."""


def check_of(name: str, kind: Any) -> Check | None:
    """The check of the field `name` of the type `kind`, if there is one."""
    if get_origin(kind) is Literal:
        return one_of(kind)
    check = _NAMES.get(name, _NAMES.get(name.rpartition("_")[2]))
    if check is not None:
        return axis if check is _NAMES["axis"] and type(None) not in get_args(kind) else check
    return _TYPES.get(kind)
