"""Dropping whole channels, and blocks of neighbors."""

from jaxdrop.functional.regions._drop_block import Normalize, Rule, drop_block, spatial_dropout

__all__ = [
    "Normalize",
    "Rule",
    "drop_block",
    "spatial_dropout",
]
