"""The layers with parameters: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.nn.initializers import constant

from jaxdrop import _checks
from jaxdrop.functional import learned as functional
from jaxdrop.layers import Kernel, Variant, learned, mlp, residuals, weights
from jaxdrop.linen._base import Call, Flag, Given, Key, Layer, PlacedCall, PlacedGiven


# fmt: off
class Parametrized(Layer):
    """A layer whose parameters are made in `init`. Subclasses have a field `param_dtype`."""

    def _param(self, name: str, init: Initializer, shape: tuple[int, ...], use: bool = True) -> Any:
        """The parameter `name`, of the dtype `param_dtype`."""
        if not use:
            return None
        if self.has_variable("params", name):
            made = jnp.shape(nn.meta.unbox(self.get_variable("params", name)))
            if made != shape:
                raise ValueError(
                    f"inputs must fit {name} of shape {made}, but ask for {shape}: the layer was"
                    " made for others"
                )
        return self.param(name, init, shape, self.param_dtype)

class Size(Variant):
    """The size of a dense layer."""

    features: int

class Dense(Parametrized, Kernel):
    """A dense layer. Parameters are cast to the dtype of the input, in which the layer computes."""

    def _kernel(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The checked inputs, and the kernel in their dtype."""
        inputs = _checks.check_features(inputs, type(self).__name__)
        kernel = self._param("kernel", self.kernel_init, (inputs.shape[-1], self.features))
        return inputs, kernel.astype(inputs.dtype)

    def _shifted(self, outputs: jax.Array) -> jax.Array:
        bias = self._param("bias", self.bias_init, (self.features,), self.use_bias)
        if bias is None:
            return outputs
        return outputs + jnp.broadcast_to(bias.astype(outputs.dtype), outputs.shape)

class DropConnect(Dense, weights.DropConnect, Size):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[Call]) -> jax.Array:
        return self._shifted(self._drop(self._kernel(inputs), deterministic, rng, **call))

class HiddenSizes(Variant):
    """The sizes of two dense layers, one behind the other."""

    hidden_features: int
    out_features: int

class DropoutMLP(Parametrized, Kernel, mlp.DropoutMLP, HiddenSizes):
    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[Call]) -> jax.Array:
        inputs = _checks.check_features(inputs, type(self).__name__)
        features = inputs.shape[-1]
        shapes = self._kernels(features, self.hidden_features, self.out_features, self.gated)
        kernels, biases = {}, {}
        for kind, shape in shapes.items():
            kernels[kind] = self._param(f"kernel_{kind}", self.kernel_init, shape)
            biases[kind] = self._param(
                f"bias_{kind}", self.bias_init, shape[1:], self.use_bias
            )
        operands, others = self._weights(inputs, kernels, biases)
        return self._drop_behind_init(operands, deterministic, rng, **others, **call)

class Learned(Layer):
    """A layer whose amount is a parameter, `_learned(inputs)`."""

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[PlacedGiven]) -> jax.Array:
        (inputs,) = self._check_operands(inputs)
        return self._drop((inputs,), deterministic, rng, self._learned(inputs), **call)

class LearnedDense(Dense):
    """A dense layer whose amount is a parameter, `_learned(kernel)`."""

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: Flag = None, rng: Key = None,
                 **call: Unpack[Given]) -> jax.Array:
        inputs, kernel = self._kernel(inputs)
        amount = self._learned(kernel)
        return self._shifted(self._drop((inputs, kernel), deterministic, rng, amount, **call))

class ConcreteDropout(Learned, learned.ConcreteDropout):
    def _learned(self, inputs: jax.Array) -> jax.Array:
        return self.param("logit", constant(functional.starting_logit(self.rate)), ())

class VariationalDropout(Learned, learned.VariationalDropout):
    def _learned(self, inputs: jax.Array) -> jax.Array:
        shape = (self.features,) if self.per == "feature" else ()
        return self.param("log_alpha", constant(functional.starting_logit(self.rate)), shape)

class VariationalDense(LearnedDense, learned.VariationalDense, Size):
    def _learned(self, kernel: jax.Array) -> jax.Array:
        shape = {"weight": kernel.shape, "feature": (kernel.shape[0], 1), "layer": ()}[self.per]
        start = constant(functional.starting_logit(self.rate))
        return self.param("log_alpha", start, shape, self.param_dtype)

class SparseVariationalDense(LearnedDense, learned.SparseVariationalDense, Size):
    def _learned(self, kernel: jax.Array) -> jax.Array:
        start = constant(functional.starting_log_variance(self.log_sigma2))
        return self.param("log_sigma2", start, kernel.shape, self.param_dtype)

class BiasDropoutAdd(Parametrized, residuals.BiasDropoutAdd):
    @nn.compact
    def __call__(self, inputs: jax.Array, residual: jax.Array, deterministic: Flag = None,
                 rng: Key = None, **call: Unpack[PlacedCall]) -> jax.Array:
        inputs = _checks.check_features(inputs, type(self).__name__)
        bias = self._param("bias", self.bias_init, inputs.shape[-1:], self.use_bias)
        return self._drop((inputs, bias, residual), deterministic, rng, **call)

class DropoutAddLayerNorm(Parametrized, residuals.DropoutAddLayerNorm):
    @nn.compact
    def __call__(self, inputs: jax.Array, residual: jax.Array | None = None,
                 deterministic: Flag = None, rng: Key = None, *, row_scale: jax.Array | None = None,
                 **call: Unpack[PlacedCall]) -> jax.Array | tuple[jax.Array, jax.Array]:
        inputs = _checks.check_features(inputs, type(self).__name__)
        scale = self._param("scale", self.scale_init, inputs.shape[-1:], self.use_scale)
        bias = self._param("bias", self.bias_init, inputs.shape[-1:], self.use_bias)
        operands = (inputs, residual, scale, bias)
        return self._drop(operands, deterministic, rng, row_scale=row_scale, **call)
