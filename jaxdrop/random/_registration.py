"""Makes a PRNG implementation known to JAX by its name.

The one place that uses a private function of JAX. `jax.extend.random.define_prng_impl` is public,
but it gives an implementation no name: `impl="..."` does not find the implementation, and Orbax,
which writes down names, cannot restore a key. JAX registers its own generators by the function that
is called below. With a JAX that has no such function, keys work but for their names;
`jaxdrop.key` says what to save then.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable


def register(implementation: Hashable) -> None:
    """Registers an implementation of `define_prng_impl`, if JAX has a function that does."""
    for module in ("jax._src.random.prng", "jax._src.prng"):
        try:
            prng = importlib.import_module(module)
            prng.register_prng(implementation._impl)  # type: ignore[attr-defined]
        except Exception:  # the private function of another JAX may be missing, or differ
            continue
        return
