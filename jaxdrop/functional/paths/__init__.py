"""Dropping residual branches and whole layers."""

from jaxdrop.functional.paths._depth import DepthRule, depth_rates
from jaxdrop.functional.paths._drop_path import Mode, drop_path
from jaxdrop.functional.paths._drop_path_add import drop_path_add
from jaxdrop.functional.paths._layer_drop import cond, layer_drop, layer_runs, like
from jaxdrop.functional.paths._layer_subset import layer_subset
from jaxdrop.functional.paths._shake_drop import Per, Range, shake_drop

__all__ = [
    "DepthRule",
    "Mode",
    "Per",
    "Range",
    "cond",
    "depth_rates",
    "drop_path",
    "drop_path_add",
    "layer_drop",
    "layer_runs",
    "layer_subset",
    "like",
    "shake_drop",
]
