"""Dropout as Flax Linen modules: hyperparameters, a key, and one call into the functions of `jaxdrop`."""

from jaxdrop.linen.elements import Dropout

__all__ = ["Dropout"]
