"""Dropping whole channels, and blocks of neighbors."""

from jaxdrop.functional.regions._drop_block import Normalize, Rule, drop_block
from jaxdrop.functional.regions._spatial import check_rank, spatial_dropout

__all__ = [
    "Normalize",
    "Rule",
    "check_rank",
    "drop_block",
    "spatial_dropout",
]
