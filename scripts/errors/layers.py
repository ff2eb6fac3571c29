"""Right calls of the layers of both frameworks: of a constructor, followed by a use of the layer,
and of a layer.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from errors import calls, kinds
from errors.calls import (
    EMBEDDED,
    HEADS,
    IDS,
    KEY,
    LABELS,
    MAP,
    NAMES,
    RECEIVERS,
    SENDERS,
    SEQUENCE,
    Call,
    X,
)
from errors.kinds import Kind, array, axis, choice, integer, integers, number, pair


@dataclasses.dataclass(frozen=True)
class Layer:
    """The arguments of one layer: those of its constructor and of its call, and what they are if
    `NAMES` does not say so.
    """

    made: dict[str, Any]
    called: dict[str, Any]
    special: dict[str, Kind] = dataclasses.field(default_factory=dict)
    nnx: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What only the NNX constructor takes."""
    linen: dict[str, Any] = dataclasses.field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    """Arguments that are not spoiled, for they are Flax's."""
    in_call: Kind = kinds.RATE
    """What the rate of a call may be."""


def _is_module(value: Any, valid: Any) -> bool:
    return isinstance(value, (nnx.Module, nn.Module)) or value is _Double


class _Double(nn.Module):
    def __call__(self, x: Any) -> Any:
        return 2 * x


class _Model(nn.Module):
    """A Linen layer that takes another one has to stand in a model."""

    make: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, **arguments: Any) -> Any:
        if arguments["layer"] is _Double:
            arguments["layer"] = _Double()
        return self.make()(**arguments)


_OPEN = ("WeightDrop", "QuantNoise", "MultiHeadAttention")
"""Layers whose calls hand other arguments on."""
_START = kinds.known(number(0, 1, least=False, most=False))
_NUMBER = kinds.ONE_RATE
_SHARED = {
    "rng_collection": kinds.TEXT,
    "rngs": kinds.SOURCE,
    "rng": kinds.KEY.or_none(),
    "init_key": kinds.KEY.or_none(),
    "use_bias": kinds.FLAG,
    "use_scale": kinds.FLAG,
    "gaussian": kinds.FLAG,
    "param_dtype": Kind(
        lambda value, valid: value is None or (isinstance(value, type) and value == jnp.float32)
    ),
    "kernel_init": kinds.CALLABLE,
    "bias_init": kinds.CALLABLE,
    "scale_init": kinds.CALLABLE,
    "in_features": integer(8, 8),
    "out_features": integer(1),
    "features": integer(1),
    "num_features": integer(8, 8),
    "inputs": array("fc"),
    "residual": array("fc", shape="same"),
    "row_scale": array("f", shape="broadcast").or_none(),
}
_IMAGE = array("fc", shape="same")
_ELEMENTS = Layer({"rate": 0.3, "broadcast_dims": (0,)}, {"inputs": X})
_CHANNELS = Layer({"rate": 0.3, "spatial_rank": 2}, {"inputs": MAP})
_DENSE = Layer(
    {},
    {"inputs": X},
    {"inputs": array("fc", shape="last")},
    {"in_features": 8, "out_features": 3},
    {"features": 3},
)
_GRAPH = {"senders": SENDERS, "receivers": RECEIVERS}
_WRAPPED = {
    "match": Kind(
        lambda value, valid: (
            callable(value) or (isinstance(value, str) and value in ("", "kernel", r"(^|/)kernel$"))
        )
    ),
    "drop": kinds.CALLABLE,
}
_RATES = (
    "input_rate",
    "recurrent_rate",
    "candidate_rate",
    "output_rate",
    "weight_rate",
    "hidden_zoneout",
)
_CELLS = {
    **dict.fromkeys(("per_gate", "per_step", "locked", "bidirectional"), kinds.FLAG),
    **dict.fromkeys(("time_major", "return_carry", "reverse", "keep_order"), kinds.FLAG.or_none()),
    **dict.fromkeys(
        ("input_rate", "recurrent_rate", "candidate_rate", "output_rate", "weight_rate", "dropout"),
        _NUMBER,
    ),
    **dict.fromkeys(("cell_zoneout", "hidden_zoneout"), _NUMBER),
    "unroll": Kind(
        lambda value, valid: isinstance(value, bool) or integer(1).fits(value, valid)
    ),  # as in `jax.lax.scan`
    "num_layers": integer(1),
    "hidden_features": integer(1),
    "features": integer(1),
    "in_features": integer(4, 4),
    "inputs": array("f", shape="same"),
    "initial_carry": Kind(lambda value, valid: value is None),
    "seq_lengths": array("i", shape="same").or_none(),
    "rates": (
        Kind(
            lambda v, valid: (
                isinstance(v, Mapping)
                and all(k in _RATES and _NUMBER.fits(x, 0) for k, x in v.items())
            )
        ).or_none()
    ),
}
_OF_FLAX = {
    *inspect.signature(jaxdrop.linen.MultiHeadAttention).parameters,
    *inspect.signature(jaxdrop.linen.MultiHeadAttention.__call__).parameters,
    *("in_features", "decode", "inputs_q"),
} - {"dropout_rate", "broadcast_dropout", "spec", "deterministic", "rate"}
_LIFTED = ("variable_axes", "variable_broadcast", "variable_carry", "split_rngs")


def _of_rank(rank: int) -> Kind:
    def fits(value: Any, valid: Any) -> bool:
        return array("fc").fits(value, valid) and jnp.ndim(value) in (rank + 1, rank + 2)

    return Kind(fits, traced=True)


LAYERS: dict[str, Layer] = {
    **dict.fromkeys(
        ("Dropout", "ClassicDropout", "AlphaDropout", "GaussianDropout", "AttentionDropout"),
        _ELEMENTS,
    ),
    "GaussianNoise": Layer(
        {"stddev": 0.3, "broadcast_dims": (0,)}, {"inputs": X}, {"stddev": NAMES["stddev"]}
    ),
    "UniformDropout": Layer(
        {"beta": 0.3, "broadcast_dims": (0,)}, {"inputs": X}, {"beta": NAMES["stddev"]}
    ),
    "NEFTune": Layer(
        {"alpha": 5.0},
        {"inputs": X, "mask": jnp.ones(4, bool)},
        {
            "alpha": NAMES["stddev"],
            "mask": array("bi", shape="same", low=0, high=1).or_none(),
            "inputs": Kind(calls._are_embeddings, traced=True),
        },
    ),
    **dict.fromkeys(("FeatureAlphaDropout", "SpatialDropout"), _CHANNELS),
    "DropBlock": dataclasses.replace(
        _CHANNELS,
        made=_CHANNELS.made | {"block_size": (2, 2)},
        special={
            "block_size": Kind(calls._is_block_size),
            "rule": choice("paper", "torchvision", "timm"),
            "normalize": choice("example", "batch", "expected"),
        },
    ),
    **{
        f"Dropout{rank}d": Layer(
            {"rate": 0.3}, {"inputs": jnp.ones((2, *(3,) * rank, 4))}, {"inputs": _of_rank(rank)}
        )
        for rank in (1, 2, 3)
    },
    "DropPath": Layer({"rate": 0.3}, {"inputs": X}),
    "DropPathAdd": Layer(
        {"rate": 0.5},
        {"inputs": X, "branch": jnp.tanh},
        {
            "rate": calls.STATIC,
            "branch": kinds.CALLABLE,
            "groups": integer(1, 2),
            "masked_below": calls.STATIC,
        },
        in_call=calls.STATIC,
    ),
    "DropoutMLP": Layer(
        {"rate": 0.5},
        {"inputs": X},
        {
            "inputs": array("fc", shape="last"),
            "rate": calls.STATIC,
            "activation": kinds.CALLABLE,
            "gated": kinds.FLAG,
            "pattern": choice("unit", "slice"),
            "block_size": integer(1),
            "groups": Kind(lambda v, valid: integer(1).fits(v, 0) and int(v) in (1, 2)),
            "num_masks": Kind(lambda v, valid: integer(1).fits(v, 0) and int(v) in (1, 2, 4)),
            "hidden_features": integer(4, 4),
        },
        {"in_features": 8, "hidden_features": 4, "out_features": 3},
        {"hidden_features": 4, "out_features": 3},
        in_call=calls.STATIC,
    ),
    "RandomLTD": Layer(
        {"rate": 0.5},
        {"inputs": SEQUENCE, "layer": jnp.tanh},
        {
            "rate": calls.STATIC,
            "layer": kinds.CALLABLE,
            "positions": Kind(calls.is_none),
            "mask": Kind(calls.is_none),
            "num_prefix_tokens": integer(0, 3),
            "groups": integer(1, 1),
        },
        in_call=calls.STATIC,
    ),
    "LayerDrop": Layer(
        {"rate": 0.3},
        {"inputs": X},
        {"inputs": kinds.ANYTHING, "layer": Kind(_is_module)},
        in_call=kinds.ONE_RATE,
    ),
    "ShakeDrop": Layer(
        {"rate": 0.3},
        {"inputs": X},
        {
            "alpha": pair(),
            "beta": pair(),
            "channel_axis": integer(),
            "per": choice("batch", "image", "channel", "pixel"),
        },
        in_call=kinds.ONE_RATE,
    ),
    "DropConnect": dataclasses.replace(
        _DENSE, made={"rate": 0.3}, special=_DENSE.special | {"per": choice("batch", "example")}
    ),
    "WeightDrop": Layer(
        {"rate": 0.3, "match": "kernel"},
        {},
        _WRAPPED | {"module": kinds.instance(nnx.Module, nn.Module)},
    ),
    "QuantNoise": Layer(
        {"rate": 0.3, "block_size": 4},
        {},
        _WRAPPED
        | {
            "module": kinds.instance(nnx.Module, nn.Module),
            "block_size": Kind(
                lambda value, valid: integer(1).fits(value, 0) and 8 % int(value) == 0
            ),
            "axis": axis(2),
        },
    ),
    "ConcreteDropout": Layer(
        {"rate": 0.1, "broadcast_dims": (0,)}, {"inputs": X}, {"rate": _START}
    ),
    "VariationalDropout": Layer(
        {"features": 8, "rate": 0.1},
        {"inputs": X},
        {
            "rate": _START,
            "per": choice("feature", "layer"),
            "inputs": array("fc", shape="last"),
            "features": integer(8, 8),
        },
    ),
    "VariationalDense": dataclasses.replace(
        _DENSE,
        made={"rate": 0.1},
        special=_DENSE.special | {"rate": _START, "per": choice("weight", "feature", "layer")},
    ),
    "SparseVariationalDense": dataclasses.replace(
        _DENSE, special=_DENSE.special | {"log_sigma2": kinds.known(number())}
    ),
    "DropEdge": Layer({"rate": 0.3}, _GRAPH),
    "DropNode": Layer({"rate": 0.3}, _GRAPH | {"num_nodes": 3}, in_call=kinds.ONE_RATE),
    "LockedDropout": Layer({"rate": 0.3, "time_axis": 0}, {"inputs": X}),
    "Zoneout": Layer({"rate": 0.3}, {"new": X, "previous": X}, {"new": _IMAGE}),
    "WordDropout": Layer(
        {"rate": 0.3, "replacement": 0, "protected": (1,)}, {"ids": IDS}, {"ids": array("i")}
    ),
    "EmbeddingDropout": Layer(
        {"rate": 0.3},
        {"embedded": EMBEDDED, "ids": IDS},
        {"time_axis": axis(2).or_none(), "ids": Kind(calls._begins)},
    ),
    "TokenDropout": Layer(
        {"rate": 0.3, "num_prefix_tokens": 1},
        {"inputs": SEQUENCE},
        {
            "inputs": array("fcib"),
            "rate": kinds.known(number(0, 1, most=False)),
            "rule": choice("timm", "floor", "round"),
        },
        in_call=kinds.known(number(0, 1, most=False)),
    ),
    "LabelDropout": Layer(
        {"rate": 0.3, "null_id": 3},
        {"labels": LABELS},
        {"labels": array("i"), "force_drop": array("b", shape="broadcast").or_none()},
    ),
    "ModalityDropout": Layer(
        {"rate": 0.3, "rule": "one", "weights": (0.5, 0.5)},
        {"arrays": (X, X + 1)},
        {
            "arrays": Kind(calls._is_arrays, traced=True),
            "rule": choice("one"),
            "weights": Kind(calls._is_weights).or_none(),
            "per": choice("example", "batch"),
        },
        in_call=kinds.ONE_RATE,
    ),
    "BiasDropoutAdd": Layer(
        {"rate": 0.3}, {"inputs": X, "residual": X}, {"inputs": _IMAGE}, {"num_features": 8}
    ),
    "DropoutAddLayerNorm": Layer(
        {"rate": 0.3},
        {"inputs": X, "residual": X, "row_scale": jnp.ones(4)},
        {"inputs": array("f", shape="same"), "residual": array("f", shape="same").or_none()},
        {"num_features": 8},
    ),
    "DropKey": Layer(
        {"rate": 0.3, "broadcast_dims": (0,)},
        {"inputs": X},
        {"broadcast_dims": Kind(lambda v, valid: integers(-2, 0).fits(v, 0) and -1 not in v)},
        in_call=kinds.ONE_RATE,
    ),
    "DropHead": Layer(
        {"rate": 0.3},
        {"inputs": HEADS},
        {
            "inputs": Kind(calls._have_heads, traced=True),
            "head_axis": integer(-3, -2),
            "normalize": choice("example", "expected", "fixed"),
        },
        in_call=kinds.ONE_RATE,
    ),
    "RNN": Layer(
        {"input_rate": 0.3},
        {"inputs": SEQUENCE, "seq_lengths": jnp.full(2, 4), "rates": {"recurrent_rate": 0.2}},
        _CELLS,
        settled=frozenset({"cell", "state_axes", "broadcast_rngs", *_LIFTED}),
    ),
    "StackedRNN": Layer(
        {"input_rate": 0.3, "num_layers": 2},
        {"inputs": SEQUENCE, "seq_lengths": jnp.full(2, 4), "rates": {"recurrent_rate": 0.2}},
        _CELLS,
        {"in_features": 4, "hidden_features": 3},
        {"features": 3},
        settled=frozenset({"cell"}),
    ),
    "MultiHeadAttention": Layer(
        {
            "num_heads": 2,
            "dropout_rate": 0.3,
            "broadcast_dropout": False,
            "spec": None,
            "deterministic": False,
        },
        {"inputs_q": SEQUENCE, "rate": 0.3},
        {"dropout_rate": _NUMBER, "broadcast_dropout": kinds.FLAG},
        {"in_features": 4, "decode": False},
        settled=frozenset(_OF_FLAX),
        in_call=kinds.ONE_RATE,
    ),
}


def _nnx(name: str, layer: Layer) -> list[Call]:
    cls = getattr(jaxdrop.nnx, name)
    own: dict[str, Any] = {
        "RNN": {"cell": nnx.SimpleCell(4, 3, rngs=nnx.Rngs(0))},
        "StackedRNN": {"cell": nnx.SimpleCell},
        "WeightDrop": {"module": nnx.Linear(8, 3, rngs=nnx.Rngs(0))},
        "QuantNoise": {"module": nnx.Linear(8, 3, rngs=nnx.Rngs(0))},
    }.get(name, {})
    made = _filled(cls.__init__, {**layer.made, **layer.nnx, **own})
    called = (
        {**layer.called, "layer": nnx.Linear(8, 8, rngs=nnx.Rngs(0))}
        if name == "LayerDrop"
        else layer.called
    )
    called = _filled(cls.__call__, called)

    def use(module: Any, /, **arguments: Any) -> Any:
        inputs = (X,) if name in ("WeightDrop", "QuantNoise") else ()
        return module(*inputs, **arguments)

    def make(**arguments: Any) -> Any:
        return use(cls(**arguments), **called)

    def invoke(**arguments: Any) -> Any:
        return use(cls(**made, rngs=nnx.Rngs(0)), **arguments)

    fresh = {"rngs": functools.partial(nnx.Rngs, 0)}
    made.pop("rngs", None)
    called.pop("rngs", None)
    return [
        Call(
            f"nnx.{name}", make, made, _kinds(layer, {**made, "rngs": 0}, constructor=True), fresh
        ),
        Call(
            f"nnx.{name}.__call__",
            invoke,
            called,
            _kinds(layer, {**called, "rngs": 0}, constructor=False),
            fresh,
            name in _OPEN,
        ),
    ]


def _linen(name: str, layer: Layer) -> list[Call]:
    cls = getattr(jaxdrop.linen, name)
    own: dict[str, Any] = {
        "RNN": {"cell": nn.SimpleCell(3)},
        "StackedRNN": {"cell": nn.SimpleCell},
        "WeightDrop": {"module": nn.Dense(3)},
        "QuantNoise": {"module": nn.Dense(3)},
    }.get(name, {})
    made = _filled(cls, {**layer.made, **layer.linen, **own}) | {"deterministic": False}
    called = {**layer.called, "layer": _Double} if name == "LayerDrop" else layer.called
    called = _filled(cls.__call__, called)
    if name == "MultiHeadAttention" and "rate" not in inspect.signature(cls.__call__).parameters:
        del called["rate"]
    for argument in ("name", "parent"):
        made.pop(argument, None)
    inputs = (X,) if name in ("WeightDrop", "QuantNoise") else ()
    rngs = {"params": jax.random.key(0), "dropout": KEY}

    def build(arguments: Mapping[str, Any]) -> nn.Module:
        return _Model(lambda: cls(**arguments)) if name == "LayerDrop" else cls(**arguments)

    def make(**arguments: Any) -> Any:
        # Twice, for some layers do in `init` nothing of what they do later.
        variables = build(arguments).init(rngs, *inputs, **called)
        return build(arguments).apply(variables, *inputs, rngs=rngs, **called)

    @functools.cache
    def variables() -> Any:
        # What is cached must not be traced, if the first call is.
        with jax.ensure_compile_time_eval():
            return build(made).init(rngs, *inputs, **called)

    def invoke(**arguments: Any) -> Any:
        return build({**made, "deterministic": None}).apply(
            variables(), *inputs, rngs=rngs, **arguments
        )

    return [
        Call(f"linen.{name}", make, made, _kinds(layer, made, constructor=True)),
        Call(
            f"linen.{name}.__call__",
            invoke,
            called | {"deterministic": False},
            _kinds(layer, called, constructor=False),
            open=name in _OPEN,
        ),
    ]


def _filled(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, and the defaults for the rest."""
    empty = inspect.Parameter.empty
    found = {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.default is not empty
    }
    return {**found, **given}


_AMOUNTS = {name: NAMES["stddev"].or_none() for name in ("stddev", "beta", "alpha")}


def _kinds(layer: Layer, arguments: Mapping[str, Any], *, constructor: bool) -> dict[str, Kind]:
    known = {
        **NAMES,
        **_SHARED,
        "deterministic": kinds.FLAG.or_none(),
        "rate": layer.in_call,
        **layer.special,
    }
    if not constructor:
        known |= {"rate": layer.in_call.or_none(), **_AMOUNTS}
    elif {"rngs"} <= set(arguments):
        source = Kind(lambda value, valid: isinstance(value, (nnx.Rngs, nnx.RngStream)))
        known["rngs"] = (
            source if {"in_features", "num_features"} & set(arguments) else source.or_none()
        )
    skipped = layer.settled | {"name", "parent"}
    if others := {name for name in arguments if name not in known and name not in skipped}:
        raise ValueError(f"what may {others} be?")
    return {name: known[name] for name in arguments if name not in skipped}


def both() -> list[Call]:
    """The calls of all layers."""
    return [
        call
        for name, layer in LAYERS.items()
        for make in (_nnx, _linen)
        for call in make(name, layer)
    ]
