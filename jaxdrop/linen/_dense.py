"""What the Linen layers with random weights share: a kernel, a bias, and the names of `flax.linen.Dense`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop.linen._base import Stochastic

KERNEL_INIT = nn.initializers.lecun_normal()
BIAS_INIT = nn.initializers.zeros_init()


class Dense(Stochastic):
    """A dense layer. Parameters are cast to the dtype of the input, in which the layer computes.

    Subclasses declare the fields `features`, `use_bias`, `param_dtype`, `kernel_init` and `bias_init` too.
    """

    def _kernel(self, inputs: jax.Array) -> jax.Array:
        kernel: jax.Array = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
        return kernel.astype(inputs.dtype)

    def _shifted(self, outputs: jax.Array) -> jax.Array:
        if not self.use_bias:
            return outputs
        bias: jax.Array = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return outputs + jnp.broadcast_to(bias.astype(outputs.dtype), outputs.shape)
