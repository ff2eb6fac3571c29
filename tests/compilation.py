"""How programs are compiled: in order to be run once, or to run for long."""

from __future__ import annotations

import functools

import jax
import jaxlib

# XLA's old emitters write loops in LLVM's language, the new ones in MLIR's first, which takes twice
# the time. Later versions have no old ones, and end the process at a flag that they do not know.
_NEW = {} if jaxlib.version.__version_info__ >= (0, 11) else {"xla_cpu_use_fusion_emitters": True}

OPTIMIZED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    **_NEW,
}
"""Of XLA: as users have it, whatever the settings of the run."""

OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    **dict.fromkeys(_NEW, False),
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""LLVM takes the shortest way. What XLA itself rewrites and fuses stays."""

quick = functools.partial(jax.jit, compiler_options=OPTIONS)
