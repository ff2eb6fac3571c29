"""What the Linen layers with random weights share: a kernel, a bias, and the names of
`flax.linen.Dense`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop import _checks
from jaxdrop.linen._base import Stochastic

KERNEL_INIT = nn.initializers.lecun_normal()
BIAS_INIT = nn.initializers.zeros_init()


class Dense(Stochastic):
    """A dense layer. Parameters are cast to the dtype of the input, in which the layer computes.

    Subclasses declare the fields `features`, `use_bias`, `param_dtype`, `kernel_init` and
    `bias_init` too.
    """

    def _kernel(self, inputs: jax.Array) -> jax.Array:
        features = _checks.check_count(self.features, "features", most=_checks.LONGEST)
        return self._param("kernel", self.kernel_init, (inputs.shape[-1], features)).astype(
            inputs.dtype
        )

    def _checked(self, inputs: jax.Array) -> jax.Array:
        return _checks.check_features(inputs, type(self).__name__)

    def _shifted(self, outputs: jax.Array) -> jax.Array:
        if not _checks.check_flag(self.use_bias, "use_bias"):
            return outputs
        bias = self._param("bias", self.bias_init, (self.features,))
        return outputs + jnp.broadcast_to(bias.astype(outputs.dtype), outputs.shape)
