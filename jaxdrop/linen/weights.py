"""Modules that drop weights. See `jaxdrop.functional.weights`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import weights
from jaxdrop.functional.elements import dropout
from jaxdrop.linen._base import Stochastic, check_module
from jaxdrop.linen._dense import BIAS_INIT, KERNEL_INIT, Dense


class DropConnect(Dense):
    """A dense layer `x (m * kernel) / (1 - rate) + bias`: `jaxdrop.drop_connect` with the
    parameters of `flax.linen.Dense`.

    The bias is not dropped. Parameters are cast to the dtype of the input.

    Attributes:
      features: the length of the output's last axis.
      rate: the probability of dropping a weight, a number in [0, 1].
      per: `'example'` for a mask for each row of the input, `'batch'` for one that all rows share.
      scale_by_keep: if False, training does not divide by `1 - rate`, and evaluation multiplies by
        it, as in the paper.
      gaussian: whether to draw from the moment-matched normal law instead, as
        `jaxdrop.drop_connect_gaussian`: the paper's inference.
      use_bias: whether there is a bias.
      param_dtype: of the parameters.
      kernel_init: initializes the kernel.
      bias_init: initializes the bias.
      deterministic: if True, the mean weights are used. To be given here or in the call, not in
        both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole mask (of the whole output if
        `gaussian`).
    """

    features: int
    rate: float = 0.5
    per: weights.Per = "batch"
    scale_by_keep: bool = True
    gaussian: bool = False
    use_bias: bool = True
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = BIAS_INIT
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in) to (..., features). Further arguments as in `jaxdrop.linen.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        connect = weights.drop_connect_gaussian
        if not _checks.check_flag(self.gaussian, "gaussian"):
            connect = functools.partial(weights.drop_connect, per=self.per)
        inputs = self._checked(inputs)
        kernel = self._kernel(inputs)
        return self._shifted(
            connect(
                key,
                inputs,
                kernel,
                rate,
                scale_by_keep=self.scale_by_keep,
                deterministic=off,
                spec=spec,
            )
        )


class _Wrapper(Stochastic):
    """Runs a module with some of its weights dropped. Subclasses declare the fields `module` and
    `match` too, and `_drop`.
    """

    @nn.compact
    def __call__(
        self,
        *args: Any,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        rate: masks.Rate | None = None,
        spec: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Calls the module with `args` and `kwargs`. The named arguments are this wrapper's, as in
        `jaxdrop.linen.Dropout`.
        """
        check_module(self.module, "module")
        if self.is_initializing():  # there is nothing to drop yet
            return self.module(*args, **kwargs)
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)

        def drop(variables: Any) -> Any:
            params = variables["params"]
            dropped = weights.weight_drop(
                key, params, rate, match=self.match, drop=self._drop(), deterministic=off, spec=spec
            )
            return {"params": dropped}

        return nn.map_variables(lambda module: module(*args, **kwargs), "params", trans_in_fn=drop)(
            self.module
        )


class WeightDrop(_Wrapper):
    """Runs a module with some of its weights dropped: `jaxdrop.weight_drop` over the module's
    `params`.

        rnn = WeightDrop(nn.RNN(nn.OptimizedLSTMCell(64)), 0.5, match=r"h[ifgo]/kernel$")

    Masks are drawn once a call. The parameters themselves stay as they are, and get the gradients.

    Attributes:
      module: any Linen module.
      rate: the probability of dropping, a number in [0, 1].
      match: which parameters: a regular expression that is searched for in names such as
        `cell/hi/kernel`, or a function of a path of `jax.tree_util` keys.
      drop: what is done to a parameter, `drop(key, w, rate, spec=...)`.
      deterministic: if True, nothing is dropped. To be given here or in the call, not in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole parameters, as in
        `jaxdrop.weight_drop`.
    """

    module: nn.Module
    rate: float
    match: weights.Match
    drop: Callable[..., jax.Array] = dropout
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: Any = None

    def _drop(self) -> Callable[..., jax.Array]:
        return self.drop


class QuantNoise(_Wrapper):
    """Runs a module with quantization noise on its weights: `jaxdrop.quant_noise` over the chosen
    `params`.

    Attributes:
      module: any Linen module.
      rate: the probability of dropping a block, a number in [0, 1].
      block_size: the number of weights in a block.
      axis: along which blocks lie: -2 for the input features of kernels, -1 for embeddings.
      match: which parameters; all kernels by default.
      deterministic: if True, nothing is dropped. To be given here or in the call, not in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole parameters.
    """

    module: nn.Module
    rate: float
    block_size: int = 8
    axis: int = -2
    match: weights.Match = r"(^|/)kernel$"
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: Any = None

    def _drop(self) -> Callable[..., jax.Array]:
        return functools.partial(weights.quant_noise, block_size=self.block_size, axis=self.axis)
