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
    """What is traced within is computed by these kernels where they can."""
    jax.clear_caches()  # what was traced by others
    _gpu.HOPPER = True
    try:
        yield
    finally:
        _gpu.HOPPER = False
        jax.clear_caches()
