"""How much of what a device can do a run makes it do: model FLOPs utilization.

Model FLOPs are those of the products of matrices and the convolutions of the forward pass, counted
as it is traced, three times, since the backward pass has two for each; what remat computes again is
no progress, and does not count (Chowdhery et al., PaLM, 2022, appendix B, arXiv:2204.02311). The
compiler's own count (`compiled.cost_analysis()`) takes the body of a loop once, and the layers of
the transformer and the micro-batches are loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.sharding import Mesh

import jaxdrop
from training.compare import RUNS
from training.config import Config
from training.data import Examples
from training.models import Network


class Peak(NamedTuple):
    """FLOP/s of one of JAX's devices at most, without sparsity: at bfloat16, and in products of
    float32 matrices at each `jax.default_matmul_precision`.
    """

    bfloat16: float
    default: float
    high: float
    highest: float


def _tpu(bfloat16: float) -> Peak:
    """A TPU multiplies float32 in one, three or six passes of bfloat16."""
    return Peak(bfloat16, bfloat16, bfloat16 / 3, bfloat16 / 6)


# Of the vendors' specifications of a chip. TPU v2, v3 and 7x have two devices a chip. The strings
# are those that `device_kind` begins with.
PEAKS: dict[str, Peak] = {
    "TPU v2": _tpu(45e12 / 2),
    "TPU v3": _tpu(123e12 / 2),
    "TPU v4": _tpu(275e12),
    "TPU v5 lite": _tpu(197e12),
    "TPU v5e": _tpu(197e12),
    "TPU v5": _tpu(459e12),
    "TPU v5p": _tpu(459e12),
    "TPU v6 lite": _tpu(918e12),
    "TPU v6e": _tpu(918e12),
    "TPU7x": _tpu(2307e12 / 2),
    "NVIDIA A100": Peak(312e12, 156e12, 156e12, 19.5e12),
    "NVIDIA H100 PCIe": Peak(756e12, 378e12, 378e12, 51e12),
    "NVIDIA H100 NVL": Peak(835.5e12, 417.7e12, 417.7e12, 60e12),
    "NVIDIA H100": Peak(989.4e12, 494.7e12, 494.7e12, 67e12),
    "NVIDIA H200": Peak(989.4e12, 494.7e12, 494.7e12, 67e12),
    "NVIDIA H200 NVL": Peak(835.5e12, 417.7e12, 417.7e12, 60e12),
    "NVIDIA GH200": Peak(989.4e12, 494.7e12, 494.7e12, 67e12),
    "NVIDIA B200": Peak(2250e12, 1125e12, 1125e12, 75e12),
    "NVIDIA GB200": Peak(2500e12, 1250e12, 1250e12, 80e12),
}


def peak(kind: str, dtype: str, precision: str) -> float | None:
    """FLOP/s of a device of this kind, if they are known."""
    names = [name for name in PEAKS if kind.startswith(name)]
    if not names:
        return None
    return getattr(PEAKS[max(names, key=len)], "bfloat16" if dtype == "bfloat16" else precision)


class Usage:
    """What a run uses of what its devices can do.

    Args:
      network: the model.
      target: shapes of the state.
      batch: shapes of a batch, `(micro_batches, examples, ...)`.
      options: of the run.
      mesh: the devices.
    """

    def __init__(
        self, network: Network, target: Any, batch: Examples, options: Config, mesh: Mesh
    ) -> None:
        one = jax.ShapeDtypeStruct(batch.inputs.shape[1:], batch.inputs.dtype)
        key = jaxdrop.key(0)  # not traced, so that what draws nothing is not there

        def forward(params: Any, stats: Any, inputs: jax.Array) -> jax.Array:
            return network.apply(params, stats, inputs, key)[0]

        runs = len(RUNS) if options.compare else 1
        each = of_step(forward, target.params, target.stats, one)
        self.model_flops = runs * options.micro_batches * each
        kind = mesh.devices.flat[0].device_kind
        given = options.peak_tflops
        best = given * 1e12 if given else peak(kind, options.dtype, options.precision)
        self._peak = None if best is None else best * mesh.size

    def utilization(self, steps_a_second: float) -> float | None:
        """The share of the devices' peak, where that is known."""
        if self._peak is None or not self.model_flops:
            return None
        return self.model_flops * steps_a_second / self._peak


def of_step(forward: Callable[..., Any], *arguments: Any) -> float:
    """Model FLOPs of a training step with this forward pass.

    Args:
      forward: is traced, not run.
      arguments: arrays, or `jax.ShapeDtypeStruct`.
    """
    return 3 * _count(jax.make_jaxpr(forward)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [_count(inside) for inside in _inside(parameters)]
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = _shape(equation.invars[0])
            each = math.prod(shape[axis] for axis in contracted)
            total += 2 * each * math.prod(_shape(equation.outvars[0]))
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(kernel) / outputs * math.prod(_shape(equation.outvars[0]))
        elif name == "scan":
            total += parameters["length"] * sum(inner)
        elif name == "cond":  # also what differs by platform, of which a kernel counts as nothing
            total += max(inner)
        elif name == "custom_vjp_call":  # its derivatives are traced elsewhere
            total += inner[0] if inner else 0.0
        else:
            total += sum(inner)
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inside(parameters: dict[str, Any]) -> list[core.Jaxpr]:
    """The programs that are parameters of an operation."""
    leaves = jax.tree.leaves(
        [*parameters.values()],
        is_leaf=lambda leaf: isinstance(leaf, (core.Jaxpr, core.ClosedJaxpr)),
    )
    return [
        leaf.jaxpr if isinstance(leaf, core.ClosedJaxpr) else leaf
        for leaf in leaves
        if isinstance(leaf, (core.Jaxpr, core.ClosedJaxpr))
    ]
