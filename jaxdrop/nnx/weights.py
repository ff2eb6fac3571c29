"""Modules that drop weights. See `jaxdrop.functional.weights`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import weights
from jaxdrop.functional.elements import dropout
from jaxdrop.nnx._base import RngSource, Stochastic, check_module
from jaxdrop.nnx._dense import BIAS_INIT, KERNEL_INIT, Dense


class DropConnect(Dense):
    """A dense layer `x (m * kernel) / (1 - rate) + bias`: `jaxdrop.drop_connect` with the
    parameters of `flax.nnx.Linear`.

    The bias is not dropped. Parameters are cast to the dtype of the input.

    Args:
      in_features: the length of the input's last axis.
      out_features: that of the output's.
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
      deterministic: if True, the mean weights are used. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs`, for the parameters and the masks.
      spec: inside `shard_map` and `pmap`, the layout of the whole mask (of the whole output if
        `gaussian`).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rate: float = 0.5,
        *,
        per: weights.Per = "batch",
        scale_by_keep: bool = True,
        gaussian: bool = False,
        use_bias: bool = True,
        param_dtype: Dtype = jnp.float32,
        kernel_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = BIAS_INIT,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            rate,
            use_bias=use_bias,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            spec=spec,
        )
        self.per: weights.Per = per
        self.scale_by_keep = scale_by_keep
        self.gaussian = _checks.check_flag(gaussian, "gaussian")

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shape (..., in_features) to (..., out_features). Further arguments as in
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        connect = weights.drop_connect_gaussian
        if not self.gaussian:
            connect = functools.partial(weights.drop_connect, per=self.per)
        inputs = self._checked(inputs)
        kernel = self._weights(inputs)
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


class WeightDrop(Stochastic):
    """Runs a module with some of its weights dropped: `jaxdrop.weight_drop` over the module's
    `nnx.Param`s.

        rnn = WeightDrop(nnx.RNN(nnx.OptimizedLSTMCell(64, 64, rngs=rngs)), 0.5,
        match="dense_h/kernel", rngs=rngs)

    Masks are drawn once a call. The module's own parameters stay as they are, and get the
    gradients; what else the call changes in it (batch statistics, random streams) is kept.

    Args:
      module: any NNX module.
      rate: the probability of dropping, a number in [0, 1].
      match: which parameters: a regular expression that is searched for in names such as
        `cell/dense_h/kernel`, or a function of a path of `jax.tree_util` keys.
      drop: what is done to a parameter, `drop(key, w, rate, spec=...)`.
      deterministic: if True, nothing is dropped. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with
        the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole parameters, as in
        `jaxdrop.weight_drop`.
    """

    def __init__(
        self,
        module: nnx.Module,
        rate: float,
        *,
        match: weights.Match,
        drop: Callable[..., jax.Array] = dropout,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        check_module(module, "module")
        self.module = module
        self.match = match
        self.drop = drop

    def __call__(
        self,
        *args: Any,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Calls the module with `args` and `kwargs`. The named arguments are this wrapper's, as in
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        graph, params, rest = nnx.split(self.module, nnx.Param, ...)
        params = weights.weight_drop(
            key, params, rate, match=self.match, drop=self.drop, deterministic=off, spec=spec
        )
        dropped = nnx.merge(graph, params, rest)
        outputs = dropped(*args, **kwargs)
        nnx.update(self.module, nnx.state(dropped, nnx.Not(nnx.Param)))
        return outputs


class QuantNoise(WeightDrop):
    """Runs a module with quantization noise on its weights: `jaxdrop.quant_noise` over the chosen
    `nnx.Param`s.

    Args:
      module: any NNX module.
      rate: the probability of dropping a block, a number in [0, 1].
      block_size: the number of weights in a block.
      axis: along which blocks lie: -2 for the input features of kernels, -1 for embeddings.
      match: which parameters; all kernels by default.
      deterministic: if True, nothing is dropped. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with
        the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole parameters.
    """

    def __init__(
        self,
        module: nnx.Module,
        rate: float,
        *,
        block_size: int = 8,
        axis: int = -2,
        match: weights.Match = r"(^|/)kernel$",
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: Any = None,
    ) -> None:
        super().__init__(
            module,
            rate,
            match=match,
            drop=functools.partial(weights.quant_noise, block_size=block_size, axis=axis),
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            spec=spec,
        )
