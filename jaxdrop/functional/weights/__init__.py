"""Dropping weights."""

from jaxdrop.functional.weights._drop_connect import Per, drop_connect, drop_connect_gaussian
from jaxdrop.functional.weights._parameters import KeyPath, Match, weight_drop
from jaxdrop.functional.weights._quant_noise import quant_noise

__all__ = [
    "KeyPath",
    "Match",
    "Per",
    "drop_connect",
    "drop_connect_gaussian",
    "quant_noise",
    "weight_drop",
]
