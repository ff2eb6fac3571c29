"""Dropping single entries."""

from jaxdrop.functional.elements._dropout import (
    alpha_dropout,
    classic_dropout,
    dropout,
    feature_alpha_dropout,
)

__all__ = [
    "alpha_dropout",
    "classic_dropout",
    "dropout",
    "feature_alpha_dropout",
]
