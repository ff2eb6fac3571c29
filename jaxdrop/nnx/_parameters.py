"""The layers with parameters: their fields and docstrings stand in `jaxdrop.layers`."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer

from jaxdrop import _checks
from jaxdrop.functional import learned as functional
from jaxdrop.layers import Kernel, Variant, learned, mlp, residuals, weights
from jaxdrop.nnx._base import Call, Given, Layer, PlacedCall, PlacedGiven


def _param(rngs: nnx.Rngs, init: Initializer, shape: Any, dtype: Dtype, use: bool = True) -> Any:
    return nnx.Param(init(rngs.params(), shape, dtype)) if use else nnx.data(None)


def _all_streams(rngs: Any, name: str) -> Any:
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(
            f"rngs must be an nnx.Rngs, for parameters are made from it, got {_checks.quoted(rngs)}"
        )
    return rngs


# fmt: off
class Parametrized(Layer):
    """A layer whose parameters are made from `rngs`."""

    rngs: nnx.Rngs = dataclasses.field(kw_only=True)
    checks = MappingProxyType({"rngs": _all_streams})

    def _optional(self, name: str) -> jax.Array | None:
        return None if getattr(self, name) is None else self._parameter(name)

class Sizes(Variant):
    """The sizes of a dense layer."""

    in_features: int
    out_features: int

class HiddenSizes(Variant):
    """The sizes of two dense layers, one behind the other."""

    in_features: int
    hidden_features: int
    out_features: int

class Features(Variant):
    """The size of a layer that keeps the last axis."""

    num_features: int

class Dense(Parametrized, Kernel):
    """A dense layer. Parameters are cast to the dtype of the input, in which the layer computes."""

    def _create_kernel(self, in_features: int, out_features: int, use_bias: bool,
                       param_dtype: Dtype, kernel_init: Initializer, bias_init: Initializer,
                       rngs: nnx.Rngs) -> None:
        self.kernel = _param(rngs, kernel_init, (in_features, out_features), param_dtype)
        self.bias = _param(rngs, bias_init, (out_features,), param_dtype, use_bias)

    def _dense(self, inputs: jax.Array, **call: Any) -> jax.Array:
        inputs = _checks.check_features(inputs, type(self).__name__, self.kernel.shape[0])
        outputs = self._drop((inputs, self.kernel[...].astype(inputs.dtype)), **call)
        if self.bias is None:
            return outputs
        return outputs + jnp.broadcast_to(self.bias[...].astype(outputs.dtype), outputs.shape)

class DropConnect(Dense, weights.DropConnect, Sizes):
    def __call__(self, inputs: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._dense(inputs, **call)

class DropoutMLP(Parametrized, Kernel, mlp.DropoutMLP, HiddenSizes):
    def _create(self, in_features: int, hidden_features: int, out_features: int, gated: bool,
                use_bias: bool, param_dtype: Dtype, kernel_init: Initializer,
                bias_init: Initializer, rngs: nnx.Rngs) -> None:
        shapes = self._kernels(in_features, hidden_features, out_features, gated)
        for kind in mlp.KINDS:
            shape, use = shapes.get(kind, (0, 0)), kind in shapes
            kernel = _param(rngs, kernel_init, shape, param_dtype, use)
            bias = _param(rngs, bias_init, shape[1:], param_dtype, use and use_bias)
            setattr(self, f"kernel_{kind}", kernel)
            setattr(self, f"bias_{kind}", bias)

    def __call__(self, inputs: jax.Array, **call: Unpack[Call]) -> jax.Array:
        features, _ = self._parameter("kernel_in").shape
        inputs = _checks.check_features(inputs, type(self).__name__, features)
        kernels = {kind: self._optional(f"kernel_{kind}") for kind in mlp.KINDS}
        biases = {kind: self._optional(f"bias_{kind}") for kind in mlp.KINDS}
        operands, others = self._weights(inputs, kernels, biases)
        return self._drop(operands, **others, **call)

class Learned(Layer):
    """A layer whose amount is a parameter."""

    def __call__(self, inputs: jax.Array, **call: Unpack[PlacedGiven]) -> jax.Array:
        return self._drop((inputs,), rate=self._parameter(self.learned), **call)

class LearnedDense(Dense):
    """A dense layer whose amount is a parameter."""

    def __call__(self, inputs: jax.Array, **call: Unpack[Given]) -> jax.Array:
        return self._dense(inputs, rate=self._parameter(self.learned), **call)

class ConcreteDropout(Learned, learned.ConcreteDropout):
    def _create(self, rate: float) -> None:
        self.logit = nnx.Param(jnp.asarray(functional.starting_logit(rate)))

class VariationalDropout(Learned, learned.VariationalDropout):
    def _create(self, features: int, rate: float, per: learned.PerFeature) -> None:
        self.features = features
        shape = (features,) if per == "feature" else ()
        self.log_alpha = nnx.Param(jnp.full(shape, functional.starting_logit(rate)))

class VariationalDense(LearnedDense, learned.VariationalDense, Sizes):
    def _create(self, rate: float, per: learned.PerWeight, param_dtype: Dtype) -> None:
        features, _ = self.kernel.shape
        shape = {"weight": self.kernel.shape, "feature": (features, 1), "layer": ()}[per]
        start = functional.starting_logit(rate)
        self.log_alpha = nnx.Param(jnp.full(shape, start, param_dtype))

class SparseVariationalDense(LearnedDense, learned.SparseVariationalDense, Sizes):
    if TYPE_CHECKING:
        log_sigma2: Any = ...  # the parameter, which takes the place of the field

    def _create(self, log_sigma2: float, param_dtype: Dtype) -> None:
        start = functional.starting_log_variance(log_sigma2)
        self.log_sigma2 = nnx.Param(jnp.full(self.kernel.shape, start, param_dtype))

class BiasDropoutAdd(Parametrized, residuals.BiasDropoutAdd, Features):
    def _create(self, num_features: int, use_bias: bool, bias_init: Initializer, param_dtype: Dtype,
                rngs: nnx.Rngs) -> None:
        self.bias = _param(rngs, bias_init, (num_features,), param_dtype, use_bias)

    def __call__(self, inputs: jax.Array, residual: jax.Array,
                 **call: Unpack[PlacedCall]) -> jax.Array:
        return self._drop((inputs, self._optional("bias"), residual), **call)

class DropoutAddLayerNorm(Parametrized, residuals.DropoutAddLayerNorm, Features):
    def _create(self, num_features: int, use_scale: bool, use_bias: bool, scale_init: Initializer,
                bias_init: Initializer, param_dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.scale = _param(rngs, scale_init, (num_features,), param_dtype, use_scale)
        self.bias = _param(rngs, bias_init, (num_features,), param_dtype, use_bias)

    def __call__(self, inputs: jax.Array, residual: jax.Array | None = None, *,
                 row_scale: jax.Array | None = None,
                 **call: Unpack[PlacedCall]) -> jax.Array | tuple[jax.Array, jax.Array]:
        operands = (inputs, residual, self._optional("scale"), self._optional("bias"))
        return self._drop(operands, row_scale=row_scale, **call)
