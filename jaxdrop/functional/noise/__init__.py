"""Noise in place of a mask: nothing is dropped, and what is NaN stays NaN."""

from jaxdrop.functional.noise._embeddings import neftune
from jaxdrop.functional.noise._entries import gaussian_dropout, gaussian_noise, uniform_dropout

__all__ = [
    "gaussian_dropout",
    "gaussian_noise",
    "neftune",
    "uniform_dropout",
]
