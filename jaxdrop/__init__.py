"""Dropout for JAX: pure functions of (key, array, rate), and thin Flax modules over them.

    >>> import jax.numpy as jnp, jaxdrop
    >>> y = jaxdrop.dropout(jaxdrop.key(0), jnp.ones((2, 3)), 0.5)
    >>> y.shape
    (2, 3)

`jaxdrop.nnx` and `jaxdrop.linen` hold the same names as Flax modules and are loaded, with Flax, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxdrop import masks, mc, random
from jaxdrop.functional.elements import dropout
from jaxdrop.random import key

if TYPE_CHECKING:
    from jaxdrop import linen, nnx

__version__ = "0.1.0"
__all__ = ["dropout", "key", "linen", "masks", "mc", "nnx", "random"]

_ON_FIRST_USE = ("linen", "nnx")


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"jaxdrop.{name}")
    raise AttributeError(f"module 'jaxdrop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_ON_FIRST_USE))
