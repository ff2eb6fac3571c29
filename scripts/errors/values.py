"""Values of wrong kinds: a stock of them, and what becomes of a right value by one mistake."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import fractions
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

import jaxdrop


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A value, and what it is called in tables. `traced`: it reaches the function as an argument of
    `jax.jit`.
    """

    name: str
    value: Any
    traced: bool = False


class Opaque:
    """An object that nobody knows."""

    def __repr__(self) -> str:
        return "<opaque>"


STOCK = [
    Wrong("None", None),
    Wrong("'x'", "x"),
    Wrong("'0.5'", "0.5"),
    Wrong("'False'", "False"),
    Wrong("''", ""),
    Wrong("bytes", b"x"),
    Wrong("an object", Opaque()),
    Wrong("a class", int),
    Wrong("a function", len),
    Wrong("a module", np),
    Wrong("...", ...),
    Wrong("a slice", slice(2)),
    Wrong("{}", {}),
    Wrong("a dict", {"a": 1.0}),
    Wrong("a set", {1}),
    Wrong("[]", []),
    Wrong("()", ()),
    Wrong("[None]", [None]),
    Wrong("['a']", ["a"]),
    Wrong("(0.5, 'a')", (0.5, "a")),
    Wrong("a ragged list", [[1.0], [1.0, 2.0]]),
    Wrong("[0.5]", [0.5]),
    Wrong("(1, 2, 3)", (1, 2, 3)),
    Wrong("range(3)", range(3)),
    Wrong("True", True),
    Wrong("False", False),
    Wrong("np.True_", np.True_),
    Wrong("0", 0),
    Wrong("7", 7),
    Wrong("-1", -1),
    Wrong("-9", -9),
    Wrong("1.5", 1.5),
    Wrong("-0.5", -0.5),
    Wrong("0.5", 0.5),
    Wrong("complex", 0.5j),
    Wrong("NaN", float("nan")),
    Wrong("inf", float("inf")),
    Wrong("-inf", float("-inf")),
    Wrong("np.float32 NaN", np.float32("nan")),
    Wrong("2**40", 2**40),
    Wrong("10**30", 10**30),
    Wrong("-10**30", -(10**30)),
    Wrong("10**400", 10**400),
    Wrong("a fraction", fractions.Fraction(7, 3)),
    Wrong("a decimal", decimal.Decimal("0.3")),
    Wrong("a date", datetime.date(2020, 1, 1)),
    Wrong("a NumPy date", np.datetime64("2020-01-01")),
    Wrong("a NumPy string", np.array("a")),
    Wrong("an array of strings", np.array(["a", "b"])),
    Wrong("an array of None", np.array([None, None])),
    Wrong("an array of objects", np.array([Opaque(), 1.0], object)),
    Wrong("an object array of numbers", np.array([[0.5, 1.0]], object)),
    Wrong("a record array", np.zeros(2, [("a", float)])),
    Wrong("a key", jaxdrop.key(1)),
    Wrong("keys", jax.random.split(jaxdrop.key(1), 4)),
    Wrong("a legacy key", jax.random.PRNGKey(1)),
    Wrong("nnx.Rngs", nnx.Rngs(0)),
    Wrong("a spec", PartitionSpec("a")),
    Wrong("a spec of numbers", PartitionSpec(3)),
    Wrong("a shape", jax.ShapeDtypeStruct((4, 8), jnp.float32)),
    Wrong("jnp.float32", jnp.float32),
    Wrong("a scalar array", jnp.float32(0.5)),
    Wrong("an int array", jnp.arange(4)),
    Wrong("a bool array", jnp.ones((4, 8), bool)),
    Wrong("a complex array", jnp.ones((4, 8), jnp.complex64)),
    Wrong("an array of 7", jnp.full(7, 0.5)),
    Wrong("an array of 4 axes", jnp.full((2, 3, 5, 7), 0.5)),
    Wrong("an empty array", jnp.zeros(0)),
    Wrong("an array of NaN", jnp.full((4, 8), jnp.nan)),
    Wrong("NumPy integers", np.array([[3, 400], [-5, 6]])),
    Wrong("a traced number", jnp.float32(0.5), traced=True),
    Wrong("a traced integer", jnp.int32(1), traced=True),
    Wrong("a traced bool", jnp.bool_(True), traced=True),
    Wrong("a traced array", jnp.full((2, 3), 0.5), traced=True),
    Wrong("a traced key", jaxdrop.key(1), traced=True),
]


def spoiled(valid: Any) -> Iterator[Wrong]:
    """Mistakes that keep something of the right value."""
    if isinstance(valid, (jax.Array, np.ndarray)) and jnp.issubdtype(
        valid.dtype, jax.dtypes.prng_key
    ):
        yield from (
            Wrong("twice the key", jnp.stack([valid, valid])),
            Wrong("its data", jax.random.key_data(valid)),
        )
    elif isinstance(valid, (jax.Array, np.ndarray)):
        yield from _arrays(np.asarray(valid))
    elif isinstance(valid, (bool, str)) or valid is None:
        yield from (
            Wrong("as text", str(valid)),
            Wrong("in a list", [valid]),
            Wrong("in an array", np.array([valid, valid])),
        )
    elif isinstance(valid, (int, float)):
        yield from (
            Wrong("as text", str(valid)),
            Wrong("in a list", [valid]),
            Wrong("negated", -valid - 1),
        )
        yield from (
            Wrong("twice in an array", np.array([valid, valid])),
            Wrong("traced", jnp.asarray(valid), traced=True),
        )
        yield Wrong("with a half", valid + 0.5)
    elif isinstance(valid, tuple) and valid:
        yield from (
            Wrong("nested", (valid,)),
            Wrong("one more", (*valid, 1)),
            Wrong("reversed", valid[::-1]),
        )
        yield from (
            Wrong("as text", str(valid)),
            Wrong("with None", (*valid[1:], None)),
            Wrong("alone", valid[0]),
        )
        yield Wrong("beyond", tuple(9 for _ in valid))
    elif isinstance(valid, dict):
        yield from (
            Wrong("another name", dict.fromkeys("q", 0.5)),
            Wrong("its values", list(valid.values())),
        )
        yield Wrong("None in it", dict.fromkeys(valid))


def _arrays(valid: np.ndarray[Any, Any]) -> Iterator[Wrong]:
    yield from (Wrong("as bool", valid > 0), Wrong("as int", np.nan_to_num(valid).astype(np.int32)))
    yield from (
        Wrong("as float", valid.astype(np.float32)),
        Wrong("as complex", valid.astype(np.complex64)),
    )
    yield from (Wrong("as objects", valid.astype(object)), Wrong("as text", valid.astype(str)))
    yield from (
        Wrong("negated", -1 - valid.astype(np.float32)),
        Wrong("negated int", -1 - valid.astype(np.int32)),
    )
    yield from (
        Wrong("large ints", valid.astype(np.int64) + 2**40),
        Wrong("in a dict", {"a": valid}),
    )
    yield from (Wrong("one more axis", valid[None]), Wrong("twice in a tuple", (valid, valid)))
    yield Wrong("a traced int", jnp.asarray(np.ones(valid.shape, np.int32)), traced=True)
    if valid.ndim:
        yield from (
            Wrong("without the last", valid[..., :-1]),
            Wrong("without the first", valid[1:]),
            Wrong("its first", valid[0]),
        )
        yield from (
            Wrong("nothing of it", valid[:0]),
            Wrong("transposed", valid.T),
            Wrong("ragged", [valid, valid[:1]]),
        )
    if valid.ndim and valid.dtype.kind == "f":
        part = valid.copy()
        part[(0,) * valid.ndim] = np.nan
        yield from (
            Wrong("one NaN", part),
            Wrong("a thousandfold", 1000 * valid),
            Wrong("all infinite", valid + np.inf),
        )
