"""Dropping residual branches and whole layers."""

from jaxdrop.functional.paths._layer_drop import (
    DepthRule,
    Mode,
    Per,
    Range,
    check_range,
    depth_rates,
    drop_path,
    either,
    layer_drop,
    layer_runs,
    like,
    shake_drop,
)

__all__ = [
    "DepthRule",
    "Mode",
    "Per",
    "Range",
    "check_range",
    "depth_rates",
    "drop_path",
    "either",
    "layer_drop",
    "layer_runs",
    "like",
    "shake_drop",
]
