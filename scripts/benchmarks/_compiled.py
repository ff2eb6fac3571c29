"""What a compiled program says about itself."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Mapping

import jax


def side_by_side(
    programs: Mapping[str, jax.stages.Lowered],
) -> dict[str, jax.stages.Compiled | Exception]:
    """Compiles several programs at the same time; what the compiler refuses gives its error."""

    def compiled_or_error(program: jax.stages.Lowered) -> jax.stages.Compiled | Exception:
        try:
            return program.compile()
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(programs, pool.map(compiled_or_error, programs.values()), strict=True))


def compiled(programs: Mapping[str, jax.stages.Lowered]) -> dict[str, jax.stages.Compiled]:
    """Compiles several programs at the same time, and raises the first error of the compiler."""
    found: dict[str, jax.stages.Compiled] = {}
    for name, program in side_by_side(programs).items():
        if isinstance(program, Exception):
            raise program
        found[name] = program
    return found


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
