"""Bad input is an error at once, which names the argument, quotes what was given, and says what to
do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import checkify
from jax.sharding import PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from tests.catalogue import KEY

P = PartitionSpec
X = jnp.ones((4, 6))
MESH = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call, its error, and what the message must hold: the argument's name, the value, the way
    out.
    """

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    says: tuple[str, ...]


def case(name: str, call: Callable[[], Any], error: type[Exception], *says: str) -> Any:
    return pytest.param(Case(name, call, error, says), id=name)


def rate(name: str, value: Any, error: type[Exception], *says: str) -> list[Any]:
    """A bad rate is bad for the function, and for the modules' constructors and calls."""
    nnx_layer, linen = jaxdrop.nnx.Dropout, jaxdrop.linen.Dropout
    return [
        case(f"{name}, function", lambda: jaxdrop.dropout(KEY, X, value), error, *says),
        case(f"{name}, nnx", lambda: nnx_layer(value), error, *says),
        case(f"{name}, nnx call", lambda: nnx_layer(0.5)(X, rngs=KEY, rate=value), error, *says),
        case(
            f"{name}, linen call",
            lambda: linen(0.5, deterministic=False).apply({}, X, rng=KEY, rate=value),
            error,
            *says,
        ),
    ]


def mapped(spec: Any, key: jax.Array = KEY) -> Callable[[], Any]:
    return lambda: jax.shard_map(
        lambda x: jaxdrop.dropout(key, x, 0.5, spec=spec),
        mesh=MESH,
        in_specs=P("a", "b"),
        out_specs=P("a", "b"),
    )(X)


def nnx_of(**options: Any) -> jaxdrop.nnx.Dropout:
    return jaxdrop.nnx.Dropout(0.5, **options)


RATES = [
    *rate("1.5", 1.5, ValueError, "rate", "1.5", "[0, 1]", "of dropping", "percentage"),
    *rate("-0.1", -0.1, ValueError, "rate", "-0.1", "[0, 1]"),
    *rate("NaN", float("nan"), ValueError, "rate", "nan", "[0, 1]"),
    *rate("inf", np.float32(np.inf), ValueError, "rate", "inf", "[0, 1]"),
    *rate("string", "x", TypeError, "rate", "'x'", "real number", "[0, 1]"),
    *rate("bool", True, TypeError, "rate", "True", "real number"),
    *rate("bool array", np.True_, TypeError, "rate", "True", "real number"),
    *rate("complex", 0.5j, TypeError, "rate", "0.5j", "real number"),
    *rate("complex array", jnp.complex64(0.5), TypeError, "rate", "real number"),
    *rate("list", [0.5], TypeError, "rate", "[0.5]", "real number"),
    *rate("one bad entry", jnp.asarray([0.1] * 5 + [1.25]), ValueError, "rate", "1.25", "[0, 1]"),
    *rate("one NaN entry", np.asarray([0.1] * 5 + [np.nan]), ValueError, "rate", "nan", "[0, 1]"),
    case("None", lambda: jaxdrop.dropout(KEY, X, None), TypeError, "rate", "None", "real number"),
    case(
        "too long",
        lambda: jaxdrop.dropout(KEY, X, jnp.full(4, 0.1)),
        ValueError,
        "rate",
        "(4,)",
        "(4, 6)",
        "one for each entry",
    ),
    case(
        "too many axes",
        lambda: jaxdrop.dropout(KEY, X, jnp.full((1, 4, 6), 0.1)),
        ValueError,
        "rate",
        "(1, 4, 6)",
        "(4, 6)",
    ),
    case(
        "one rate an entry of a shared axis",
        lambda: jaxdrop.dropout(KEY, X, jnp.full(6, 0.1), broadcast_dims=(1,)),
        ValueError,
        "rate",
        "(6,)",
        "(4, 1)",
    ),
]

INPUTS = [
    case(
        "int32",
        lambda: jaxdrop.dropout(KEY, jnp.arange(3), 0.5),
        TypeError,
        "dropout",
        "x",
        "int32",
        "astype",
        "embedding",
    ),
    case(
        "uint8",
        lambda: jaxdrop.dropout(KEY, np.ones(3, np.uint8), 0.5),
        TypeError,
        "uint8",
        "astype",
    ),
    case("bool", lambda: jaxdrop.dropout(KEY, jnp.ones(3, bool), 0.5), TypeError, "bool", "astype"),
    case("int", lambda: jaxdrop.dropout(KEY, 3, 0.5), TypeError, "int32", "astype"),
    case(
        "int32 at rate 0",
        lambda: jaxdrop.dropout(None, jnp.arange(3), 0),
        TypeError,
        "int32",
        "astype",
    ),
    case("int32, nnx", lambda: nnx_of()(jnp.arange(3), rngs=KEY), TypeError, "int32", "astype"),
    case(
        "a dtype without 0",
        lambda: jaxdrop.dropout(KEY, X.astype("float8_e8m0fnu"), 0.5),
        TypeError,
        "float8_e8m0fnu",
        "no 0",
        "astype",
    ),
    case("string", lambda: jaxdrop.dropout(KEY, "abc", 0.5), TypeError, "dropout", "x", "abc"),
    case("no array", lambda: jaxdrop.dropout(KEY, None, 0.5), TypeError, "dropout", "x", "None"),
]

NEEDS_KEY = (
    "dropout",
    "key",
    "None",
    "1. ",
    "jaxdrop.key",
    "2. ",
    "deterministic=True",
    "3. ",
    "rate=0",
)
KEYS = [
    case("missing", lambda: jaxdrop.dropout(None, X, 0.5), ValueError, *NEEDS_KEY),
    case(
        "missing, traced rate",
        lambda: jax.jit(lambda rate: jaxdrop.dropout(None, X, rate))(0.0),
        ValueError,
        *NEEDS_KEY,
    ),
    case(
        "a seed",
        lambda: jaxdrop.dropout(0, X, 0.5),
        TypeError,
        "key",
        "0",
        "jaxdrop.key(0)",
        "Keys come first",
    ),
    case(
        "a string",
        lambda: jaxdrop.dropout("dropout", X, 0.5),
        TypeError,
        "key",
        "'dropout'",
        "jaxdrop.key(0)",
    ),
    case(
        "floats",
        lambda: jaxdrop.dropout(jnp.ones(2), X, 0.5),
        TypeError,
        "key",
        "float32[2]",
        "jaxdrop.key(0)",
    ),
    case(
        "int32 words",
        lambda: jaxdrop.dropout(jnp.zeros(2, jnp.int32), X, 0.5),
        TypeError,
        "key",
        "int32[2]",
    ),
    case(
        "a uint32 scalar",
        lambda: jaxdrop.dropout(jnp.uint32(3), X, 0.5),
        TypeError,
        "key",
        "uint32 3",
    ),
    case(
        "three raw words",
        lambda: jaxdrop.dropout(jnp.zeros(3, jnp.uint32), X, 0.5),
        TypeError,
        "key",
        "uint32[3]",
    ),
    case(
        "a batch",
        lambda: jaxdrop.dropout(jax.random.split(KEY, 3), X, 0.5),
        ValueError,
        "single key",
        "(3,)",
        "jax.vmap",
    ),
    case(
        "a raw batch",
        lambda: jaxdrop.dropout(jnp.zeros((3, 2), jnp.uint32), X, 0.5),
        ValueError,
        "single key",
        "(3,)",
        "jax.vmap",
    ),
    case(
        "a batch, nnx",
        lambda: nnx_of()(X, rngs=jax.random.split(KEY, 3)),
        ValueError,
        "single key",
        "(3,)",
        "jax.vmap",
    ),
    case(
        "key and x swapped",
        lambda: jaxdrop.dropout(X, KEY, 0.5),
        TypeError,
        "dropout(key, x, rate)",
    ),
    case("x and rate swapped", lambda: jaxdrop.dropout(KEY, 0.5, X), ValueError, "rate", "(4, 6)"),
]

AXES = [
    case(
        "too large",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims=(0, 2)),
        ValueError,
        "broadcast_dims=(0, 2)",
        "2 axes",
        "-2 to 1",
    ),
    case(
        "too small",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims=(-3,)),
        ValueError,
        "broadcast_dims=(-3,)",
        "2 axes",
        "-2 to 1",
    ),
    case(
        "of a scalar",
        lambda: jaxdrop.dropout(KEY, 1.0, 0.5, broadcast_dims=(0,)),
        ValueError,
        "broadcast_dims=(0,)",
        "0 axes",
    ),
    case(
        "one number",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims=1),
        TypeError,
        "broadcast_dims",
        "sequence",
        "1",
    ),
    case(
        "a string",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims="rows"),
        TypeError,
        "broadcast_dims",
        "sequence",
        "'rows'",
    ),
    case(
        "a fraction",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims=(0.5,)),
        TypeError,
        "broadcast_dims",
        "0.5",
    ),
    case(
        "None",
        lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims=None),
        TypeError,
        "broadcast_dims",
        "None",
    ),
    case(
        "nnx",
        lambda: nnx_of(broadcast_dims=(2,))(X, rngs=KEY),
        ValueError,
        "broadcast_dims=(2,)",
        "2 axes",
    ),
    case(
        "nnx, one number",
        lambda: nnx_of(broadcast_dims=1),
        TypeError,
        "broadcast_dims",
        "sequence",
        "1",
    ),
]

RBG = jax.random.key(0, impl="rbg")
SPECS = [
    case(
        "too many axes",
        mapped(P("a", "b", None)),
        ValueError,
        "spec",
        "('a', 'b', None)",
        "3 axes",
        "has 2",
    ),
    case("a string", mapped("a"), TypeError, "spec", "'a'", "PartitionSpec"),
    case(
        "a sharding",
        mapped(jax.sharding.NamedSharding(MESH, P("a"))),
        TypeError,
        "spec",
        "NamedSharding",
        "PartitionSpec",
    ),
    case("unknown axis", mapped(P("a", "data")), ValueError, "'data'", "not a mapped axis"),
    case("axis named twice", mapped(P("a", "a")), ValueError, "spec", "'a'"),
    case("a number", mapped((0, None)), TypeError, "spec", "0"),
    case(
        "outside a map",
        lambda: jaxdrop.dropout(KEY, X, 0.5, spec=P("a")),
        ValueError,
        "'a'",
        "jax.shard_map",
        "leave",
    ),
    case(
        "under jit",
        lambda: jax.jit(lambda x: jaxdrop.dropout(KEY, x, 0.5, spec=P("a")))(X),
        ValueError,
        "'a'",
        "jax.shard_map",
    ),
    case(
        "rbg",
        mapped(P("a"), RBG),
        NotImplementedError,
        "rbg",
        "jaxdrop.random.fast",
        "fold_in_axes",
    ),
]

FLAG = "deterministic"
DETERMINISTIC = [
    case(
        "an integer",
        lambda: jaxdrop.dropout(KEY, X, 0.5, deterministic=1),
        TypeError,
        FLAG,
        "True or False",
        "1",
    ),
    case(
        "None",
        lambda: jaxdrop.dropout(KEY, X, 0.5, deterministic=None),
        TypeError,
        FLAG,
        "True or False",
        "None",
    ),
    case(
        "traced",
        lambda: jax.jit(lambda off: jaxdrop.dropout(KEY, X, 0.5, deterministic=off))(True),
        TypeError,
        FLAG,
        "static_argnames",
        "jnp.where",
    ),
    case(
        "traced, nnx",
        lambda: jax.jit(lambda off: nnx_of()(X, rngs=KEY, deterministic=off))(True),
        TypeError,
        FLAG,
        "static_argnames",
        "jnp.where",
    ),
    case(
        "an integer, nnx",
        lambda: nnx_of(deterministic=1)(X, rngs=KEY),
        TypeError,
        FLAG,
        "True or False",
        "1",
    ),
    case(
        "not said, nnx",
        lambda: nnx_of(deterministic=None)(X, rngs=KEY),
        ValueError,
        FLAG,
        "1. ",
        "2. ",
        "3. ",
        "model.eval()",
    ),
]

STREAMS = [
    case("none", lambda: nnx_of()(X), ValueError, "rngs", "1. ", "2. ", "3. ", "model.eval()"),
    case(
        "a key in the constructor",
        lambda: nnx_of(rngs=KEY),
        TypeError,
        "rngs",
        "nnx.Rngs",
        "layer(x, rngs=key)",
    ),
    case(
        "a seed in the constructor", lambda: nnx_of(rngs=0), TypeError, "rngs", "nnx.Rngs", "got 0"
    ),
    case("a seed in the call", lambda: nnx_of()(X, rngs=0), TypeError, "rngs", "nnx.Rngs", "0"),
    case(
        "a mapping",
        lambda: nnx_of()(X, rngs={"dropout": KEY}),
        TypeError,
        "rngs",
        "nnx.Rngs",
        "{'dropout'",
    ),
    case(
        "another stream",
        lambda: nnx_of(rngs=nnx.Rngs(params=0)),
        ValueError,
        "the stream 'dropout' of rngs, which has only 'params'",
    ),
]


@pytest.mark.sweep(keep=26)
@pytest.mark.parametrize("case", RATES + INPUTS + KEYS + AXES + SPECS + DETERMINISTIC + STREAMS)
def test_bad_input(case: Case) -> None:
    with pytest.raises(case.error) as raised:
        case.call()
    message = str(raised.value)
    assert [part for part in case.says if part not in message] == [], message


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
@pytest.mark.parametrize("shape", [(), (6,)])
def test_traced_rates_are_checked_under_checkify(bad: float, shape: tuple[int, ...]) -> None:
    drop = checkify.checkify(
        jax.jit(lambda rate: jaxdrop.dropout(KEY, X, rate)), errors=checkify.user_checks
    )
    error, _ = drop(jnp.full(shape, 0.5))
    error.throw()
    error, _ = drop(jnp.full(shape, 0.5).at[..., -1:].set(bad) if shape else jnp.float32(bad))
    with pytest.raises(
        checkify.JaxRuntimeError, match=r"rate must lie in \[0, 1\], got .*" + str(bad)
    ):
        error.throw()
