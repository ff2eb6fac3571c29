"""Makes a PRNG implementation known to JAX by its name.

The one place that reaches into JAX. `jax.extend.random.define_prng_impl` is public, but what it
defines has no name: `impl="..."` does not find it, and Orbax, which writes down the name, cannot
restore a key. JAX's own generators register themselves by the line below. Where a JAX has no such
line, keys work as before, but for their names; see `jaxdrop.key` for what to save then.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable


def register(implementation: Hashable) -> bool:
    """Registers what `define_prng_impl` returned, and says whether JAX let it."""
    for module in ("jax._src.random.prng", "jax._src.prng"):
        try:
            prng = importlib.import_module(module)
            prng.register_prng(implementation._impl)  # type: ignore[attr-defined]
        except Exception:  # whatever a JAX to come makes of its own business
            continue
        return True
    return False
