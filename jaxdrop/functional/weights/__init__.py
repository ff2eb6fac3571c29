"""Dropping weights."""

from jaxdrop.functional.weights._drop_connect import (
    KeyPath,
    Match,
    Per,
    drop_connect,
    drop_connect_gaussian,
    quant_noise,
    weight_drop,
)

__all__ = [
    "KeyPath",
    "Match",
    "Per",
    "drop_connect",
    "drop_connect_gaussian",
    "quant_noise",
    "weight_drop",
]
