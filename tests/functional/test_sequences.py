"""Locked, embedding, word and recurrent dropout and zoneout, against Keras, AWD-LSTM's and
fairseq's code, and closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxdrop
from jaxdrop import masks, random
from jaxdrop.functional.sequences import (
    embedding_dropout,
    locked_dropout,
    recurrent_dropout,
    word_dropout,
    zoneout,
)
from tests.catalogue import KEY, RATE
from tests.oracles import assert_close, require, torch_value_and_pull, value_and_pull

P = PartitionSpec
MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
TIME = {"time first": 0, "batch first": 1}
X = jax.random.normal(jax.random.key(1), (4, 3, 5))
VOCABULARY = 23
TABLE = jax.random.normal(jax.random.key(2), (VOCABULARY, 6))
IDS = jax.random.randint(jax.random.key(3), (8, 16), 0, VOCABULARY)

each_time = pytest.mark.parametrize("axis", TIME.values(), ids=TIME.keys())
each_rate = pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])


# -- locked dropout


@each_rate
@each_time
def test_locked_dropout_is_the_code_of_awd_lstm(axis: int, rate: float) -> None:
    torch = require("torch")
    mask = np.asarray(locked_dropout(KEY, jnp.ones_like(X), rate, time_axis=axis) != 0)
    once = torch.tensor(mask.take([0], axis).astype(np.float32)).div_(1 - rate)
    ours = value_and_pull(lambda x: locked_dropout(KEY, x, rate, time_axis=axis), X)
    assert_close(ours, torch_value_and_pull(lambda x: once.expand_as(x) * x, X))


@pytest.mark.usefixtures("relaxed")
def test_locked_dropout_draws_the_masks_of_keras() -> None:
    """Its spatial dropout in one dimension is locked dropout, batch first; a Keras seed is the
    words of a legacy key.
    """
    keras = require("keras")
    layer = keras.layers.SpatialDropout1D(RATE, seed=7)
    for call in range(2):
        key = jnp.array([7, call], jnp.uint32)
        np.testing.assert_array_max_ulp(
            locked_dropout(key, X, RATE, time_axis=1), layer(X, training=True), maxulp=1
        )


@each_time
def test_windows_share_the_mask_of_a_key(axis: int) -> None:
    whole = locked_dropout(KEY, X, RATE, time_axis=axis)
    window = jax.lax.slice_in_dim(X, 1, 3, axis=axis)
    expected = jax.lax.slice_in_dim(whole, 1, 3, axis=axis)
    np.testing.assert_array_equal(locked_dropout(KEY, window, RATE, time_axis=axis), expected)
    np.testing.assert_array_equal(locked_dropout(KEY, window, RATE, time_axis=axis - 3), expected)


# -- embedding dropout


@pytest.mark.sweep(keep=1)
@each_rate
def test_embedding_dropout_is_the_code_of_awd_lstm(rate: float) -> None:
    torch = require("torch")
    mask = np.asarray(
        embedding_dropout(KEY, jnp.ones(VOCABULARY), rate, ids=jnp.arange(VOCABULARY)) != 0
    )
    scaled = torch.tensor(mask.astype(np.float32)[:, None]) / (1 - rate)
    words = torch.tensor(np.asarray(IDS), dtype=torch.long)
    ours = value_and_pull(lambda table: embedding_dropout(KEY, table[IDS], rate, ids=IDS), TABLE)
    theirs = torch_value_and_pull(
        lambda table: torch.nn.functional.embedding(words, table * scaled), TABLE
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    "key",
    [KEY, jax.random.PRNGKey(7), jaxdrop.mc.keys(KEY, 3)[1]],
    ids=["hash", "legacy", "stratified"],
)
def test_embedding_dropout_is_the_mask_of_the_table_looked_up(key: jax.Array) -> None:
    expected = jaxdrop.dropout(key, TABLE, RATE, broadcast_dims=(1,))[IDS]
    for dtype in ("int8", "uint32"):
        np.testing.assert_array_equal(
            embedding_dropout(key, TABLE[IDS], RATE, ids=IDS.astype(dtype)), expected
        )


def test_embedding_dropout_reaches_every_id() -> None:
    """Also those whose table nobody could draw."""
    ids = np.array([2**32 - 1, 2**31, 2**20, 0], np.uint32)
    expected = masks.below(random.bits_at(KEY, (ids,), (2**32,)), masks.distribution(0.5).threshold)
    np.testing.assert_array_equal(embedding_dropout(KEY, jnp.ones(4), 0.5, ids=ids) > 0, expected)


def test_embedding_dropout_costs_as_much_as_there_are_ids() -> None:
    """It is one program for every vocabulary, without a table."""
    x = jax.ShapeDtypeStruct((64, 16, 256), jnp.float32)
    ids = jax.ShapeDtypeStruct((64, 16), jnp.int32)
    for axis in (None, 1):
        drop = jax.jit(
            lambda x, ids, axis=axis: embedding_dropout(KEY, x, RATE, ids=ids, time_axis=axis)
        )
        assert drop.lower(x, ids).compile().memory_analysis().temp_size_in_bytes <= 2**14


def test_sequences_have_masks_of_their_own() -> None:
    """Rows of one mask with a row for each sequence. Time may stand first, and more sequences
    change nothing.
    """
    keep = embedding_dropout(KEY, jnp.ones(IDS.shape), RATE, ids=IDS, time_axis=1) > 0
    rows = np.arange(8, dtype=np.uint32)[:, None]
    bits = random.bits_at(KEY, (rows, IDS.astype(jnp.uint32)), (8, 2**32))
    np.testing.assert_array_equal(keep, masks.below(bits, masks.distribution(RATE).threshold))
    turned = embedding_dropout(KEY, jnp.ones(IDS.T.shape), RATE, ids=IDS.T, time_axis=0) > 0
    np.testing.assert_array_equal(turned, keep.T)
    few = embedding_dropout(KEY, jnp.ones((3, 16)), RATE, ids=IDS[:3], time_axis=-1) > 0
    np.testing.assert_array_equal(few, keep[:3])


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "spec", [P("a"), P(("b", "a")), P("a", "b"), P(None, "b"), P(None, "a", "b")]
)
@pytest.mark.parametrize("axis", [None, 1])
def test_embedding_dropout_in_shard_map(spec: PartitionSpec, axis: int | None) -> None:
    x = TABLE[IDS]

    def drop(x: jax.Array, ids: jax.Array, spec: PartitionSpec | None) -> jax.Array:
        return embedding_dropout(KEY, x, RATE, ids=ids, time_axis=axis, spec=spec)

    local = jax.shard_map(
        lambda x, ids: drop(x, ids, spec), mesh=MESH, in_specs=(spec, P(*spec[:2])), out_specs=spec
    )
    np.testing.assert_array_equal(jax.jit(local)(x, IDS), drop(x, IDS, None))


# -- word dropout


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32"])
def test_word_dropout_replaces_words(dtype: str) -> None:
    ids = IDS.astype(dtype)
    keep = masks.keep_mask(KEY, ids, masks.distribution(RATE).threshold)
    y = word_dropout(KEY, ids, RATE, replacement=100)
    assert y.dtype == ids.dtype
    np.testing.assert_array_equal(y, np.where(keep, ids, 100))
    y = word_dropout(KEY, ids, RATE, replacement=100, protected=(3, 5, -1))
    np.testing.assert_array_equal(y, np.where(keep | np.isin(ids, (3, 5)), ids, 100))


@pytest.mark.parametrize("rate", [1, 1.0, jnp.float32(1)])
def test_word_dropout_at_rate_one_leaves_the_protected(rate: Any) -> None:
    y = word_dropout(KEY, IDS, rate, replacement=0, protected=(3,))
    np.testing.assert_array_equal(y, np.where(IDS == 3, 3, 0))


def test_word_dropout_needs_no_key_where_nothing_is_drawn() -> None:
    assert word_dropout(None, IDS, 0, replacement=0) is IDS
    assert word_dropout(None, IDS, RATE, replacement=0, deterministic=True) is IDS
    np.testing.assert_array_equal(word_dropout(None, IDS, 1, replacement=9), jnp.full_like(IDS, 9))
    jaxpr = jax.make_jaxpr(lambda ids: word_dropout(None, ids, 0.0, replacement=0))(IDS)
    assert str(jaxpr) == str(jax.make_jaxpr(lambda ids: ids)(IDS))


# -- zoneout


@pytest.mark.sweep(keep=1)
@each_rate
def test_zoneout_is_the_code_of_fairseq(rate: float) -> None:
    torch = require("torch")
    new, previous = X, jnp.flip(X)
    mask = torch.tensor(
        1 - np.asarray(masks.keep_mask(KEY, X, masks.distribution(rate).threshold), np.float32)
    )
    ours = value_and_pull(
        lambda new, previous: zoneout(KEY, new, rate, previous=previous), new, previous
    )
    assert_close(
        ours,
        torch_value_and_pull(
            lambda new, previous: mask * previous + (1 - mask) * new, new, previous
        ),
    )
    ours = value_and_pull(
        lambda new, previous: zoneout(None, new, rate, previous=previous, deterministic=True),
        new,
        previous,
    )
    assert_close(
        ours,
        torch_value_and_pull(
            lambda new, previous: rate * previous + (1 - rate) * new, new, previous
        ),
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_zoneout_rounds_the_expectation_once(dtype: str) -> None:
    new, previous = X.astype(dtype), jnp.flip(X).astype(dtype)
    for rate in (0.3, jnp.float32(0.3), jnp.linspace(0, 1, X.shape[-1])):
        y = zoneout(None, new, rate, previous=previous, deterministic=True)
        assert y.dtype == new.dtype
        first, second, share = (np.asarray(value, np.complex128) for value in (previous, new, rate))
        exact = share * first + (1 - share) * second
        np.testing.assert_allclose(
            np.asarray(y, np.complex128), exact, rtol=0.51 * float(jnp.finfo(dtype).eps), atol=1e-6
        )


def test_zoneout_at_its_ends_is_one_of_the_states() -> None:
    """And what the other one holds does not matter."""
    new, bad = X, jnp.full_like(X, jnp.nan)
    for off in (False, True):
        assert zoneout(None, new, 0, previous=bad, deterministic=off) is new
        assert zoneout(None, bad, 1, previous=new, deterministic=off) is new
    np.testing.assert_array_equal(jax.jit(zoneout)(KEY, new, 0.0, previous=bad), new)
    np.testing.assert_array_equal(jax.jit(zoneout)(KEY, bad, 1.0, previous=new), new)


def test_zoneout_takes_nothing_from_the_state_that_it_leaves() -> None:
    """Neither values nor gradients: NaN where the other state is taken."""
    zoned = ~masks.keep_mask(KEY, X, masks.distribution(RATE).threshold)
    new, previous = jnp.where(zoned, jnp.nan, X), jnp.where(zoned, X, jnp.nan)
    y, *pulled = value_and_pull(
        lambda new, previous: zoneout(KEY, new, RATE, previous=previous), new, previous
    )
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(pulled[0] == 0, zoned)
    np.testing.assert_array_equal(pulled[1] == 0, ~zoned)


# -- dropout in a loop over time


def test_recurrent_dropout_never_forgets() -> None:
    """An LSTM's memory, `c = f c + i d(g)`, step by step in NumPy; with one key, and with one for
    each step.
    """
    f, i, g = jax.nn.sigmoid(jax.random.normal(jax.random.key(4), (3, 7, 2, 5)))

    def run(key_of: Callable[[jax.Array], jax.Array]) -> jax.Array:
        def step(c: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            t, f, i, g = at
            return f * c + i * recurrent_dropout(key_of(t), g, RATE), None

        return jax.lax.scan(step, jnp.ones((2, 5)), (jnp.arange(7), f, i, g))[0]

    for key_of in (lambda t: KEY, lambda t: jax.random.fold_in(KEY, t)):
        c = np.ones((2, 5), np.float32)
        for t in range(7):
            keep = np.asarray(masks.keep_mask(key_of(t), g[t], masks.distribution(RATE).threshold))
            c = np.asarray(f[t]) * c + np.asarray(i[t]) * keep * np.asarray(g[t]) / np.float32(
                1 - RATE
            )
        np.testing.assert_allclose(run(key_of), c, rtol=1e-5)


# -- bad input


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: locked_dropout(KEY, X, RATE), TypeError, "time_axis"),
        (
            lambda: locked_dropout(KEY, X, RATE, time_axis=3),
            ValueError,
            "time_axis=3 is out of range: with 3 axes, -3 to 2",
        ),
        (
            lambda: locked_dropout(KEY, X, RATE, time_axis="t"),
            TypeError,
            "time_axis must be the number of an axis, got 't'",
        ),
        (
            lambda: locked_dropout(KEY, IDS, RATE, time_axis=0),
            TypeError,
            "locked_dropout scales what it keeps",
        ),
        (
            lambda: embedding_dropout(KEY, X, RATE, ids=X),
            TypeError,
            "embedding_dropout takes integers, but ids is .* float32",
        ),
        (
            lambda: embedding_dropout(KEY, X, RATE, ids=IDS),
            ValueError,
            r"the shape of ids, \(8, 16\), but it is \(4, 3, 5\)",
        ),
        (
            lambda: embedding_dropout(KEY, X[0, 0], RATE, ids=IDS),
            ValueError,
            "begin with the shape of ids",
        ),
        (
            lambda: embedding_dropout(KEY, IDS, RATE, ids=IDS),
            TypeError,
            "embedding_dropout scales what it keeps",
        ),
        (
            lambda: embedding_dropout(KEY, TABLE[IDS], RATE, ids=IDS, time_axis=2),
            ValueError,
            "time_axis=2 is out of range",
        ),
        (
            lambda: embedding_dropout(None, TABLE[IDS], RATE, ids=IDS),
            ValueError,
            "embedding_dropout is stochastic here",
        ),
        (
            lambda: embedding_dropout(jax.random.key(0, impl="rbg"), TABLE[IDS], RATE, ids=IDS),
            NotImplementedError,
            r"jaxdrop.random.fast\(key\)",
        ),
        (
            lambda: word_dropout(KEY, X, RATE, replacement=0),
            TypeError,
            "word_dropout takes integers, but ids is .* float32",
        ),
        (lambda: word_dropout(KEY, IDS, RATE), TypeError, "replacement"),
        (
            lambda: word_dropout(KEY, IDS, RATE, replacement=0.5),
            TypeError,
            "replacement must be an integer, got 0.5",
        ),
        (
            lambda: word_dropout(KEY, IDS, RATE, replacement=0, protected=3),
            TypeError,
            "protected must be a sequence .*, got 3",
        ),
        (
            lambda: word_dropout(KEY, None, RATE, replacement=0),
            TypeError,
            "word_dropout takes an array ids of integers, got None",
        ),
        (
            lambda: word_dropout(KEY, IDS.astype("int8"), RATE, replacement=200),
            ValueError,
            "replacement must be .* int8, which holds -128 to 127, got 200",
        ),
        (
            lambda: word_dropout(None, IDS, RATE, replacement=0),
            ValueError,
            "word_dropout is stochastic here",
        ),
        (lambda: word_dropout(KEY, IDS, 1.5, replacement=0), ValueError, r"\[0, 1\], got 1.5"),
        (
            lambda: zoneout(KEY, X, RATE, previous=X[0]),
            ValueError,
            r"new is float32\[4, 3, 5\], previous is float32\[3, 5\]",
        ),
        (
            lambda: zoneout(KEY, X, RATE, previous=X.astype("bfloat16")),
            ValueError,
            "previous is bfloat16",
        ),
        (lambda: zoneout(KEY, X, RATE), TypeError, "previous"),
        (lambda: zoneout(None, X, RATE, previous=X), ValueError, "zoneout is stochastic here"),
        (
            lambda: zoneout(None, X, RATE, previous=X, deterministic=1),
            TypeError,
            "deterministic must be True or False",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_ids_at_the_ends_of_their_dtype() -> None:
    """A protected number that is no value of the dtype protects nothing."""
    ids = np.array([0, 1, 254, 255], np.uint8)
    for protected, kept in (((0, 255), [0, 7, 7, 255]), ((256, -1), [7] * 4), ((), [7] * 4)):
        y = word_dropout(None, ids, 1.0, replacement=7, protected=protected)
        assert y.dtype == np.uint8
        assert y.tolist() == kept
    wide = word_dropout(None, ids.astype(np.uint32), 1.0, replacement=2**32 - 1)
    assert wide.tolist() == [2**32 - 1] * 4
    for number in (0, 255):
        assert word_dropout(None, ids, 1.0, replacement=number).tolist() == [number] * 4
    for number in (-1, 256):
        with pytest.raises(ValueError, match=f"of dtype uint8, which holds 0 to 255, got {number}"):
            word_dropout(None, ids, 1.0, replacement=number)
