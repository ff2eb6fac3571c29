"""How programs are compiled: in order to be run once, or to run for long."""

from __future__ import annotations

import functools
import itertools

import jax
import jaxlib

_IS_RECENT = jaxlib.version.__version_info__ >= (0, 11)

# XLA's old emitters write loops in LLVM's language, the new ones in MLIR's first, which takes twice
# the time. Later versions have no old ones, and end the process at a flag that they do not know.
_NEW = {} if _IS_RECENT else {"xla_cpu_use_fusion_emitters": True}

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


def share_contexts(programs: int = 200) -> None:
    """Lets so many programs in a row be lowered in one context of MLIR.

    JAX makes one for each, with all dialects and types anew: a tenth of the time of these tests
    before JAX 0.11, where it takes little. What a context has seen stays until it is dropped. A
    program that is lowered while another one is gets a context of its own, or it would become a
    part of that one.
    """
    if _IS_RECENT:
        return
    from jax._src.interpreters import mlir  # private, and so only where it is known
    from jaxlib.mlir import ir

    make, number = mlir.make_ir_context, itertools.count()
    shared = functools.lru_cache(maxsize=1)(lambda turn: make())
    mlir.make_ir_context = lambda: (
        make() if ir.Context.current is not None else shared(next(number) // programs)
    )
