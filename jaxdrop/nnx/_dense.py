"""What the NNX layers with random weights share: a kernel, a bias, and the names of
`flax.nnx.Linear`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.sharding import PartitionSpec

from jaxdrop import _checks
from jaxdrop.nnx._base import Stochastic, check_init

KERNEL_INIT = nnx.initializers.lecun_normal()
BIAS_INIT = nnx.initializers.zeros_init()


class Dense(Stochastic):
    """A dense layer. Parameters are cast to the dtype of the input, in which the layer computes."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rate: float | None,
        *,
        use_bias: bool,
        param_dtype: Dtype,
        kernel_init: Initializer,
        bias_init: Initializer,
        deterministic: bool | None,
        rng_collection: str,
        rngs: nnx.Rngs,
        spec: PartitionSpec | None,
    ) -> None:
        check_init(rngs, param_dtype, kernel_init=kernel_init, bias_init=bias_init)
        in_features = _checks.check_count(in_features, "in_features", most=_checks.LONGEST)
        out_features = _checks.check_count(out_features, "out_features", most=_checks.LONGEST)
        use_bias = _checks.check_flag(use_bias, "use_bias")
        # Parameters first: with a single stream they are then those of nnx.Linear.
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (in_features, out_features), param_dtype)
        )
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
            if use_bias
            else nnx.data(None)
        )
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )

    def _weights(self, inputs: jax.Array) -> jax.Array:
        return self.kernel[...].astype(inputs.dtype)

    def _checked(self, inputs: jax.Array) -> jax.Array:
        return _checks.check_features(inputs, type(self).__name__, self.kernel.shape[0])

    def _shifted(self, outputs: jax.Array) -> jax.Array:
        if self.bias is None:
            return outputs
        return outputs + jnp.broadcast_to(self.bias[...].astype(outputs.dtype), outputs.shape)
