"""Fields of layers that have parameters."""

from __future__ import annotations

import jax.numpy as jnp
from jax.nn.initializers import Initializer, lecun_normal, zeros
from jax.typing import DTypeLike

from jaxdrop.layers._variant import Variant

DENSE = "Shape (..., in_features) to (..., out_features)."


class Kernel(Variant):
    """What the layers with random weights share: a kernel, a bias, and the names of Flax's dense
    layers.
    """

    use_bias: bool = True
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
