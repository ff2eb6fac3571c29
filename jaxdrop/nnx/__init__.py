"""Dropout as Flax NNX modules: hyperparameters, a random stream, and one call into the functions of `jaxdrop`."""

from jaxdrop.nnx.elements import Dropout

__all__ = ["Dropout"]
