"""Every variant once. The properties in `test_catalogue.py` and `test_sharding.py` hold for each
row.

A new variant is a new row. Where a property cannot hold for it, the row says so in `exempt`, with
the mathematical reason.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.linen.recurrent
import jaxdrop.nnx
import jaxdrop.nnx.recurrent
from jaxdrop.functional import (
    elements,
    graphs,
    learned,
    noise,
    paths,
    recurrent,
    regions,
    sequences,
    tokens,
    weights,
)

Shape = tuple[int, ...]
Test = TypeVar("Test", bound=Callable[..., None])

KEYS = {"hash": jaxdrop.key(7), "threefry": jax.random.key(7)}
KEY = KEYS["hash"]
RATE = 0.3


@dataclasses.dataclass(frozen=True)
class Law:
    """How likely entries are to be dropped, and which of them fall together."""

    units: Callable[[Shape], np.ndarray]
    """For each entry, the number of the coin that decides on it. Different coins are independent.
    """
    rates: Callable[[float, Shape], np.ndarray] = lambda rate, shape: np.full(shape, rate)
    """For each entry, the probability of being dropped."""


def own(shape: Shape) -> np.ndarray:
    """Each entry has its own coin."""
    return np.arange(np.prod(shape)).reshape(shape)


def shared(*axes: int) -> Callable[[Shape], np.ndarray]:
    """All entries along `axes` have one coin."""

    def units(shape: Shape) -> np.ndarray:
        kept = tuple(1 if axis in axes else length for axis, length in enumerate(shape))
        return np.broadcast_to(own(kept), shape)

    return units


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row."""

    name: str
    function: Callable[..., Any]
    """The public function."""
    call: Callable[..., jax.Array]
    """`call(key, x, rate, *, deterministic, spec)`: the function with everything else settled."""
    law: Law
    nnx: Callable[..., nnx.Module]
    """`nnx(rate, *, rngs)`: the module that makes the same call."""
    linen: Callable[..., nn.Module]
    """`linen(rate, *, deterministic)`."""
    shape: Shape = (8, 16)
    """Of the input in most properties; eight devices must be able to share the first and the last
    axis.
    """
    large: Shape = (512, 512)
    """Of the input in which temporary memory is measured."""
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name of a test -> why the property cannot hold."""

    def example(self, dtype: Any = jnp.float32) -> jax.Array:
        """An input of `shape` without zeros: what is 0 in the output has been dropped."""
        ramp = np.linspace(0.5, 2, int(np.prod(self.shape)), dtype=np.float32)
        return jax.device_put(ramp.reshape(self.shape).astype(jnp.dtype(dtype)))

    def at(
        self, key: jax.Array | None, rate: Any = RATE, **options: Any
    ) -> Callable[[jax.Array], jax.Array]:
        """The function of `x` alone."""
        return lambda x: self.call(key, x, rate, **options)


def ramp(features: int) -> np.ndarray:
    """Fractions of the rate that rise along the features up to 1."""
    return np.linspace(0.5, 1, features, dtype=np.float32)


def _per_feature(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return jaxdrop.dropout(key, x, rate * ramp(x.shape[-1]), **options)


DROPOUT = Variant(
    name="dropout",
    function=jaxdrop.dropout,
    call=jaxdrop.dropout,
    law=Law(own),
    nnx=jaxdrop.nnx.Dropout,
    linen=jaxdrop.linen.Dropout,
)

VARIANTS = [
    DROPOUT,
    dataclasses.replace(
        DROPOUT,
        name="dropout_broadcast_dims",
        call=functools.partial(jaxdrop.dropout, broadcast_dims=(0,)),
        law=Law(shared(0)),
        nnx=functools.partial(jaxdrop.nnx.Dropout, broadcast_dims=(0,)),
        linen=functools.partial(jaxdrop.linen.Dropout, broadcast_dims=(0,)),
    ),
    dataclasses.replace(
        DROPOUT,
        name="dropout_per_feature",
        call=_per_feature,
        law=Law(own, rates=lambda rate, shape: np.broadcast_to(rate * ramp(shape[-1]), shape)),
        exempt={
            "test_nnx_module_makes_the_same_call": (
                "a module's rate is one number; an array comes with the call"
            ),
            "test_linen_module_makes_the_same_call": (
                "a module's rate is one number; an array comes with the call"
            ),
            "test_rate_zero_is_no_operation": "an array of rates is a value that is not looked at",
            "test_rate_one_gives_zeros": "only the last feature's rate is 1",
            "test_an_impossible_rate_is_not_taken_for_another": (
                "half of 1.5 is a rate; see test_masks.py"
            ),
            "test_shard_map_with_spec_draws_the_whole_mask": (
                "its rates must be divided along with x"
            ),
        },
    ),
]


# -- a layer that takes or returns more than x runs through an adapter, `run(layer, x)`

Layer = Callable[..., Any]


class AdaptedNNX(nnx.Module):
    """An NNX layer behind its adapter."""

    def __init__(self, layer: nnx.Module, run: Callable[[Layer, jax.Array], jax.Array]) -> None:
        self.layer = layer
        self.run = run

    def __call__(self, x: jax.Array, **call: Any) -> jax.Array:
        return self.run(functools.partial(self.layer, **call), x)


class AdaptedLinen(nn.Module):
    """A Linen layer behind its adapter."""

    layer: nn.Module
    run: Callable[[Layer, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, **call: Any) -> jax.Array:
        return self.run(functools.partial(self.layer, **call), x)


def adapted(
    function: Layer,
    nnx_layer: Layer,
    linen_layer: Layer,
    run: Callable[[Layer, jax.Array], jax.Array],
    **hyper: Any,
) -> dict[str, Any]:
    """The fields `function`, `call`, `nnx` and `linen` of a row."""

    def call(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
        return run(lambda x, **more: function(key, x, rate, **hyper, **more, **options), x)

    return {
        "function": function,
        "call": call,
        "nnx": lambda rate, rngs: AdaptedNNX(nnx_layer(rate, **hyper, rngs=rngs), run),
        "linen": lambda rate, deterministic: AdaptedLinen(
            linen_layer(rate, **hyper, deterministic=deterministic), run
        ),
    }


# -- weights: the x of these rows are weights, but for drop_connect with one mask for each example

_OWN_WEIGHTS = "its input is not what is dropped; see the tests of the modules"
_PRODUCT = {
    "test_rate_zero_is_no_operation": "the product remains",
    "test_deterministic_is_no_operation": "the product remains",
    "test_nnx_module_makes_the_same_call": _OWN_WEIGHTS,
    "test_linen_module_makes_the_same_call": _OWN_WEIGHTS,
}


def _drop_connect(key: jax.Array | None, w: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return weights.drop_connect(key, jnp.eye(w.shape[0], dtype=w.dtype), w, rate, **options)


def _drop_connect_per_example(
    key: jax.Array | None, x: jax.Array, rate: Any, **options: Any
) -> jax.Array:
    """Each entry of x is an example of its own, of one feature."""
    y = weights.drop_connect(
        key, jnp.expand_dims(x, -1), jnp.ones((1, 1), x.dtype), rate, per="example", **options
    )
    return y.squeeze(-1)


def _weight_drop(key: jax.Array | None, w: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return weights.weight_drop(key, {"kernel": w}, rate, match="kernel", **options)["kernel"]


DROP_CONNECT = Variant(
    name="drop_connect",
    function=weights.drop_connect,
    call=_drop_connect,
    law=Law(own),
    nnx=jaxdrop.nnx.DropConnect,
    linen=jaxdrop.linen.DropConnect,
    exempt=_PRODUCT
    | {
        "test_dropped_values_do_not_leak": (
            "a NaN in a cotangent is a term of every sum of its row; see test_weights.py"
        ),
        "test_nothing_of_the_size_of_x_is_stored": (
            "the derivative in w needs x, that in x needs w; see test_weights.py"
        ),
        "test_forward_pass_needs_no_memory": "a product of matrices reads its operands from memory",
        "test_jit_draws_the_same_mask_under_every_layout": (
            "a sum over a divided axis crosses devices; see test_weights.py"
        ),
        "test_eager_calls_and_gradients_keep_the_layout": (
            "the output has the layout of x and w together"
        ),
    },
)

VARIANTS += [
    DROP_CONNECT,
    dataclasses.replace(
        DROP_CONNECT,
        name="drop_connect_per_example",
        call=_drop_connect_per_example,
        exempt=_PRODUCT
        | {
            "test_dropped_values_do_not_leak": "x is not dropped but multiplied by a weight of 0",
            "test_rate_one_gives_zeros": "x is not dropped but multiplied by a weight of 0",
        },
    ),
    Variant(
        name="weight_drop",
        function=weights.weight_drop,
        call=_weight_drop,
        law=Law(own),
        nnx=jaxdrop.nnx.WeightDrop,
        linen=jaxdrop.linen.WeightDrop,
        exempt={
            "test_nnx_module_makes_the_same_call": _OWN_WEIGHTS,
            "test_linen_module_makes_the_same_call": _OWN_WEIGHTS,
        },
    ),
    Variant(
        name="quant_noise",
        function=weights.quant_noise,
        call=functools.partial(weights.quant_noise, block_size=2),
        law=Law(lambda shape: np.repeat(own((shape[0] // 2, *shape[1:])), 2, axis=0)),
        nnx=jaxdrop.nnx.QuantNoise,
        linen=jaxdrop.linen.QuantNoise,
        shape=(16, 16),
        exempt={
            "test_nnx_module_makes_the_same_call": _OWN_WEIGHTS,
            "test_linen_module_makes_the_same_call": _OWN_WEIGHTS,
        },
    ),
]


# -- elements

_AFFINE = {
    "test_law": "what is dropped is not 0; see test_elements.py",
    "test_dropped_values_do_not_leak": "what is dropped is not 0; see test_elements.py",
}

VARIANTS += [
    Variant(
        name="classic_dropout",
        function=elements.classic_dropout,
        call=elements.classic_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.ClassicDropout,
        linen=jaxdrop.linen.ClassicDropout,
        exempt={"test_deterministic_is_no_operation": "evaluation multiplies by 1 - rate"},
    ),
    Variant(
        name="alpha_dropout",
        function=elements.alpha_dropout,
        call=elements.alpha_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.AlphaDropout,
        linen=jaxdrop.linen.AlphaDropout,
        exempt=_AFFINE,
    ),
    Variant(
        name="feature_alpha_dropout",
        function=elements.feature_alpha_dropout,
        call=elements.feature_alpha_dropout,
        law=Law(shared(1)),
        nnx=jaxdrop.nnx.FeatureAlphaDropout,
        linen=jaxdrop.linen.FeatureAlphaDropout,
        shape=(8, 3, 8),
        large=(1024, 8, 128),
        exempt=_AFFINE,
    ),
]


# -- noise: nothing is dropped

_NOISE = {"test_law": "nothing is dropped", "test_rate_one_gives_zeros": "nothing is dropped"}
_AMOUNT = _NOISE | {
    "test_rate_gets_no_gradient": (
        "the noise is a differentiable function of its amount; see test_noise.py"
    )
}
_ADDED = _AMOUNT | {
    "test_dtype_is_kept": "complex noise has no one definition; see test_noise.py",
    "test_mask_does_not_depend_on_the_dtype": (
        "complex noise has no one definition; see test_noise.py"
    ),
    "test_nothing_of_the_size_of_x_is_stored": (
        "the derivative is the identity: not even the key is stored; see test_noise.py"
    ),
}

# What takes an amount of any size, which is no probability. If the noise is added, the derivative
# in x does not depend on it.
AMOUNTS = (noise.gaussian_noise, noise.uniform_dropout, noise.neftune)

VARIANTS += [
    Variant(
        name="gaussian_dropout",
        function=noise.gaussian_dropout,
        call=noise.gaussian_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.GaussianDropout,
        linen=jaxdrop.linen.GaussianDropout,
        exempt=_NOISE
        | {
            "test_traced_rate_traces_once_and_draws_the_same_mask": (
                "at rate 1 the variance is infinite; see test_noise.py"
            )
        },
    ),
    Variant(
        name="gaussian_noise",
        function=noise.gaussian_noise,
        call=noise.gaussian_noise,
        law=Law(own),
        nnx=jaxdrop.nnx.GaussianNoise,
        linen=jaxdrop.linen.GaussianNoise,
        exempt=_ADDED,
    ),
    Variant(
        name="uniform_dropout",
        function=noise.uniform_dropout,
        call=noise.uniform_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.UniformDropout,
        linen=jaxdrop.linen.UniformDropout,
        exempt=_AMOUNT,
    ),
    Variant(
        name="neftune",
        function=noise.neftune,
        call=noise.neftune,
        law=Law(own),
        nnx=jaxdrop.nnx.NEFTune,
        linen=jaxdrop.linen.NEFTune,
        exempt=_ADDED,
    ),
]


# -- regions

SPATIAL_DROPOUT = Variant(
    name="spatial_dropout",
    function=regions.spatial_dropout,
    call=regions.spatial_dropout,
    law=Law(shared(1)),
    nnx=jaxdrop.nnx.SpatialDropout,
    linen=jaxdrop.linen.SpatialDropout,
    shape=(8, 3, 8),
    large=(1024, 8, 128),
)

DROP_BLOCK = Variant(
    name="drop_block",
    function=regions.drop_block,
    call=functools.partial(regions.drop_block, block_size=3),
    law=Law(own),
    nnx=functools.partial(jaxdrop.nnx.DropBlock, block_size=3),
    linen=functools.partial(jaxdrop.linen.DropBlock, block_size=3),
    shape=(8, 5, 4, 8),
    exempt={
        "test_law": "neighbors fall together, but not always; see test_regions.py",
        "test_rate_one_gives_zeros": (
            "blocks overlap, and leave something at rate 1; see test_regions.py"
        ),
        "test_forward_pass_needs_no_memory": (
            "an entry needs the seeds around it; the mask stands in memory, a byte an entry"
        ),
        "test_jit_draws_the_same_mask_under_every_layout": (
            "what is kept is counted over divided channels; see test_regions.py"
        ),
    },
)

VARIANTS += [
    SPATIAL_DROPOUT,
    DROP_BLOCK,
    dataclasses.replace(
        DROP_BLOCK,
        name="drop_block_expected",
        call=functools.partial(DROP_BLOCK.call, normalize="expected"),
        nnx=functools.partial(DROP_BLOCK.nnx, normalize="expected"),
        linen=functools.partial(DROP_BLOCK.linen, normalize="expected"),
        exempt={
            test: reason
            for test, reason in DROP_BLOCK.exempt.items()
            if test != "test_jit_draws_the_same_mask_under_every_layout"
        },
    ),
]


# -- paths

_RESIDUAL = "a skipped layer's output is x, not 0; see test_paths.py"


def _double(x: jax.Array) -> jax.Array:
    return 2 * x


def _layer_drop(
    key: jax.Array | None, x: jax.Array, rate: Any, *, deterministic: bool = False, spec: Any = None
) -> jax.Array:
    """There is no `spec`: one coin decides for all devices."""
    return paths.layer_drop(key, x, rate, _double, deterministic=deterministic)


DROP_PATH = Variant(
    name="drop_path",
    function=paths.drop_path,
    call=paths.drop_path,
    law=Law(shared(1)),
    nnx=jaxdrop.nnx.DropPath,
    linen=jaxdrop.linen.DropPath,
)

VARIANTS += [
    DROP_PATH,
    dataclasses.replace(
        DROP_PATH,
        name="drop_path_unscaled",
        call=functools.partial(paths.drop_path, batch_axis=1, scale_by_keep=False),
        law=Law(shared(0)),
        nnx=functools.partial(jaxdrop.nnx.DropPath, batch_axis=1, scale_by_keep=False),
        linen=functools.partial(jaxdrop.linen.DropPath, batch_axis=1, scale_by_keep=False),
    ),
    Variant(
        name="layer_drop",
        function=paths.layer_drop,
        call=_layer_drop,
        law=Law(shared(0, 1)),
        nnx=lambda rate, rngs: AdaptedNNX(
            jaxdrop.nnx.LayerDrop(rate, rngs=rngs),
            lambda layer, x: layer(x, nnx.Sequential(_double)),
        ),
        linen=lambda rate, deterministic: AdaptedLinen(
            jaxdrop.linen.LayerDrop(rate, deterministic=deterministic),
            lambda layer, x: layer(x, nn.Sequential([_double])),
        ),
        exempt={
            "test_law": _RESIDUAL,
            "test_dropped_values_do_not_leak": _RESIDUAL,
            "test_rate_one_gives_zeros": _RESIDUAL,
            "test_rate_zero_is_no_operation": "the layer remains; see test_paths.py",
            "test_deterministic_is_no_operation": "the layer remains; see test_paths.py",
            "test_nothing_of_the_size_of_x_is_stored": (
                "the backward pass needs the coin alone, not the key"
            ),
            "test_vmap_over_sharded_keys_draws_the_same_masks": (
                "JAX has no such select under explicit axes; see test_paths.py"
            ),
        },
    ),
    Variant(
        name="shake_drop",
        function=paths.shake_drop,
        call=paths.shake_drop,
        law=Law(shared(1)),
        nnx=jaxdrop.nnx.ShakeDrop,
        linen=jaxdrop.linen.ShakeDrop,
        exempt={
            "test_law": "nothing becomes 0; see test_paths.py",
            "test_rate_one_gives_zeros": (
                "at rate 1 everything is shaken, not dropped; see test_paths.py"
            ),
            "test_deterministic_is_no_operation": (
                "evaluation multiplies by the expected coefficient"
            ),
            "test_derivatives_of_a_linear_map": (
                "the derivative is not that of the value, on purpose; see test_paths.py"
            ),
        },
    ),
]


# -- graphs: rows of x belong to edges or nodes

_MASK = {
    "test_rate_zero_is_no_operation": "it returns a mask: the choice by the mask remains",
    "test_deterministic_is_no_operation": "it returns a mask: the choice by the mask remains",
    "test_nothing_of_the_size_of_x_is_stored": (
        "it returns a mask, one value for each row, which is the caller's to store"
    ),
}


def _rows(keep: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(jnp.expand_dims(keep, -1), x, jnp.zeros_like(x))


def _of_edges(layer: Layer, x: jax.Array) -> jax.Array:
    ids = jnp.zeros(x.shape[0], jnp.int32)
    return _rows(layer(ids, ids), x)


def _of_nodes(layer: Layer, x: jax.Array) -> jax.Array:
    ids = jnp.zeros(1, jnp.int32)
    return _rows(layer(ids, ids, len(x)).nodes, x)


def _drop_edge(
    key: jax.Array | None, x: jax.Array, rate: Any, *, spec: Any = None, **options: Any
) -> jax.Array:
    return _of_edges(
        lambda *graph: graphs.drop_edge(key, *graph, rate, spec=spec and spec[:1], **options), x
    )


def _drop_node(
    key: jax.Array | None, x: jax.Array, rate: Any, *, spec: Any = None, **options: Any
) -> jax.Array:
    return _of_nodes(
        lambda *graph: graphs.drop_node(key, *graph, rate, spec=spec and spec[:1], **options), x
    )


DROP_EDGE = Variant(
    name="drop_edge",
    function=graphs.drop_edge,
    call=_drop_edge,
    law=Law(shared(1)),
    nnx=lambda rate, rngs: AdaptedNNX(jaxdrop.nnx.DropEdge(rate, rngs=rngs), _of_edges),
    linen=lambda rate, deterministic: AdaptedLinen(
        jaxdrop.linen.DropEdge(rate, deterministic=deterministic), _of_edges
    ),
    exempt=_MASK,
)

VARIANTS += [
    DROP_EDGE,
    dataclasses.replace(
        DROP_EDGE,
        name="drop_node",
        function=graphs.drop_node,
        call=_drop_node,
        nnx=lambda rate, rngs: AdaptedNNX(jaxdrop.nnx.DropNode(rate, rngs=rngs), _of_nodes),
        linen=lambda rate, deterministic: AdaptedLinen(
            jaxdrop.linen.DropNode(rate, deterministic=deterministic), _of_nodes
        ),
        exempt=_MASK
        | {"test_export_with_a_symbolic_batch": "the number of nodes is a Python number"},
    ),
]


# -- sequences and tokens


def _is_known(shape: Shape) -> bool:
    return all(isinstance(length, int) for length in shape)


def _words(shape: Shape) -> np.ndarray:
    """Ids of 13 types, for the first two axes."""
    return own(shape[:2]) * 5 % 13


def _of_words(layer: Layer, x: jax.Array) -> jax.Array:
    if _is_known(x.shape):  # in NumPy, so that a program holds none of it
        return layer(x, ids=_words(x.shape))
    rows, columns = (lax.broadcasted_iota(jnp.int32, x.shape[:2], axis) for axis in (0, 1))
    return layer(x, ids=(rows * x.shape[1] + columns) * 5 % 13)  # those of `_words`


def _after_zeros(layer: Layer, x: jax.Array) -> jax.Array:
    return layer(
        x, previous=np.zeros(x.shape, x.dtype) if _is_known(x.shape) else jnp.zeros_like(x)
    )


def _as_ids(layer: Layer, x: jax.Array) -> jax.Array:
    """The bits of x are ids; a dropped one becomes 0."""
    kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    return lax.bitcast_convert_type(layer(lax.bitcast_convert_type(x, kind)), x.dtype)


def _put_back(layer: Layer, x: jax.Array) -> jax.Array:
    """Each kept token at its place, and 0 in place of the others."""
    kept, indices = layer(x)
    if kept is x:
        return x
    places = lax.broadcasted_iota(jnp.int32, (1, x.shape[1], 1), 1)
    found = jnp.expand_dims(indices, 1) == places
    back = jnp.take_along_axis(kept, jnp.argmax(found, axis=-1, keepdims=True), axis=1)
    return jnp.where(found.any(-1, keepdims=True), back, jnp.zeros_like(x))


_STATIC = "the rate sets a shape: it cannot be traced"
_SETS_A_SHAPE = {
    "test_no_tracer_leaks": _STATIC,
    "test_rate_gets_no_gradient": _STATIC,
    "test_an_impossible_rate_is_not_taken_for_another": _STATIC,
    "test_traced_rate_traces_once_and_draws_the_same_mask": _STATIC,
    "test_rate_one_gives_zeros": "something must stay",
    "test_law": "exactly k of n stay: they depend on each other; see test_subsets.py",
}


def _first_of_two(layer: Layer, x: jax.Array) -> jax.Array:
    return layer((x, x))[0]


_INTEGERS = {
    "test_derivatives_of_a_linear_map": "integers have no derivative",
    "test_dropped_values_do_not_leak": "integers have no derivative",
    "test_nothing_of_the_size_of_x_is_stored": "integers have no derivative",
    "test_rate_zero_is_no_operation": "the conversion remains; see test_rate_zero.py",
    "test_deterministic_is_no_operation": "the conversion remains; see test_sequences.py",
    "test_eager_calls_and_gradients_keep_the_layout": "integers have no derivative",
    "test_dtype_is_kept": "complex numbers are no integers; see test_sequences.py",
    "test_mask_does_not_depend_on_the_dtype": (
        "complex numbers are no integers; see test_sequences.py"
    ),
}

EMBEDDING = Variant(
    **adapted(
        sequences.embedding_dropout,
        jaxdrop.nnx.EmbeddingDropout,
        jaxdrop.linen.EmbeddingDropout,
        _of_words,
    ),
    name="embedding_dropout",
    law=Law(lambda shape: np.broadcast_to(_words(shape)[..., None], shape)),
    shape=(8, 4, 16),
    large=(64, 16, 1024),
    exempt={
        "test_nothing_of_the_size_of_x_is_stored": (
            "the mask is a function of the ids: they are needed again"
        ),
        "test_shard_map_with_spec_draws_the_whole_mask": (
            "its ids must be divided along with x; see test_sequences.py"
        ),
        "test_pmap_and_vmap_with_spec_draw_the_whole_mask": (
            "its ids must be divided along with x; see test_sequences.py"
        ),
    },
)

VARIANTS += [
    Variant(
        name="locked_dropout",
        function=sequences.locked_dropout,
        call=functools.partial(sequences.locked_dropout, time_axis=1),
        law=Law(shared(1)),
        nnx=functools.partial(jaxdrop.nnx.LockedDropout, time_axis=1),
        linen=functools.partial(jaxdrop.linen.LockedDropout, time_axis=1),
        shape=(8, 3, 16),
        large=(64, 16, 1024),
    ),
    Variant(
        name="recurrent_dropout",
        function=sequences.recurrent_dropout,
        call=sequences.recurrent_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.Dropout,
        linen=jaxdrop.linen.Dropout,
    ),
    EMBEDDING,
    dataclasses.replace(
        EMBEDDING,
        **adapted(
            sequences.embedding_dropout,
            jaxdrop.nnx.EmbeddingDropout,
            jaxdrop.linen.EmbeddingDropout,
            _of_words,
            time_axis=1,
        ),
        name="embedding_dropout_per_sequence",
        law=Law(
            lambda shape: np.broadcast_to(
                _words(shape)[..., None] + 13 * np.arange(shape[0])[:, None, None], shape
            )
        ),
    ),
    Variant(
        **adapted(
            sequences.zoneout,
            jaxdrop.nnx.Zoneout,
            jaxdrop.linen.Zoneout,
            _after_zeros,
        ),
        name="zoneout",
        law=Law(own),
        exempt={
            "test_deterministic_is_no_operation": "evaluation is the expectation over both states"
        },
    ),
    Variant(
        **adapted(
            sequences.word_dropout,
            jaxdrop.nnx.WordDropout,
            jaxdrop.linen.WordDropout,
            _as_ids,
            replacement=0,
        ),
        name="word_dropout",
        law=Law(own),
        exempt=_INTEGERS,
    ),
    Variant(
        **adapted(
            tokens.label_dropout,
            jaxdrop.nnx.LabelDropout,
            jaxdrop.linen.LabelDropout,
            _as_ids,
            null_id=0,
        ),
        name="label_dropout",
        law=Law(own),
        exempt=_INTEGERS,
    ),
    Variant(
        **adapted(
            tokens.token_dropout,
            jaxdrop.nnx.TokenDropout,
            jaxdrop.linen.TokenDropout,
            _put_back,
            num_prefix_tokens=0,
        ),
        name="token_dropout",
        law=Law(shared(2)),
        shape=(8, 6, 16),
        large=(64, 16, 1024),
        exempt=_SETS_A_SHAPE
        | {
            "test_nothing_of_the_size_of_x_is_stored": (
                "the adapter needs the indices again; see test_tokens.py"
            ),
            "test_forward_pass_needs_no_memory": "the adapter puts the kept tokens back",
        },
    ),
    Variant(
        **adapted(
            tokens.modality_dropout,
            jaxdrop.nnx.ModalityDropout,
            jaxdrop.linen.ModalityDropout,
            _first_of_two,
        ),
        name="modality_dropout",
        law=Law(shared(1), rates=lambda rate, shape: np.full(shape, rate - rate**2 / 2)),
        exempt={"test_rate_one_gives_zeros": "one of the two always stays"},
    ),
]


# -- what is dropped is not computed

_COMPUTED = _SETS_A_SHAPE | {
    "test_nothing_of_the_size_of_x_is_stored": "the products of matrices need their operands",
    "test_forward_pass_needs_no_memory": "what is kept is gathered into memory",
}


def _changed(layer: Layer, x: jax.Array) -> jax.Array:
    """A layer that adds `x` to itself, without the `x` that is always there: `m x`."""
    return layer(x) - x


def _identity_mlp(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    return jaxdrop.dropout_mlp(key, x, eye, eye, rate, activation=lambda x: x, **options)


VARIANTS += [
    Variant(
        name="dropout_mlp",
        function=jaxdrop.dropout_mlp,
        call=_identity_mlp,
        law=Law(shared(0)),
        nnx=jaxdrop.nnx.DropoutMLP,
        linen=jaxdrop.linen.DropoutMLP,
        exempt=_PRODUCT
        | _COMPUTED
        | {
            "test_dropped_values_do_not_leak": "x is not dropped but multiplied by weights",
            "test_jit_draws_the_same_mask_under_every_layout": (
                "a sum over a divided axis crosses devices; see test_mlp.py"
            ),
            "test_eager_calls_and_gradients_keep_the_layout": (
                "a sum over a divided axis needs the layout of its result; see test_mlp.py"
            ),
            "test_shard_map_with_spec_draws_the_whole_mask": (
                "weights must be divided along with their units; see test_mlp.py"
            ),
        },
    ),
    Variant(
        **adapted(
            jaxdrop.drop_path_add,
            jaxdrop.nnx.DropPathAdd,
            jaxdrop.linen.DropPathAdd,
            lambda layer, x: _changed(functools.partial(layer, branch=lambda x: x), x),
            groups=8,
        ),
        name="drop_path_add",
        law=Law(shared(1)),
        shape=(64, 16),
        exempt=_COMPUTED
        | {
            "test_rate_zero_is_no_operation": "the sum remains",
            "test_deterministic_is_no_operation": "the sum remains",
            "test_dropped_values_do_not_leak": "x itself remains",
            "test_export_with_a_symbolic_batch": "the number of examples sets shapes",
        },
    ),
    Variant(
        **adapted(
            jaxdrop.random_ltd,
            jaxdrop.nnx.RandomLTD,
            jaxdrop.linen.RandomLTD,
            lambda layer, x: _changed(functools.partial(layer, layer=lambda x: x + x), x),
        ),
        name="random_ltd",
        law=Law(shared(2)),
        shape=(8, 6, 16),
        large=(64, 16, 1024),
        exempt=_COMPUTED
        | {
            "test_rate_zero_is_no_operation": "the layer remains",
            "test_deterministic_is_no_operation": "the layer remains",
            "test_dropped_values_do_not_leak": "x itself remains",
        },
    ),
]


# -- recurrent layers, around cells that add nothing of their own: the modules' cells have the
# identity for one of their kernels

_LOOP = {
    "test_rate_zero_is_no_operation": "the loop over time remains; see test_recurrent_nnx.py",
    "test_deterministic_is_no_operation": "the loop over time remains; see test_recurrent_nnx.py",
    "test_forward_pass_needs_no_memory": "the loop over time puts its outputs into memory",
    "test_shard_map_with_spec_draws_the_whole_mask": (
        "features may not be divided; see test_recurrent_nnx.py"
    ),
    "test_vmap_over_sharded_keys_draws_the_same_masks": (
        "on explicit meshes JAX 0.12 loops so under jax.set_mesh alone"
    ),
}


def _eye(key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


def _cell(cell: Callable[..., Any], *features: int, sees: str, **options: Any) -> Any:
    """`y = x` if it sees the input, `y = h` if it sees the hidden state."""
    kernels = {"input": jax.nn.initializers.zeros, "hidden": jax.nn.initializers.zeros} | {
        sees: _eye
    }
    inits = {"kernel_init": kernels["input"], "recurrent_kernel_init": kernels["hidden"]}
    return cell(*features, activation_fn=lambda y: y, **inits, **options)


# A loop of eager calls would compile the loop over time in each.
_compiled = functools.partial(jax.jit, static_argnames=("deterministic", "spec"))


def pure_loop(cell: Callable[[Any, jax.Array, recurrent.Hooks], Any]) -> recurrent.Loop:
    """The loop of a cell without variables, whose output is its (hidden) state."""

    def step(carry: Any, x: jax.Array, hooks: recurrent.Hooks) -> tuple[Any, Any]:
        new = cell(carry, x, hooks)
        return new, new[1] if isinstance(new, tuple) else new

    def loop(
        body: recurrent.Body, carry: Any, xs: Any, policy: recurrent.Policy | None
    ) -> tuple[Any, Any]:
        return jax.lax.scan(functools.partial(body, step), carry, xs)

    return loop


@_compiled
def _rnn(
    key: jax.Array | None,
    x: jax.Array,
    rate: Any,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """`y_t = d(x_t)`."""
    layout = recurrent.spec_of_steps(spec, x.ndim, 1, 1)
    rates = recurrent.Rates(input_rate=rate).checked(recurrent.SIMPLE)
    plan = recurrent.Plan(recurrent.SIMPLE, rates, key, False, False, deterministic, layout)
    return recurrent.run(plan, pure_loop(lambda carry, x, hooks: x), 0 * x[:, 0], x, time_axis=1)[1]


@_compiled
def _rnn_recurrent(
    key: jax.Array | None,
    x: jax.Array,
    rate: Any,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """`y = d(x)`, where x is the state before the only step."""
    rates = recurrent.Rates(recurrent_rate=rate).checked(recurrent.SIMPLE)
    plan = recurrent.Plan(recurrent.SIMPLE, rates, key, True, True, deterministic, spec)

    def cell(carry: jax.Array, x: jax.Array, hooks: recurrent.Hooks) -> jax.Array:
        return carry if hooks.recurrent is None else hooks.recurrent(carry, 0)

    return recurrent.run(
        plan, pure_loop(cell), x, jnp.expand_dims(jnp.zeros_like(x), 1), time_axis=1
    )[0]


def _stacked_rnn(
    key: jax.Array | None,
    x: jax.Array,
    rate: Any,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Two layers `y_t = x_t`."""
    return recurrent.stack(
        [[lambda x, key, rates, carry: (carry, x)]] * 2,
        key,
        recurrent.Rates(),
        rate,
        x,
        initial_carry=None,
        time_axis=1,
        feature_axes=1,
        locked=False,
        deterministic=deterministic,
        spec=spec,
    )[1]


def _nnx_stack(rate: float, rngs: nnx.Rngs) -> nnx.Module:
    cell = functools.partial(_cell, nnx.SimpleCell, sees="input")
    return jaxdrop.nnx.StackedRNN(
        cell, 16, 16, num_layers=2, dropout=rate, rngs=nnx.Rngs(0, dropout=rngs.dropout.key[...])
    )


def _with_state(layer: Layer, x: jax.Array) -> jax.Array:
    return layer(jnp.expand_dims(jnp.zeros_like(x), 1), initial_carry=x)[:, 0]


RECURRENT = Variant(
    name="rnn_input",
    function=jaxdrop.nnx.recurrent.RNN,
    call=_rnn,
    law=Law(shared(1)),
    nnx=lambda rate, rngs: jaxdrop.nnx.recurrent.RNN(
        _cell(nnx.SimpleCell, 16, 16, sees="input", rngs=nnx.Rngs(0)), input_rate=rate, rngs=rngs
    ),
    linen=lambda rate, deterministic: jaxdrop.linen.recurrent.RNN(
        _cell(nn.SimpleCell, 16, sees="input"), input_rate=rate, deterministic=deterministic
    ),
    shape=(8, 3, 16),
    large=(64, 16, 1024),
    exempt=_LOOP,
)

VARIANTS += [
    RECURRENT,
    dataclasses.replace(
        RECURRENT,
        name="rnn_recurrent",
        call=_rnn_recurrent,
        law=Law(own),
        nnx=lambda rate, rngs: AdaptedNNX(
            jaxdrop.nnx.recurrent.RNN(
                _cell(nnx.SimpleCell, 16, 16, sees="hidden", rngs=nnx.Rngs(0)),
                recurrent_rate=rate,
                per_gate=True,
                per_step=True,
                rngs=rngs,
            ),
            _with_state,
        ),
        linen=lambda rate, deterministic: AdaptedLinen(
            jaxdrop.linen.recurrent.RNN(
                _cell(nn.SimpleCell, 16, sees="hidden"),
                recurrent_rate=rate,
                per_gate=True,
                per_step=True,
                deterministic=deterministic,
            ),
            _with_state,
        ),
        shape=(8, 16),
        large=(1024, 1024),
    ),
    dataclasses.replace(
        RECURRENT,
        name="stacked_rnn",
        function=jaxdrop.nnx.StackedRNN,
        call=_stacked_rnn,
        law=Law(own),
        nnx=_nnx_stack,
        linen=lambda rate, deterministic: jaxdrop.linen.StackedRNN(
            functools.partial(_cell, nn.SimpleCell, sees="input"),
            16,
            num_layers=2,
            dropout=rate,
            deterministic=deterministic,
        ),
        exempt={
            "test_shard_map_with_spec_draws_the_whole_mask": _LOOP[
                "test_shard_map_with_spec_draws_the_whole_mask"
            ],
            "test_a_layer_takes_a_known_array_for_a_number": (
                "its layers at rate 0 are Flax's, which take no key"
            ),
        },
    ),
]


# -- learned: the rate gets a gradient, and is a parameter of the module

_LEARNED = {
    "test_law": "nothing becomes exactly 0; see test_learned.py",
    "test_rate_gets_no_gradient": "it does: that is the point",
    "test_mask_does_not_depend_on_the_dtype": (
        "nothing becomes exactly 0, but for what the short floats round to it"
    ),
    "test_dropped_values_do_not_leak": (
        "nothing becomes exactly 0: a NaN is multiplied, not dropped"
    ),
    "test_rate_zero_is_no_operation": "a learned rate of 0 has no finite logit",
    "test_rate_one_gives_zeros": "a learned rate of 1 has no finite logit",
    "test_traced_rate_traces_once_and_draws_the_same_mask": (
        "rates of 0 and 1 have no finite logit; see test_learned.py"
    ),
}


def _logit(rate: Any) -> Any:
    return math.log(rate / (1 - rate)) if isinstance(rate, float) else jax.scipy.special.logit(rate)


def _concrete_dropout(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return learned.concrete_dropout(key, x, _logit(rate), **options)


def _variational_dropout(
    key: jax.Array | None, x: jax.Array, rate: Any, **options: Any
) -> jax.Array:
    return learned.variational_dropout(key, x, _logit(rate), **options)


CONCRETE_DROPOUT = Variant(
    name="concrete_dropout",
    function=learned.concrete_dropout,
    call=_concrete_dropout,
    law=Law(own),
    nnx=jaxdrop.nnx.ConcreteDropout,
    linen=jaxdrop.linen.ConcreteDropout,
    exempt=_LEARNED,
)

VARIANTS += [
    CONCRETE_DROPOUT,
    dataclasses.replace(
        CONCRETE_DROPOUT,
        name="concrete_dropout_spatial",
        call=functools.partial(_concrete_dropout, broadcast_dims=(0,), temperature=2 / 3),
        nnx=functools.partial(jaxdrop.nnx.ConcreteDropout, broadcast_dims=(0,), temperature=2 / 3),
        linen=functools.partial(
            jaxdrop.linen.ConcreteDropout, broadcast_dims=(0,), temperature=2 / 3
        ),
    ),
    Variant(
        name="variational_dropout",
        function=learned.variational_dropout,
        call=_variational_dropout,
        law=Law(own),
        nnx=functools.partial(jaxdrop.nnx.VariationalDropout, 16),
        linen=functools.partial(jaxdrop.linen.VariationalDropout, 16),
        exempt=_LEARNED,
    ),
]


# -- dense layers with normal weights: each entry of x is an example of its own, of one feature

_NORMAL = (_PRODUCT | _LEARNED) | {
    "test_vmap_over_keys_equals_a_loop": (
        "a product of matrices may round differently when it is batched"
    ),
    "test_derivatives_of_a_linear_map": (
        "the standard deviation is not a linear function of x; see the tests of each"
    ),
    "test_nothing_of_the_size_of_x_is_stored": (
        "the derivative of the standard deviation needs x; see test_weights.py"
    ),
    "test_dtype_is_kept": "a complex variance has no one definition",
    "test_mask_does_not_depend_on_the_dtype": "there is no mask",
}


def _each_entry(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def call(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
        return function(
            key, jnp.expand_dims(x, -1), jnp.ones((1, 1), x.dtype), rate, **options
        ).squeeze(-1)

    return call


def _variational_dense(
    key: jax.Array | None, x: jax.Array, w: jax.Array, rate: Any, **options: Any
) -> jax.Array:
    return learned.variational_dense(key, x, w, _logit(rate), **options)


def _sparse_variational_dense(
    key: jax.Array | None, x: jax.Array, w: jax.Array, rate: Any, **options: Any
) -> jax.Array:
    return learned.sparse_variational_dense(key, x, w, _logit(rate), **options)


NORMAL = dataclasses.replace(
    DROP_CONNECT,
    name="drop_connect_gaussian",
    function=weights.drop_connect_gaussian,
    call=_each_entry(weights.drop_connect_gaussian),
    exempt={
        name: why
        for name, why in _NORMAL.items()
        if name not in ("test_rate_gets_no_gradient", "test_rate_one_gives_zeros")
    }
    | {"test_rate_one_gives_zeros": "x is not dropped but multiplied by weights of 0"},
)

VARIANTS += [
    NORMAL,
    dataclasses.replace(
        NORMAL,
        name="variational_dense",
        function=learned.variational_dense,
        call=_each_entry(_variational_dense),
        nnx=jaxdrop.nnx.VariationalDense,
        linen=jaxdrop.linen.VariationalDense,
        exempt=_NORMAL,
    ),
    dataclasses.replace(
        NORMAL,
        name="sparse_variational_dense",
        function=learned.sparse_variational_dense,
        call=_each_entry(_sparse_variational_dense),
        nnx=jaxdrop.nnx.SparseVariationalDense,
        linen=jaxdrop.linen.SparseVariationalDense,
        exempt=_NORMAL,
    ),
]


# -- attention and the residual sum. The adapter of keys puts 0 for minus infinity; that of the sums
# adds 0

_HEADS: dict[str, Any] = {"shape": (8, 3, 4, 8), "large": (64, 16, 16, 64)}
_KEYS = {
    "test_rate_zero_is_no_operation": "the adapter converts",
    "test_deterministic_is_no_operation": "the adapter converts",
    "test_rate_one_gives_zeros": "one key must stay; see test_heads.py",
    "test_traced_rate_traces_once_and_draws_the_same_mask": (
        "at rate 1 one key must stay; see test_heads.py"
    ),
    "test_dtype_is_kept": (
        "complex logits have no order, and not all short floats an infinity; see test_heads.py"
    ),
    "test_mask_does_not_depend_on_the_dtype": (
        "complex logits have no order, and not all short floats an infinity"
    ),
    "test_jit_draws_the_same_mask_under_every_layout": (
        "one key of a query must stay, on whatever device; see test_heads.py"
    ),
    "test_shard_map_with_spec_draws_the_whole_mask": (
        "one key of a query must stay, on whatever device; see test_heads.py"
    ),
    "test_nothing_of_the_size_of_x_is_stored": (
        "which key stays depends on which logits are minus infinity already"
    ),
    "test_forward_pass_needs_no_memory": (
        "the lowest bits of a row are known when all have been drawn"
    ),
}
_SUM = {
    "test_rate_zero_is_no_operation": "the sum remains",
    "test_deterministic_is_no_operation": "the sum remains",
}


def _zero_for_minus_infinity(layer: Layer, x: jax.Array) -> jax.Array:
    logits = layer(x)
    return jnp.where(jnp.isneginf(logits), jnp.zeros((), x.dtype), logits)


def _bias_dropout_add(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return jaxdrop.bias_dropout_add(key, x, None, jnp.zeros_like(x), rate, **options)


def _dropout_add(key: jax.Array | None, x: jax.Array, rate: Any, **options: Any) -> jax.Array:
    return jaxdrop.dropout_add_layer_norm(
        key, x, jnp.zeros_like(x), None, None, rate, prenorm=True, **options
    )[1]


DROP_HEAD = Variant(
    name="drop_head",
    function=jaxdrop.drop_head,
    call=jaxdrop.drop_head,
    law=Law(shared(1, 3)),
    nnx=jaxdrop.nnx.DropHead,
    linen=jaxdrop.linen.DropHead,
    **_HEADS,
)

VARIANTS += [
    Variant(
        name="attention_dropout",
        function=jaxdrop.attention_dropout,
        call=jaxdrop.attention_dropout,
        law=Law(own),
        nnx=jaxdrop.nnx.AttentionDropout,
        linen=jaxdrop.linen.AttentionDropout,
    ),
    Variant(
        **adapted(
            jaxdrop.drop_key, jaxdrop.nnx.DropKey, jaxdrop.linen.DropKey, _zero_for_minus_infinity
        ),
        name="drop_key",
        law=Law(own),
        exempt=_KEYS,
    ),
    DROP_HEAD,
    dataclasses.replace(
        DROP_HEAD,
        name="drop_head_by_rate",
        call=functools.partial(jaxdrop.drop_head, normalize="expected"),
        nnx=functools.partial(jaxdrop.nnx.DropHead, normalize="expected"),
        linen=functools.partial(jaxdrop.linen.DropHead, normalize="expected"),
    ),
    dataclasses.replace(
        DROP_HEAD,
        name="drop_head_fixed",
        call=functools.partial(jaxdrop.drop_head, normalize="fixed"),
        nnx=functools.partial(jaxdrop.nnx.DropHead, normalize="fixed"),
        linen=functools.partial(jaxdrop.linen.DropHead, normalize="fixed"),
        exempt={
            "test_law": (
                "a fixed number of heads is dropped: they depend on each other; see test_heads.py"
            )
        },
    ),
    Variant(
        name="bias_dropout_add",
        function=jaxdrop.bias_dropout_add,
        call=_bias_dropout_add,
        law=Law(own),
        nnx=jaxdrop.nnx.BiasDropoutAdd,
        linen=jaxdrop.linen.BiasDropoutAdd,
        exempt=_SUM
        | {
            "test_nnx_module_makes_the_same_call": "it takes two arrays; see test_residuals.py",
            "test_linen_module_makes_the_same_call": "it takes two arrays; see test_residuals.py",
        },
    ),
    Variant(
        name="dropout_add_layer_norm",
        function=jaxdrop.dropout_add_layer_norm,
        call=_dropout_add,
        law=Law(own),
        nnx=jaxdrop.nnx.DropoutAddLayerNorm,
        linen=jaxdrop.linen.DropoutAddLayerNorm,
        exempt=_SUM
        | {
            "test_nnx_module_makes_the_same_call": "it takes two arrays; see test_residuals.py",
            "test_linen_module_makes_the_same_call": "it takes two arrays; see test_residuals.py",
            "test_dtype_is_kept": "complex numbers are not normalized; see test_residuals.py",
            "test_mask_does_not_depend_on_the_dtype": "complex numbers are not normalized",
            "test_shard_map_with_spec_draws_the_whole_mask": (
                "the features may not be divided; see test_residuals.py"
            ),
        },
    ),
]


def each_variant(test: Test) -> Test:
    """Runs a property over all rows but those that exempt themselves from it."""
    rows = [variant for variant in VARIANTS if test.__name__ not in variant.exempt]
    return pytest.mark.parametrize("variant", rows, ids=lambda variant: variant.name)(test)


def groups_of_variants(test: Test) -> Test:
    """The same with some ten rows at a time, `variants`, for a property that is compiled: one
    program costs less than ten.
    """
    rows = [variant for variant in VARIANTS if test.__name__ not in variant.exempt]
    groups = [rows[start : start + 10] for start in range(0, len(rows), 10)]
    return pytest.mark.parametrize(
        "variants", groups, ids=lambda group: f"{group[0].name}..{group[-1].name}"
    )(test)


def named(variant: Variant, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`. An error says of which row it is."""
    try:
        return function(*args)
    except Exception as error:
        error.add_note(f"variant: {variant.name}")
        raise
