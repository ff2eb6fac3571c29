"""Programs that are compiled in order to be run once."""

from __future__ import annotations

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Of XLA: LLVM takes the shortest way. What XLA itself rewrites and fuses stays."""

quick = functools.partial(jax.jit, compiler_options=OPTIONS)
