"""How programs are compiled: in order to be run once, or to run for long."""

from __future__ import annotations

import functools

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Of XLA: LLVM takes the shortest way. What XLA itself rewrites and fuses stays."""

OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""Whatever the settings of the run."""

quick = functools.partial(jax.jit, compiler_options=OPTIONS)
