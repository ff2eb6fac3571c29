"""The kernels of attention for Hopper GPUs, which nothing uses by default: no GPU has run them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from jaxdrop.functional.attention import _gpu


def is_here() -> bool:
    """Whether this device and this JAX have what they need."""
    kernels = _gpu._loaded_for_hopper()
    return kernels is not None and kernels.is_here()


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """Attention that is traced inside this context uses these kernels, if they take the call."""
    jax.clear_caches()  # which hold attention by other kernels
    _gpu.HOPPER = True
    try:
        yield
    finally:
        _gpu.HOPPER = False
        jax.clear_caches()
