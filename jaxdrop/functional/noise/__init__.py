"""Noise, multiplied or added, in place of a mask: no entry becomes 0, and NaN stays NaN."""

from jaxdrop.functional.noise._embeddings import neftune
from jaxdrop.functional.noise._entries import gaussian_dropout, gaussian_noise, uniform_dropout

__all__ = [
    "gaussian_dropout",
    "gaussian_noise",
    "neftune",
    "uniform_dropout",
]
