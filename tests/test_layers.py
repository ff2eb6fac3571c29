"""What a layer's function receives is what the layer, or its call, was given: for every layer of
both frameworks, and every field.

`scripts/check_layers.py` breaks the plumbing of each layer, one field at a time, and counts how
many of these mutants the properties notice.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from tests.catalogue import KEY

# Layers that are Flax's, with dropout inside. They have tests of their own.
OTHERS = {"RNN", "StackedRNN", "MultiHeadAttention", "MultiHeadDotProductAttention"}
PACKAGES = {"nnx": jaxdrop.nnx, "linen": jaxdrop.linen}
SHARED = ("deterministic", "rng_collection", "rngs", "spec", "parent", "name")
SIZES = {
    "in_features": 6,
    "hidden_features": 8,
    "out_features": 3,
    "features": 3,
    "num_features": 6,
}
LAYOUT, OTHER_LAYOUT = PartitionSpec("data"), PartitionSpec(None, "model")
PART = jaxdrop.Part(2, 9, axis=0)
X, IDS = jnp.linspace(1, 2, 24).reshape(4, 6), jnp.arange(24).reshape(4, 6) % 5
FOUR = jnp.ones((2, 3, 5, 6))
ENDS = jnp.asarray([0, 1, 2, 2])
HALF = jnp.bfloat16


def filled(value: float) -> Callable[..., jax.Array]:
    """An initializer."""
    return functools.partial(_filled, value)


def _filled(value: float, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.full(shape, value, dtype)


def masked(x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
    return x


class Case(NamedTuple):
    """A layer with values that are not the defaults, and what its function is to receive."""

    made: dict[str, Any]
    inputs: tuple[Any, ...] = (X,)
    further: dict[str, Any] = {}  # noqa: RUF012
    """Keyword arguments of the call."""
    parameters: dict[str, Any] = {}  # noqa: RUF012
    operands: Callable[[dict[str, Any]], tuple[Any, ...]] | None = None
    """Of the parameters, where the operands are not the inputs."""
    amount: str | float = "rate"
    """The field that is the amount; or the amount itself, where it is learned."""
    options: dict[str, Any] | None = None
    """Where the options are not the other fields."""


def both(rate: float = 0.3, **options: Any) -> list[Case]:
    return [Case({"rate": rate, **options})]


def spatial(rank: int) -> list[Case]:
    x = jnp.ones((4, 6, 5, 3, 2)[: rank + 2])
    return [
        Case(
            {"rate": 0.3, "channel_axis": -rank - 1},
            (x,),
            options={"channel_axis": -rank - 1, "spatial_rank": rank},
        )
    ]


def dense(
    made: dict[str, Any], options: Any = None, amount: Any = "rate", **learned: Any
) -> list[Case]:
    def operands(parameters: dict[str, Any]) -> tuple[Any, ...]:
        return X, parameters["kernel"].astype(X.dtype)

    kernel = {"kernel": jnp.full((6, 3), 2, HALF)}
    inits = {"param_dtype": HALF, "kernel_init": filled(2)}
    bias = {"bias": jnp.full(3, 5, HALF)}
    return [
        Case(
            made | inits | {"use_bias": False},
            (X,),
            {},
            kernel | learned,
            operands,
            amount,
            options,
        ),
        Case(
            made | inits | {"bias_init": filled(5)},
            (X,),
            {},
            kernel | bias | learned,
            operands,
            amount,
            options,
        ),
    ]


ELEMENTS = both(broadcast_dims=(1,))
LOGIT = math.log(0.3 / 0.7)
CONNECT = {"per": "example", "scale_by_keep": False, "gaussian": True}
NORM = {"epsilon": 0.1, "prenorm": True}
CASES: dict[str, list[Case]] = {
    **dict.fromkeys(("Dropout", "ClassicDropout", "AlphaDropout", "AttentionDropout"), ELEMENTS),
    "DropKey": both(broadcast_dims=(0,)),
    "GaussianDropout": ELEMENTS,
    "FeatureAlphaDropout": both(channel_axis=-2, spatial_rank=1),
    "SpatialDropout": both(channel_axis=-2, spatial_rank=1),
    "Dropout1d": spatial(1),
    "Dropout2d": spatial(2),
    "Dropout3d": spatial(3),
    "DropBlock": [
        Case(
            {
                "rate": 0.3,
                "block_size": (3, 5),
                "rule": "timm",
                "normalize": "batch",
                "channel_axis": -3,
                "spatial_rank": 2,
            },
            (FOUR,),
        )
    ],
    "DropPath": both(mode="batch", batch_axis=1, scale_by_keep=False),
    "ShakeDrop": both(
        alpha=(0.0, 1.0), beta=(0.5, 2.0), per="channel", batch_axis=1, channel_axis=0
    ),
    "DropHead": [Case({"rate": 0.3, "normalize": "fixed", "head_axis": -3}, (FOUR,))],
    "LockedDropout": both(time_axis=1),
    "EmbeddingDropout": [Case({"rate": 0.3, "time_axis": 1}, (X,), {"ids": IDS})],
    "WordDropout": [Case({"rate": 0.3, "replacement": 7, "protected": (1, 2)}, (IDS,))],
    "Zoneout": [Case({"rate": 0.3}, (X,), {"previous": X + 1})],
    "TokenDropout": both(num_prefix_tokens=1, rule="floor", ordered=True),
    "LabelDropout": [Case({"rate": 0.3, "null_id": 9}, (IDS,))],
    "ModalityDropout": [
        Case({"rate": 0.3, "rule": "one", "weights": (0.25, 0.75), "per": "batch"}, ((X, X),))
    ],
    "DropEdge": [Case({"rate": 0.3, "undirected": True}, (ENDS, ENDS))],
    "DropNode": [Case({"rate": 0.3}, (ENDS, ENDS, 5))],
    "GaussianNoise": [Case({"stddev": 0.3, "broadcast_dims": (1,)}, amount="stddev")],
    "UniformDropout": [Case({"beta": 0.3, "broadcast_dims": (1,)}, amount="beta")],
    "NEFTune": [Case({"alpha": 0.3}, (X,), {"mask": X[..., 0] > 1}, amount="alpha")],
    "ConcreteDropout": [
        Case(
            {"rate": 0.3, "temperature": 0.5, "broadcast_dims": (1,)},
            parameters={"logit": jnp.float32(LOGIT)},
            amount=LOGIT,
            options={"temperature": 0.5, "broadcast_dims": (1,)},
        )
    ],
    "VariationalDropout": [
        Case(
            {"features": 6, "rate": 0.3, "per": "layer"},
            (X,),
            {},
            {"log_alpha": jnp.float32(LOGIT)},
            None,
            LOGIT,
            {},
        )
    ],
    "VariationalDense": dense(
        {"rate": 0.3, "per": "layer"}, {}, LOGIT, log_alpha=jnp.asarray(LOGIT, HALF)
    ),
    "SparseVariationalDense": dense(
        {"log_sigma2": -3.0, "threshold": 2.0},
        {"threshold": 2.0},
        -3.0,
        log_sigma2=jnp.full((6, 3), -3, HALF),
    ),
    "DropConnect": dense({"rate": 0.3, **CONNECT}, CONNECT),
    "BiasDropoutAdd": [
        Case(
            {"rate": 0.3, "use_bias": False},
            (X, X + 1),
            {},
            {},
            lambda _: (X, None, X + 1),
            options={},
        ),
        Case(
            {"rate": 0.3, "bias_init": filled(5), "param_dtype": HALF},
            (X, X + 1),
            {},
            {"bias": jnp.full(6, 5, HALF)},
            lambda made: (X, made["bias"], X + 1),
            options={},
        ),
    ],
    "DropoutAddLayerNorm": [
        Case(
            {"rate": 0.3, **NORM, "use_scale": False, "use_bias": False},
            (X, X + 1),
            {"row_scale": X[..., 0]},
            {},
            lambda _: (X, X + 1, None, None),
            options=NORM,
        ),
        Case(
            {
                "rate": 0.3,
                **NORM,
                "scale_init": filled(2),
                "bias_init": filled(5),
                "param_dtype": HALF,
            },
            (X, X + 1),
            {"row_scale": X[..., 0]},
            {"scale": jnp.full(6, 2, HALF), "bias": jnp.full(6, 5, HALF)},
            lambda made: (X, X + 1, made["scale"], made["bias"]),
            options=NORM,
        ),
    ],
}
MLP = {
    "activation": jax.nn.gelu,
    "pattern": "block",
    "block_size": 2,
    "groups": 2,
    "num_masks": 4,
}
CASES["DropoutMLP"] = [
    Case(
        {"rate": 0.3, **MLP, "use_bias": False, "kernel_init": filled(2), "param_dtype": HALF},
        (X,),
        {},
        {"kernel_in": jnp.full((6, 8), 2, HALF), "kernel_out": jnp.full((8, 3), 2, HALF)},
        lambda _: (X, jnp.full((6, 8), 2.0), jnp.full((8, 3), 2.0)),
        options=MLP | dict.fromkeys(("b_in", "b_out", "w_gate", "b_gate")),
    ),
    Case(
        {"rate": 0.3, **MLP, "gated": True, "kernel_init": filled(2), "bias_init": filled(5)},
        (X,),
        {},
        {
            "kernel_in": jnp.full((6, 8), 2.0),
            "kernel_gate": jnp.full((6, 8), 2.0),
            "kernel_out": jnp.full((8, 3), 2.0),
            "bias_in": jnp.full(8, 5.0),
            "bias_gate": jnp.full(8, 5.0),
            "bias_out": jnp.full(3, 5.0),
        },
        lambda _: (X, jnp.full((6, 8), 2.0), jnp.full((8, 3), 2.0)),
        options=MLP
        | {
            "b_in": jnp.full(8, 5.0),
            "b_out": jnp.full(3, 5.0),
            "w_gate": jnp.full((6, 8), 2.0),
            "b_gate": jnp.full(8, 5.0),
        },
    ),
]
BATCH = {"batch_axis": 1, "groups": 2, "masked_below": 0.2}
CASES["DropPathAdd"] = [
    Case(
        {"rate": 0.3, **BATCH},
        (X, jnp.add, X + 1),
        operands=lambda _: (X,),
        options={**BATCH, "branch": jnp.add, "args": (X + 1,)},
    )
]
CASES["RandomLTD"] = [
    Case(
        {"rate": 0.3, **option},
        (X,),
        {"layer": masked, "positions": IDS[:, 0], "mask": IDS[:, :4] > 2},
        options={"num_prefix_tokens": 0, "groups": 1, **option},
    )
    for option in ({"num_prefix_tokens": 1}, {"groups": 2})
]
STATIC = {"TokenDropout", "DropoutMLP", "DropPathAdd", "RandomLTD"}
"""Layers whose rate sets a shape."""
BELOW_ONE = {"GaussianDropout", *STATIC}
"""Layers of which something must be kept."""
WRAPPERS = ("LayerDrop", "WeightDrop", "QuantNoise")
LAYERS = [(package, name) for package in PACKAGES for name in (*CASES, *WRAPPERS)]
each_layer = pytest.mark.parametrize(("package", "name"), LAYERS)


def test_every_layer_is_here() -> None:
    """With a value for each of its fields that is not the default."""
    for package, module in PACKAGES.items():
        public = {name: getattr(module, name) for name in module.__all__}
        classes = {
            name
            for name, item in public.items()
            if isinstance(item, type) and issubclass(item, nnx.Module | nn.Module)
        }
        assert classes - OTHERS == {name for known, name in LAYERS if known == package}
        for name in CASES:
            layer: Any = getattr(module, name)
            own = {field.name: field.default for field in dataclasses.fields(layer)}
            made = [made_of(layer, case) for case in CASES[name]]
            for field in own.keys() - set(SHARED):
                values = [each[field] for each in made if field in each]
                assert values, f"{name}.{field} has no value"
                assert all(value is not own[field] for value in values) or field in SIZES


def made_of(layer: Any, case: Case) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(layer)]
    return {name: size for name, size in SIZES.items() if name in fields} | case.made


class Received(NamedTuple):
    """The arguments of the function of a layer in one call, and the layer's parameters."""

    key: Any
    operands: tuple[Any, ...]
    amount: Any
    options: dict[str, Any]
    parameters: dict[str, Any]


def run(package: str, name: str, made: dict[str, Any], case: Case, **call: Any) -> Received:
    """Makes and calls the layer. The function is replaced: a layout needs no devices here."""
    layer: Any = getattr(PACKAGES[package], name)
    calls: list[Any] = []

    def function(*args: Any, **options: Any) -> Any:
        calls.append((args[0], args[1:-1], args[-1], options))
        return args[1] @ args[2] if "kernel" in case.parameters else args[1]

    with mock.patch.object(layer, "_function", staticmethod(function)):
        if package == "nnx":
            module = layer(**made, rngs=nnx.Rngs(params=0, dropout=1, noise=2))
            module(*case.inputs, **call)
            state = nnx.state(module, nnx.Param)
            parameters = {path[-1]: value[...] for path, value in nnx.to_flat_state(state)}
        else:
            module = layer(**made)
            rngs = {"params": KEY, "dropout": jax.random.key(1), "noise": jax.random.key(2)}
            known = {name: value for name, value in call.items() if name != "rng"}
            variables = module.init(rngs, *case.inputs, **known)
            module.apply(variables, *case.inputs, rngs=rngs, **call)
            parameters = variables.get("params", {})
    return Received(*calls[-1], dict(parameters))


class Noise(nn.Module):
    @nn.compact
    def __call__(self) -> jax.Array:
        return self.make_rng("noise")


class Site(nn.Module):
    """Where `LinenParent` has its wrapper."""

    @nn.compact
    def __call__(self) -> jax.Array:
        return Noise(name="LayerDrop_0")()


NOISE = {"noise": jax.random.key(2)}


def own_key(package: str) -> jax.Array:
    """The first key of the collection `noise`."""
    if package == "nnx":
        return nnx.Rngs(noise=2).noise.fork()()
    return Noise().apply({}, rngs=NOISE)


def same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if isinstance(theirs, jax.Array) and jnp.issubdtype(theirs.dtype, jax.dtypes.prng_key):
            mine, theirs = jax.random.key_data(mine), jax.random.key_data(theirs)
        if isinstance(theirs, (jax.Array, np.ndarray)):
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs


def check_case(package: str, name: str, case: Case) -> None:
    """The property of a layer, for one set of values."""
    layer: Any = getattr(PACKAGES[package], name)
    made = made_of(layer, case)
    learned = not isinstance(case.amount, str)
    own = {field: made[field] for field in case.made if field != case.amount and field not in SIZES}
    own = own if case.options is None else case.options
    shared = {"deterministic": False, "rng_collection": "noise", "spec": LAYOUT}
    drawn = own | case.further
    key = own_key(package)

    placed = {"part": PART} if "part" in inspect.signature(layer._function).parameters else {}

    def expect(
        received: Received, key: Any, amount: Any, off: bool, spec: Any, **called: Any
    ) -> None:
        same(received.parameters, case.parameters)
        same(received.key, key)
        same(received.operands, case.operands(case.parameters) if case.operands else case.inputs)
        np.testing.assert_allclose(received.amount, amount, rtol=1e-2 if learned else 0)
        assert received.options.keys() == {*drawn, *called, "deterministic", "spec"}
        same(received.options, {**drawn, **called, "deterministic": off, "spec": spec})

    amount: Any = case.amount if learned else made[case.amount]
    given = run(package, name, made | shared, case, **case.further)
    expect(given, key, amount, False, LAYOUT)
    off = run(package, name, made | shared | {"deterministic": True}, case, **case.further)
    expect(off, None, amount, True, LAYOUT)
    # What the call says comes first.
    source = {"rngs" if package == "nnx" else "rng": KEY}
    rate = {} if learned else {case.amount: 0.7}
    undecided = made | shared | {"deterministic": None}
    call = {
        **source,
        **rate,
        **case.further,
        "deterministic": False,
        "spec": OTHER_LAYOUT,
        **placed,
    }
    expect(
        run(package, name, undecided, case, **call),
        KEY,
        0.7 if rate else amount,
        False,
        OTHER_LAYOUT,
        **placed,
    )
    call["deterministic"] = True
    expect(
        run(package, name, undecided, case, **call),
        None,
        0.7 if rate else amount,
        True,
        OTHER_LAYOUT,
        **placed,
    )


class Inner(nnx.Module):
    def __init__(self) -> None:
        self.linear = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, gain: float = 1.0) -> jax.Array:
        return gain * self.linear(x)


class LinenInner(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, gain: float = 1.0) -> jax.Array:
        return gain * nn.Dense(6, name="linear")(x)


NOTHING_DRAWN = (0, 1)
"""Rates at which wrappers take no key: all weights, or layers, are kept or dropped."""


def halved(key: Any, w: jax.Array, rate: Any, *, spec: Any) -> jax.Array:
    return w / 2


def check_wrapper(package: str, name: str) -> None:
    """The property of a layer that runs a module."""
    inner = Inner() if package == "nnx" else LinenInner()
    match = "linear/kernel"
    options: dict[str, Any] = {"match": match, "drop": halved}
    if name == "QuantNoise":
        options = {"match": match, "block_size": 4, "axis": -1}
    case = Case({"module": inner, "rate": 0.3, **options}, (X, 2.0))
    shared = {"deterministic": False, "rng_collection": "noise", "spec": LAYOUT}
    source = {"rngs" if package == "nnx" else "rng": KEY}
    told = {**source, "rate": 0.7, "spec": OTHER_LAYOUT}
    for made, call, key, rate, off, spec in (
        (shared, {}, own_key(package), 0.3, False, LAYOUT),
        (shared | {"deterministic": True}, {}, None, 0.3, True, LAYOUT),
        *((shared | {"rate": rate}, {}, None, rate, False, LAYOUT) for rate in NOTHING_DRAWN),
        (
            shared | {"deterministic": None},
            told | {"deterministic": False},
            KEY,
            0.7,
            False,
            OTHER_LAYOUT,
        ),
        (
            shared | {"deterministic": None},
            told | {"deterministic": True},
            None,
            0.7,
            True,
            OTHER_LAYOUT,
        ),
    ):
        received = run(package, name, case.made | made, case, **call)
        same(received.key, key)
        (params,) = received.operands
        if package == "nnx":
            same(jax.tree.leaves(params), jax.tree.leaves(nnx.state(inner, nnx.Param)))
        assert received.amount == rate
        drop = received.options.pop("drop")
        if name == "QuantNoise":
            assert drop.func is jaxdrop.quant_noise
            assert drop.keywords == {"block_size": 4, "axis": -1}
        else:
            assert drop is halved
        assert received.options == {"match": match, "deterministic": off, "spec": spec}


def check_layer_drop(package: str) -> None:
    """The property of `LayerDrop`, which throws a coin before it runs the layer."""
    layer: Any = PACKAGES[package].LayerDrop
    inner: Any = Inner() if package == "nnx" else LinenInner()
    wrappers = inspect.getmodule(layer)
    coins: list[Any] = []

    def coin(key: Any, rate: Any, *, deterministic: bool) -> bool:
        coins.append((key, rate, deterministic))
        return True

    def outcome(made_off: Any, **call: Any) -> Any:
        made = {"rate": 0.3, "deterministic": made_off, "rng_collection": "noise"}
        if package == "nnx":
            return layer(**made, rngs=nnx.Rngs(dropout=1, noise=2))(X, inner, 2.0, **call)
        rngs = {"noise": jax.random.key(2), "params": KEY}
        parent = LinenParent(functools.partial(layer, **made), inner, call)
        return parent.apply(parent.init(rngs, X), X, rngs=rngs)

    source = {"rngs" if package == "nnx" else "rng": KEY}
    with mock.patch.object(wrappers.functional, "layer_runs", coin):  # type: ignore[union-attr]
        outcome(False)
        assert coins[-1][1:] == (0.3, False)
        assert coins[-1][0] is not None
        same(coins[-1][0], own_key(package) if package == "nnx" else Site().apply({}, rngs=NOISE))
        outcome(True)
        assert coins[-1] == (None, 0.3, True)
        for rate in NOTHING_DRAWN:
            outcome(False, rate=rate)
            assert coins[-1] == (None, rate, False)
        outcome(None, **source, rate=0.7, deterministic=False)
        same(coins[-1][0], KEY)
        assert coins[-1][1:] == (0.7, False)


class LinenParent(nn.Module):
    wrapper: Callable[..., nn.Module]
    inner: nn.Module
    call: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.wrapper()(x, self.inner, 2.0, **self.call)


def check_forced_labels(package: str) -> None:
    """They need no key. The function is told what the layer and the call say all the same."""
    force = IDS > 2
    case = Case({"rate": 0.3, "null_id": 9}, (IDS,), {"force_drop": force})
    made = case.made | {"spec": LAYOUT}
    received = run(package, "LabelDropout", made, case, **case.further)
    assert (received.key, received.amount) == (None, 0.3)
    assert received.options.pop("force_drop") is force
    assert received.options == {"null_id": 9, "deterministic": True, "spec": LAYOUT}
    call = {**case.further, "rate": 0.7, "spec": OTHER_LAYOUT}
    received = run(package, "LabelDropout", made, case, **call)
    assert (received.amount, received.options["spec"]) == (0.7, OTHER_LAYOUT)


def check_layer(package: str, name: str) -> None:
    """The property, for a layer of either kind."""
    if name == "LayerDrop":
        check_layer_drop(package)
    elif name in WRAPPERS:
        check_wrapper(package, name)
    else:
        for case in CASES[name]:
            check_case(package, name, case)
    if name == "LabelDropout":
        check_forced_labels(package)


@pytest.mark.parametrize("name", [*CASES, *WRAPPERS, "RNN", "StackedRNN", "MultiHeadAttention"])
def test_public_functions_of_a_layer_are_methods(name: str) -> None:
    """`nnx.tabulate` wraps all of them as methods, and calls the wrapper with the layer. (Defaults
    of fields stand on the class too; an instance has attributes in their place.)
    """
    layer = getattr(jaxdrop.nnx, name)
    fields = vars(layer).get("__dataclass_fields__", ())
    for public, function in inspect.getmembers(layer, inspect.isfunction):
        if not public.startswith("_") and public not in fields:
            assert next(iter(inspect.signature(function).parameters)) == "self", public


def test_flax_lists_a_layer_as_it_lists_its_own() -> None:
    def table(dropout: Any) -> str:
        model = nnx.Sequential(dropout(0.5, rngs=nnx.Rngs(0)))
        return nnx.tabulate(model, X, console_kwargs={"width": 150})

    assert "Dropout" in table(nnx.Dropout)
    assert table(jaxdrop.nnx.Dropout) == table(nnx.Dropout)


@each_layer
def test_the_function_receives_what_was_given(package: str, name: str) -> None:
    check_layer(package, name)


def refusal(layer: Any, received: Received) -> str:
    """What the function of a layer has against what it received; nothing if it takes it."""

    def call() -> Any:
        operands = (received.key, *received.operands, received.amount)
        return layer._function(*operands, **received.options)

    try:
        jax.eval_shape(call)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("package", "name"), [each for each in LAYERS if each[1] in CASES])
def test_a_key_is_taken_where_the_function_draws(package: str, name: str) -> None:
    """Also at the ends of a schedule, rates of 0 and 1, where some draw nothing and need no key."""
    layer: Any = getattr(PACKAGES[package], name)
    for case, number in itertools.product(CASES[name], (0,) if name in BELOW_ONE else (0, 1)):
        amount: Any = {case.amount: number}
        if not isinstance(case.amount, str):
            learned = "log_sigma2" if "log_sigma2" in case.made else "rate"
            amount = {learned: number if learned == "log_sigma2" else 1 / (1 + math.exp(-number))}
        made = made_of(layer, case) | amount | {"deterministic": False}
        received = run(package, name, made, case, **case.further)
        assert not refusal(layer, received), case.made
        said = refusal(layer, received._replace(key=None))
        assert ("needs a key" in said) == (received.key is not None), (number, case.made)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_traced_amount_draws_what_the_number_draws(deterministic: bool) -> None:
    """With options that are not the defaults."""

    def results(amount: Any) -> dict[str, Any]:
        found = {}
        for name, cases in CASES.items():
            for number, case in enumerate(cases):
                if isinstance(case.amount, str) and name not in STATIC:
                    layer: Any = getattr(jaxdrop.linen, name)
                    made = made_of(layer, case) | {"deterministic": deterministic}
                    received = run("linen", name, made, case, **case.further)
                    found[f"{name} {number}"] = layer._function(
                        received.key, *received.operands, amount, **received.options
                    )
        return found

    amount = 0.25  # 1 minus which is exact in float32 too
    both = jax.jit(lambda traced: (results(amount), results(traced)))(amount)
    for (name, known), traced in zip(both[0].items(), both[1].values(), strict=True):
        for one, other in zip(jax.tree.leaves(known), jax.tree.leaves(traced), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_fields_are_checked_when_a_layer_is_made(name: str) -> None:
    """By the same words in both frameworks, which name the field."""
    for case in CASES[name]:
        for field in [*case.made, "deterministic", "rng_collection", "spec"]:
            says = set()
            for package, module in PACKAGES.items():
                layer: Any = getattr(module, name)
                made = made_of(layer, case) | {field: Wrong()}
                own = {"rngs": nnx.Rngs(0)} if package == "nnx" else {}
                with pytest.raises((TypeError, ValueError), match=field) as raised:
                    layer(**made, **own)
                says.add(str(raised.value))
            assert len(says) == 1, says


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("LayerDrop", {"rate": np.ones(6)}),
        ("WeightDrop", {"rate": 1.5, "match": "(", "drop": None}),
        ("QuantNoise", {"rate": np.ones(6), "match": "(", "block_size": 0, "axis": 0.5}),
    ],
)
def test_fields_of_a_wrapper_are_checked_when_it_is_made(name: str, wrong: dict[str, Any]) -> None:
    for package, module in PACKAGES.items():
        inner = Inner() if package == "nnx" else LinenInner()
        own = {} if name == "LayerDrop" else {"module": inner}
        match = {"match": "kernel"} if name == "WeightDrop" else {}
        for field, value in wrong.items():
            with pytest.raises((TypeError, ValueError), match=field):
                getattr(module, name)(**{**own, **match, "rate": 0.3, field: value})
        if own:
            with pytest.raises(TypeError, match="module must be a"):
                getattr(module, name)(**{**match, "rate": 0.3, "module": masked})


@pytest.mark.parametrize("name", CASES)
def test_a_layer_has_the_defaults_of_its_function(name: str) -> None:
    layer: Any = PACKAGES["linen"].__dict__[name]
    options = inspect.signature(layer._function).parameters
    for field in dataclasses.fields(layer):
        default = options[field.name].default if field.name in options else inspect.Parameter.empty
        if default is not inspect.Parameter.empty and field.name not in SHARED:
            assert field.default == default, field.name


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
def test_what_the_function_refuses_no_layer_is_made_with(name: str) -> None:
    """Values of the right type, too. Only what depends on the input's shape shows in the call."""
    layer: Any = PACKAGES["linen"].__dict__[name]
    for case in CASES[name]:
        made = made_of(layer, case) | {"deterministic": False}
        received = run("linen", name, made, case, **case.further)
        fields = {*case.made} & {*received.options, case.amount} - {*case.further}
        values = (-1, 1, 2.5, math.nan, "other", np.ones(6))
        for field, value in [*itertools.product(fields, values), (case.amount, np.ones(1))]:
            changed = received._replace(options=received.options | {field: value})
            if field == case.amount:
                changed = received._replace(amount=value)
            said = refusal(layer, changed)
            if said and not any(word in said for word in ("of shape", "broadcast to", "of 4 axes")):
                with pytest.raises((TypeError, ValueError), match=field):
                    layer(**made | {field: value})


class Wrong:
    def __repr__(self) -> str:
        return "Wrong()"


@each_layer
def test_a_layer_survives_a_copy(package: str, name: str) -> None:
    """By pickle, as part of a graph, and as a dataclass; its docstring names each field."""
    layer: Any = getattr(PACKAGES[package], name)
    documented = inspect.getdoc(layer) or ""
    assert "Raises:" in documented
    for field in inspect.signature(layer).parameters.keys() - {"parent", "name"}:
        assert f"\n  {field}:" in documented, field
    if name in WRAPPERS:
        return
    made = made_of(layer, CASES[name][0])
    module = layer(**made, **({"rngs": nnx.Rngs(0)} if package == "nnx" else {}))
    copies = [pickle.loads(pickle.dumps(module))]
    copies += [nnx.merge(*nnx.split(module))] if package == "nnx" else [module.clone()]
    assert [lines(copy) for copy in copies] == [lines(module)] * len(copies)


def lines(module: Any) -> list[str]:
    """What a module prints. A graph has its attributes in another order than the constructor."""
    return sorted(line.rstrip(",") for line in repr(module).splitlines())
