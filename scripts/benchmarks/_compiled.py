"""What a compiled program says about itself."""

from __future__ import annotations

import math

import jax


def scratch_bytes(compiled: jax.stages.Compiled) -> float:
    """The memory that a program needs besides its arguments and results; NaN if the backend does
    not say.
    """
    analysis = compiled.memory_analysis()
    return math.nan if analysis is None else analysis.temp_size_in_bytes


def flops(compiled: jax.stages.Compiled) -> float:
    """The FLOPs of a program, of one turn of each loop; NaN if the backend does not say."""
    return (compiled.cost_analysis() or {}).get("flops", math.nan)


def held_bytes(compiled: jax.stages.Compiled) -> float:
    """The memory that a program's arguments take on one device; NaN if the backend does not say."""
    analysis = compiled.memory_analysis()
    return math.nan if analysis is None else analysis.argument_size_in_bytes
