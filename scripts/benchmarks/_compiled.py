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


def held_bytes(compiled: jax.stages.Compiled) -> float:
    """The memory that a program's arguments take on one device; NaN if the backend does not say."""
    analysis = compiled.memory_analysis()
    return math.nan if analysis is None else analysis.argument_size_in_bytes
