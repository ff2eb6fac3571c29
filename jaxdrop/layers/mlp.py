"""Layers that do not compute the hidden units which they drop. See `jaxdrop.functional.mlp`."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jaxdrop import subsets
from jaxdrop.functional import mlp
from jaxdrop.layers._parameters import DENSE
from jaxdrop.layers._variant import Variant

__all__ = ["KINDS", "DropoutMLP"]

KINDS = ("in", "gate", "out")
"""The last words of the names of the kernels and the biases."""
Shapes = dict[str, tuple[int, int]]


class DropoutMLP(Variant, function=mlp.dropout_mlp):
    """`jaxdrop.dropout_mlp` as a layer: two dense layers that compute only the hidden units which
    are kept. Its parameters are `kernel_in`, `kernel_out`, `bias_in` and `bias_out`; and if it is
    gated, `kernel_gate` and `bias_gate`.

    Parameters are cast to the dtype of the input. A rate sets shapes: a call with another one
    compiles another program.

    Args:
      hidden_features: the number of hidden units.
      rate: the probability of dropping a unit, a number in [0, 1).
      activation: an elementwise function.
      gated: whether hidden units are multiplied by those of a second kernel behind the activation
        (SwiGLU with `activation=jax.nn.silu`).
      pattern: `'unit'`, `'block'` or `'slice'`: what is kept.
      block_size: of the pattern `'block'`.
      groups: how many groups of hidden units keep equally many.
      num_masks: in how many parts the batch is divided, each of which keeps units of its own.
      use_bias: whether there are biases.
      kernel_init: initializes the kernels.
      bias_init: initializes the biases.
      deterministic: if True, all units are computed.
      spec: inside `shard_map` and `pmap`, the layout of the whole array of hidden units.
    """

    call = DENSE
    rate: float = 0.5
    activation: mlp.Activation = jax.nn.relu
    gated: bool = False
    pattern: subsets.Pattern = "unit"
    block_size: int = 128
    groups: int = 1
    num_masks: int = 1

    def _kernels(self, in_features: int, hidden: int, out: int, gated: bool) -> Shapes:
        """The shapes of the kernels, by the last word of their names."""
        sizes = (in_features, hidden)
        return {"in": sizes, **({"gate": sizes} if gated else {}), "out": (hidden, out)}

    def _weights(
        self,
        inputs: jax.Array,
        kernels: Mapping[str, jax.Array | None],
        biases: Mapping[str, jax.Array | None],
    ) -> tuple[tuple[jax.Array | None, ...], dict[str, jax.Array | None]]:
        """The operands of the function, and its other arguments, in the dtype of the inputs."""

        def cast(array: jax.Array | None) -> jax.Array | None:
            return None if array is None else array.astype(inputs.dtype)

        w, b = ({kind: cast(of.get(kind)) for kind in KINDS} for of in (kernels, biases))
        others = {"b_in": b["in"], "b_out": b["out"], "w_gate": w["gate"], "b_gate": b["gate"]}
        return (inputs, w["in"], w["out"]), others
