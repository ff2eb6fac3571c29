"""Which kernels take the place of the blocks of `_blocked`: those for GPUs, for TPUs, or none."""

from __future__ import annotations

from typing import Any

from jaxdrop.functional.attention import _gpu, _target
from jaxdrop.functional.attention._block import Operands, Plan


def chosen(plan: Plan, operands: Operands) -> Any:
    """The module whose `forward` and `transposed` compute this call; None for XLA's blocks.

    On a TPU only if the plan asks for kernels: no TPU has run them.
    """
    on_tpu = _target.platform() == "tpu"
    if plan.kernels is None:
        return _gpu if not on_tpu and _gpu.pays(plan, operands) else None
    if not plan.kernels:
        return None
    module = _mosaic() if on_tpu else _gpu
    if reason := module.refusal(plan, operands):
        raise ValueError(
            f"implementation='pallas' does not take this: {reason}. Leave it out, or give"
            " implementation='xla'."
        )
    return module


def _mosaic() -> Any:
    """Loaded on first use: Pallas adds tens of milliseconds to an import."""
    from jaxdrop.functional.attention import _mosaic

    return _mosaic
