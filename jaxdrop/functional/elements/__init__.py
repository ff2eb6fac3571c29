"""Dropping single entries."""

from jaxdrop.functional.elements._alpha import alpha_dropout, feature_alpha_dropout
from jaxdrop.functional.elements._dropout import classic_dropout, dropout

__all__ = [
    "alpha_dropout",
    "classic_dropout",
    "dropout",
    "feature_alpha_dropout",
]
