"""Keys and bits: which bits a key draws, whole or in part, and what is not a key."""

from __future__ import annotations

import functools
import math
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import export, lax
from jax.extend.random import threefry2x32_p
from jax.sharding import PartitionSpec as P
from scipy import stats

import jaxdrop
from jaxdrop import _mapped_axes, _variates, random
from jaxdrop.random import _lattices
from jaxdrop.random._positions import Coordinate
from tests.oracles import require

WORD = 2**32

OWN = {
    "hash": jaxdrop.key(3),
    "stratified": jaxdrop.mc.keys(jaxdrop.key(4), 5)[2],
    "antithetic": jaxdrop.mc.keys(jaxdrop.key(5), 4, "antithetic")[3],
}
KEYS = {"threefry": jax.random.key(1), "legacy": jax.random.PRNGKey(2), **OWN}
OTHERS = ("rbg", "unsafe_rbg", "philox4x32")
DTYPES = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}

any_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
own_key = pytest.mark.parametrize("key", OWN.values(), ids=OWN)


def _other(impl: str, seed: int = 0) -> jax.Array:
    try:
        return jax.random.key(seed, impl=impl)
    except ValueError:
        pytest.skip(f"this JAX has no {impl}")


@functools.partial(jax.jit, static_argnames=("shape", "bit_width", "global_shape"))
def _bits(
    key: jax.Array,
    shape: tuple[int, ...],
    bit_width: int = 32,
    origin: tuple[int, ...] | None = None,
    global_shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Compiled: eagerly, each of the many small operations would be compiled on its own."""
    return random.bits(key, shape, bit_width=bit_width, origin=origin, global_shape=global_shape)


@functools.partial(jax.jit, static_argnames="global_shape")
def _bits_at(
    key: jax.Array, coordinates: Sequence[Coordinate], global_shape: tuple[int, ...]
) -> jax.Array:
    return random.bits_at(key, coordinates, global_shape)


def _equal(a: jax.Array, b: jax.Array) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


# -- whole arrays


@any_key
def test_bits_are_those_of_jax(key: jax.Array) -> None:
    shapes = [(), (0,), (3, 0, 2), (1001,), (3, 5, 7), (2, 1, 4, 1)]

    def draw(bits: Callable[..., jax.Array]) -> dict[str, jax.Array]:
        return jax.jit(
            lambda key: {
                f"{shape}, {width}": bits(key, shape, width)
                for shape in shapes
                for width in (8, 16, 32)
            }
        )(key)

    own = draw(lambda key, shape, width: random.bits(key, shape, bit_width=width))
    for case, expected in draw(
        lambda key, shape, width: jax.random.bits(key, shape, DTYPES[width])
    ).items():
        assert own[case].dtype == expected.dtype
        np.testing.assert_array_equal(own[case], expected, err_msg=case)


@pytest.mark.sweep(keep=2)
@any_key
def test_compiled_or_not(key: jax.Array) -> None:
    _equal(random.bits(key, (3, 5)), _bits(key, (3, 5)))


@pytest.mark.sweep(keep=2)
@any_key
def test_64_bits_are_those_of_jax(key: jax.Array) -> None:
    with jax.enable_x64(True):
        _equal(_bits(key, (3, 5), 64), jax.random.bits(key, (3, 5), jnp.uint64))


@pytest.mark.parametrize("impl", OTHERS)
def test_other_generators_draw_their_own_bits(impl: str) -> None:
    key = _other(impl)
    _equal(_bits(key, (3, 5), 16, global_shape=(3, 5)), jax.random.bits(key, (3, 5), jnp.uint16))


@own_key
def test_narrow_bits_are_the_top_bits(key: jax.Array) -> None:
    with jax.enable_x64(True):
        wide = np.asarray(_bits(key, (1000,), 64))
        for bit_width in (8, 16, 32):
            top = (wide >> np.uint64(64 - bit_width)).astype(DTYPES[bit_width])
            np.testing.assert_array_equal(_bits(key, (1000,), bit_width), top)


@any_key
def test_uniform_and_normal_are_those_of_jax(key: jax.Array) -> None:
    bits = _bits(key, (1000,))
    _equal(jax.jit(_variates.uniform)(bits), jax.random.uniform(key, (1000,)))
    _equal(jax.jit(_variates.normal)(bits), jax.random.normal(key, (1000,)))


def test_threefry_does_not_loop() -> None:
    def program(f: Callable[[jax.Array], jax.Array]) -> str:
        return jax.jit(f).lower(KEYS["threefry"]).compile().as_text()

    x = jnp.ones((64, 32))
    assert " while(" in program(lambda key: jax.random.bits(key, (64, 32)))
    assert " while(" not in program(lambda key: random.bits(key, (64, 32)))
    assert " while(" not in program(lambda key: jaxdrop.dropout(key, x, 0.3))
    assert " while(" not in program(
        lambda key: jax.grad(lambda x: jaxdrop.dropout(key, x, 0.3).sum())(x)
    )


# -- parts of arrays


BLOCKS = [
    ((6, 8), (2, 4), (1, 1)),
    ((12,), (3,), (2,)),
    ((4, 3, 6), (1, 3, 2), (3, 0, 2)),
    ((5, 4), (5, 4), (0, 0)),
]


@pytest.mark.sweep(keep=5)
@any_key
@pytest.mark.parametrize(("global_shape", "shape", "origin"), BLOCKS)
def test_a_block_is_a_slice_of_the_whole(
    key: jax.Array, global_shape: tuple[int, ...], shape: tuple[int, ...], origin: tuple[int, ...]
) -> None:
    block = tuple(slice(o * n, (o + 1) * n) for o, n in zip(origin, shape, strict=True))
    part = _bits(key, global_shape)[block]
    fixed = jax.jit(lambda key: random.bits(key, shape, origin=origin, global_shape=global_shape))
    _equal(fixed(key), part)
    _equal(_bits(key, shape, origin=origin, global_shape=global_shape), part)


@pytest.mark.sweep(keep=3)
@any_key
@pytest.mark.parametrize("global_shape", [(1001,), (5, 3, 7)])
def test_any_entries_are_those_of_the_whole(key: jax.Array, global_shape: tuple[int, ...]) -> None:
    whole = np.asarray(_bits(key, global_shape))

    @given(
        st.lists(
            st.tuples(*(st.integers(0, length - 1) for length in global_shape)),
            min_size=4,
            max_size=4,
        )
    )
    def check(places: list[tuple[int, ...]]) -> None:
        axes = tuple(np.array(places, np.uint32).T)
        _equal(_bits_at(key, axes, global_shape), whole[axes])

    check()


@pytest.mark.sweep(keep=2)
@any_key
def test_coordinates_broadcast(key: jax.Array) -> None:
    rows, columns = np.array([[4], [0]], np.uint32), np.array([[1, 6, 2]], np.uint32)
    _equal(_bits_at(key, (rows, columns), (5, 7)), _bits(key, (5, 7))[rows, columns])
    _equal(_bits_at(key, (0 * rows, columns), (1, 8)), _bits(key, (1, 8))[0 * rows, columns])


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("promotion", ["strict", "standard"])
@pytest.mark.parametrize("name", ["threefry", "hash"])
def test_signed_coordinates(name: str, promotion: str) -> None:
    """`jnp.arange` makes int32."""
    key = KEYS[name]
    diagonal = jnp.arange(5)
    with jax.numpy_dtype_promotion(promotion):
        _equal(_bits_at(key, (diagonal, diagonal), (5, 7)), _bits(key, (5, 7))[diagonal, diagonal])


# -- more than 2**32 entries


FAR = [
    ((5, 2**30), [(0, 0), (3, 2**30 - 1), (4, 0), (4, 2**30 - 1)]),
    ((3, 2**33), [(0, WORD - 1), (0, WORD), (1, 0), (2, 2**33 - 1)]),
    ((2**33,), [(WORD - 1,), (WORD,), (2**33 - 1,)]),
    ((2**20, 2**13), [(2**19 - 1, 2**13 - 1), (2**19, 0), (2**20 - 1, 5)]),
    ((2**13, 3, 2**20), [(1365, 0, 2**20 - 1), (1365, 1, 0), (2**13 - 1, 2, 7)]),
    ((2**33 + 1, 2, 2**20), [(2**33, 1, 2**20 - 1), (5, 0, 0)]),
]


def _coordinates(
    places: list[tuple[int, ...]], global_shape: tuple[int, ...]
) -> list[np.ndarray | tuple[np.ndarray, np.ndarray]]:
    axes = [np.array(axis, np.uint64) for axis in zip(*places, strict=True)]
    words = [((axis >> np.uint64(32)).astype(np.uint32), axis.astype(np.uint32)) for axis in axes]
    return [
        pair if length > WORD else pair[1] for pair, length in zip(words, global_shape, strict=True)
    ]


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(("global_shape", "places"), FAR)
def test_threefry_counts_past_one_word(
    global_shape: tuple[int, ...], places: list[tuple[int, ...]]
) -> None:
    position = np.zeros(len(places), np.uint64)
    for axis, length in zip(zip(*places, strict=True), global_shape, strict=True):
        position = position * np.uint64(length) + np.array(axis, np.uint64)
    data = jax.random.key_data(KEYS["threefry"])
    high, low = threefry2x32_p.bind(
        *jnp.broadcast_to(data[:, None], (2, len(places))),
        jnp.asarray((position >> np.uint64(32)).astype(np.uint32)),
        jnp.asarray(position.astype(np.uint32)),
    )
    _equal(_bits_at(KEYS["threefry"], _coordinates(places, global_shape), global_shape), high ^ low)


@pytest.mark.sweep(keep=3)
@any_key
@pytest.mark.parametrize(
    ("global_shape", "origin"),
    [((3, 2**33), (2, 2**29 - 1)), ((5, 2**30), (3, 77)), ((2**33,), (2**28 + 3,))],
)
def test_a_far_block_is_made_of_far_entries(
    key: jax.Array, global_shape: tuple[int, ...], origin: tuple[int, ...]
) -> None:
    shape = (1,) * (len(global_shape) - 1) + (16,)
    places = [(*origin[:-1], origin[-1] * 16 + i) for i in range(16)]
    block = _bits(key, shape, origin=origin, global_shape=global_shape)
    _equal(block.reshape(16), _bits_at(key, _coordinates(places, global_shape), global_shape))


@pytest.mark.sweep(keep=3)
@any_key
@pytest.mark.parametrize("global_shape", [(3, 2**31), (2**33,)])
def test_a_slice_of_a_far_array_is_made_of_far_entries(
    key: jax.Array, global_shape: tuple[int, ...]
) -> None:
    last = (
        jax.jit(lambda key: random.bits(key, global_shape)[..., -5:].reshape(-1)[-5:])
        .lower(key)
        .compile()
    )
    assert last.memory_analysis().temp_size_in_bytes < 2**16
    places = [
        (*(length - 1 for length in global_shape[:-1]), global_shape[-1] - 5 + i) for i in range(5)
    ]
    _equal(last(key), _bits_at(key, _coordinates(places, global_shape), global_shape))


@pytest.mark.sweep(keep=2)
@any_key
def test_symbolic_lengths_count_as_far(key: jax.Array) -> None:
    """Entries of arrays of 2**37 and of 4096 entries, whose lengths are symbols for `jax.export`:
    those of known lengths.
    """

    def draw(x: jax.Array, places: Sequence[jax.Array]) -> list[jax.Array]:
        b, c = x.shape
        far = random.bits_at(key, places, (2, b * 2**16, c * 2**18))
        return [
            far,
            random.bits_at(key, (places[0], jnp.zeros_like(places[0]), places[1] % 8), (2, b, c)),
            random.bits(key, x.shape),
        ]

    places = [
        jnp.asarray(place, jnp.uint32)
        for place in ([0, 1, 1, 1], [5, 0, 2**18 - 1, 77], [9, 2**19, 2**18 + 3, 0])
    ]
    x = jnp.zeros((4, 2))
    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("b, c"), x.dtype)
    for found, expected in zip(
        export.export(jax.jit(draw))(symbolic, places).call(x, places), draw(x, places), strict=True
    ):
        _equal(found, expected)


@own_key
def test_layers_of_flax_export_with_a_symbolic_batch(key: jax.Array) -> None:
    call = jax.jit(
        lambda x: nn.Dropout(0.5, deterministic=False).apply({}, x, rngs={"dropout": key})
    )
    exported = export.export(call)(jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), jnp.float32))
    _equal(exported.call(jnp.ones((4, 8))), call(jnp.ones((4, 8))))


def test_exported_functions_are_files_of_a_seed_or_of_words() -> None:
    """A file holds no key of a library's generator."""
    require("flatbuffers")
    x = jnp.ones((4, 8))
    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), x.dtype)
    for argument, make in (
        (jnp.uint32(3), jaxdrop.key),
        (random.unwrap_keys(jaxdrop.key(3)), lambda words: random.wrap_keys(words, jaxdrop.key(0))),
    ):
        call = jax.jit(lambda argument, x, make=make: jaxdrop.dropout(make(argument), x, 0.5))
        file = export.export(call)(
            jax.ShapeDtypeStruct(argument.shape, argument.dtype), symbolic
        ).serialize()
        _equal(export.deserialize(file).call(argument, x), jaxdrop.dropout(jaxdrop.key(3), x, 0.5))


@pytest.mark.sweep
def test_a_mask_of_more_entries_than_a_word_counts() -> None:
    """Of each of three rows of 2**31 entries, every 2047th is looked at: half of them are kept, to
    5 sigma, which errs once in 500,000 rows; no row is like another. XLA forms no other entry.
    """

    @jax.jit
    def kept(key: jax.Array) -> jax.Array:
        return (jaxdrop.dropout(key, jnp.ones((3, 2**31)), 0.5) > 0)[:, ::2047]

    compiled = kept.lower(OWN["hash"]).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**16
    rows = np.asarray(compiled(OWN["hash"]))
    half = rows.shape[1] / 2
    assert np.abs(rows.sum(1) - half).max() < 5 * np.sqrt(half / 2)
    for index in range(3):
        assert abs(np.mean(rows[index] == rows[index - 1]) - 0.5) < 5 * np.sqrt(0.25 / (2 * half))


def test_a_loop_over_keys_stores_no_positions() -> None:
    """XLA moves what does not change out of a loop, and would keep four bytes for each entry of
    each shape there is.
    """
    shape = (16, 128, 128)

    @jax.jit
    def total(keys: jax.Array) -> jax.Array:
        def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            places = [lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(3)]
            return (
                total ^ random.bits(key, shape) ^ random.bits_at(key, places, (2**9, 2**9, 2**9)),
                None,
            )

        return lax.scan(add, jnp.zeros(shape, jnp.uint32), keys)[0]

    memory = total.lower(jax.random.split(OWN["hash"], 3)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * math.prod(shape)


# -- this library's keys under JAX's transformations and functions


@own_key
def test_jax_draws_from_the_key(key: jax.Array) -> None:
    """Each p-value would be below 1e-6 once in a million keys."""
    uniform = np.asarray(jax.random.uniform(key, (100_000,)))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-6
    assert stats.kstest(np.asarray(jax.random.normal(key, (100_000,))), "norm").pvalue > 1e-6
    assert (
        stats.binomtest(int(jax.random.bernoulli(key, 0.3, (100_000,)).sum()), 100_000, 0.3).pvalue
        > 1e-6
    )
    assert sorted(jax.random.permutation(key, 100).tolist()) == list(range(100))
    assert jax.random.permutation(key, 100).tolist() != list(range(100))


@pytest.mark.sweep(keep=1)
@own_key
def test_split_is_fold_in(key: jax.Array) -> None:
    children = jax.random.split(key, (2, 3))
    assert jax.random.key_impl(children) == jax.random.key_impl(key)
    folded = [jax.random.fold_in(key, i) for i in range(6)]
    _equal(jax.random.key_data(children.reshape(6)), jax.random.key_data(jnp.stack(folded)))
    _equal(jax.random.key_data(jax.random.split(key, 6)), jax.random.key_data(children.reshape(6)))


@own_key
def test_transformations_do_not_change_bits(key: jax.Array) -> None:
    def draw(key: jax.Array) -> jax.Array:
        return random.bits(key, (3, 5))

    keys = jax.random.split(key, 4)
    loop = jnp.stack([_bits(child, (3, 5)) for child in keys])
    _equal(jax.jit(jax.vmap(draw))(keys), loop)
    _equal(jax.lax.map(draw, keys), loop)
    _equal(jax.lax.scan(lambda carry, key: (carry, draw(key)), 0, keys)[1], loop)


@own_key
def test_a_key_may_be_carried(key: jax.Array) -> None:
    def step(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        key, use = jax.random.split(key)
        return key, _bits(use, (4,))

    last, drawn = jax.lax.scan(step, key, length=3)
    for row in drawn:
        key, expected = step(key, None)
        _equal(row, expected)
    _equal(jax.random.key_data(last), jax.random.key_data(key))


@own_key
def test_children_do_not_repeat_their_parent(key: jax.Array) -> None:
    family = jnp.stack(
        [key, *jax.random.split(key, 3), jax.random.fold_in(jax.random.fold_in(key, 0), 0)]
    )
    bits = np.asarray(jax.jit(jax.vmap(lambda key: random.bits(key, (8,))))(family))
    assert len(np.unique(bits)) == bits.size


def test_seeds() -> None:
    """Their words are those of JAX's own keys."""
    assert jax.random.key_data(jaxdrop.key(5)).tolist() == [0, 5]
    assert jax.jit(lambda seed: jax.random.key_data(jaxdrop.key(seed)))(5).tolist() == [0, 5]
    for seed in (
        -1,
        2**32 + 1,
        -(2**63),
        2**63 - 1,
        np.int64(-5),
        np.uint64(2**63),
        jnp.int8(-1),
        np.asarray(7),
    ):
        for wide in (False, True):
            with jax.enable_x64(wide):
                _equal(
                    jax.random.key_data(jaxdrop.key(seed)),
                    jax.random.key_data(jax.random.key(seed)),
                )
    with jax.enable_x64(True):
        assert jax.random.key_data(jaxdrop.key(3 * WORD + 5)).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (1.5, TypeError, "seed must be an integer, or an array of one integer, got 1.5"),
        (None, TypeError, "got None"),
        ("7", TypeError, "got '7'"),
        (jnp.float32(1), TypeError, "got float32 1.0"),
        (np.arange(2), TypeError, "got an array of int64[2]"),
        (KEYS["threefry"], TypeError, "got a key. jaxdrop.random.fast(key)"),
        (2**63, ValueError, "seed must lie in [-2**63, 2**63), got 9223372036854775808"),
    ],
)
def test_bad_seeds(seed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        jaxdrop.key(seed)


def test_legacy_keys_are_of_the_default_generator() -> None:
    raw = jax.random.PRNGKey(3)
    _equal(random.bits(raw, (4,)), random.bits(jax.random.key(3), (4,)))
    with jax.default_prng_impl("rbg"):
        _equal(random.bits(jax.random.PRNGKey(3), (4,)), jax.random.bits(jax.random.key(3), (4,)))
        _equal(random.bits(raw, (4,)), random.bits(jax.random.key(3, impl="threefry2x32"), (4,)))


@own_key
def test_keys_survive_pickling_and_their_data(key: jax.Array) -> None:
    rebuilt = jax.random.wrap_key_data(jax.random.key_data(key), impl=jax.random.key_impl(key))
    for copy in (rebuilt, pickle.loads(pickle.dumps(key))):
        assert copy.dtype == key.dtype
        _equal(_bits(copy, (4,)), _bits(key, (4,)))


def test_nnx_streams_hold_the_key() -> None:
    rngs = nnx.Rngs(dropout=OWN["hash"])
    for count in range(3):
        _equal(
            jax.random.key_data(rngs.dropout()),
            jax.random.key_data(jax.random.fold_in(OWN["hash"], count)),
        )


def test_linen_makes_keys_of_its_kind() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self) -> tuple[jax.Array, jax.Array]:
            return self.make_rng("dropout"), self.make_rng("dropout")

    first, second = Model().apply({}, rngs={"dropout": OWN["hash"]})
    assert first.dtype == second.dtype == OWN["hash"].dtype
    assert not np.array_equal(_bits(first, (8,)), _bits(second, (8,)))


# -- fast


@pytest.mark.parametrize("impl", ["threefry2x32", "legacy", *OTHERS])
def test_fast(impl: str) -> None:
    keys = jax.random.split(jax.random.PRNGKey(0) if impl == "legacy" else _other(impl), 6)
    fast = jax.jit(random.fast)
    made = fast(keys)
    assert made.shape == (6,)
    assert made.dtype == jaxdrop.key(0).dtype
    grid = fast(keys.reshape(2, 3, *keys.shape[1:])).reshape(6)
    alone = jnp.stack([fast(key) for key in keys])
    for same in (grid, alone, jax.jit(jax.vmap(random.fast))(keys)):
        _equal(jax.random.key_data(same), jax.random.key_data(made))
    drawn = jax.jit(lambda keys: jax.vmap(lambda key: jax.random.bits(key, (50,)))(keys))
    bits = np.concatenate([drawn(made), drawn(keys)])
    assert len(np.unique(bits)) == bits.size


def test_keys_of_samples_by_their_names() -> None:
    """`jax.random.key` makes that of an only sample."""
    for name, rest in (("s", _lattices.points(1)[0].tolist()), ("a", [0])):
        key = jax.random.key(7, impl=f"jaxdrop-{name}")
        assert jax.random.key_data(key).tolist() == [0, 7, *rest]
        uniform = np.asarray(jax.random.uniform(key, (10_000,)))
        assert stats.kstest(uniform, "uniform").pvalue > 1e-6
        with pytest.raises(TypeError, match="a seed must be an integer, got float32"):
            jax.random.key(1.5, impl=f"jaxdrop-{name}")


def test_fast_makes_the_keys_that_it_always_made() -> None:
    for impl, words in (
        ("threefry2x32", [3837132879, 1710134006]),
        ("rbg", [3290041557, 626173352]),
    ):
        found = jax.random.key_data(random.fast(jax.random.key(7, impl=impl)))
        assert found.tolist() == words


@own_key
def test_fast_leaves_own_keys_alone(key: jax.Array) -> None:
    assert random.fast(key) is key


def test_fast_keys_are_as_different_as_the_originals() -> None:
    """One bit of a raw word makes another key; 4096 keys of 64 bits are all different, but for a
    chance of 1e-12.
    """
    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)
    data = np.concatenate(
        [np.zeros(1, np.uint64), bit, np.arange(4031, dtype=np.uint64) + np.uint64(3 * WORD)]
    )
    made = jax.random.key_data(jax.jit(random.fast)(data.view(np.uint32).reshape(-1, 2)))
    assert len(np.unique(np.asarray(made), axis=0)) == len(made)


# -- fold_in_axes


def _index_data(axis_names: str | tuple[str, ...]) -> jax.Array:
    return jax.random.key_data(random.fold_in_axes(KEYS["threefry"], axis_names))


def _folded(count: int) -> jax.Array:
    return jax.random.key_data(
        jax.vmap(functools.partial(jax.random.fold_in, KEYS["threefry"]))(jnp.arange(count))
    )


@pytest.mark.parametrize(
    ("axis_names", "count"), [("a", 4), ("b", 2), (("a", "b"), 8), (("b", "a"), 8)]
)
def test_fold_in_axes_in_shard_map(axis_names: str | tuple[str, ...], count: int) -> None:
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    f = jax.shard_map(
        lambda: _index_data(axis_names)[None],
        mesh=mesh,
        in_specs=(),
        out_specs=P(axis_names),
        check_vma=True,
    )
    _equal(jax.jit(f)(), _folded(count))


def test_fold_in_axes_in_pmap_and_vmap() -> None:
    _equal(jax.pmap(lambda _: _index_data("i"), axis_name="i")(jnp.zeros(8)), _folded(8))
    _equal(jax.vmap(lambda _: _index_data("i"), axis_name="i")(jnp.zeros(3)), _folded(3))
    nested = jax.vmap(
        lambda _: jax.vmap(lambda _: _index_data(("i", "j")), axis_name="j")(jnp.zeros(3)),
        axis_name="i",
    )
    _equal(nested(jnp.zeros(2)).reshape(6, 2), _folded(6))


@pytest.mark.parametrize("axis_names", ["i", ("i", "j")])
def test_fold_in_axes_without_such_an_axis(axis_names: str | tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{axis_names!r}, which is not a mapped axis here")
    ):
        random.fold_in_axes(jaxdrop.key(0), axis_names)


# -- errors


TAKES_ONE_KEY: dict[str, Callable[[jax.Array], object]] = {
    "bits": lambda key: random.bits(key, (2,)),
    "bits_at": lambda key: random.bits_at(key, (jnp.arange(2, dtype=jnp.uint32),), (3,)),
    "dropout": lambda key: jaxdrop.dropout(key, jnp.ones(2), 0.5),
    "keys": lambda key: jaxdrop.mc.keys(key, 3),
    "fold_in_axes": lambda key: jax.vmap(lambda _: random.fold_in_axes(key, "i"), axis_name="i")(
        jnp.zeros(2)
    ),
}

takes_one_key = pytest.mark.parametrize("name", TAKES_ONE_KEY)


@takes_one_key
def test_no_key(name: str) -> None:
    way = (
        "is stochastic here and needs a key, but key is None.*1\\. .*2\\. .*3\\. "
        if name == "dropout"
        else "needs a key, but key is None. Pass"
    )
    with pytest.raises(ValueError, match=f"(?s)^{name} {way}"):
        TAKES_ONE_KEY[name](None)


@takes_one_key
@pytest.mark.parametrize(
    ("key", "said"),
    [
        (0, "0"),
        ("a", "'a'"),
        ([0, 1], r"\[0, 1\]"),
        (jnp.ones(2), r"an array of float32\[2\]"),
        (jnp.arange(2), r"an array of int32\[2\]"),
        (np.zeros(3, np.uint32), r"an array of uint32\[3\]"),
        (jnp.uint32(0), "uint32 0"),
    ],
)
def test_not_a_key(name: str, key: object, said: str) -> None:
    with pytest.raises(
        TypeError, match=f"key must be a JAX PRNG key, such as jaxdrop.key.*, but it is {said}"
    ):
        TAKES_ONE_KEY[name](key)


@takes_one_key
@pytest.mark.parametrize(
    "keys", [jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.PRNGKey(0), 3)]
)
def test_an_array_of_keys(name: str, keys: jax.Array) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^{name} takes a single key, but key is an array of keys of shape \(3,\).*vmap",
    ):
        TAKES_ONE_KEY[name](keys)


@pytest.mark.parametrize("key", [None, 0, jnp.ones(2)])
def test_fast_of_what_is_not_a_key(key: object) -> None:
    with pytest.raises(TypeError, match=r"key must be a JAX PRNG key"):
        random.fast(key)


def _asks_for_a_part(key: jax.Array) -> None:
    """A part of an array in three ways; the message names every way out."""
    for draw in (
        lambda: random.bits(key, (1, 5), origin=(1, 0), global_shape=(3, 5)),
        lambda: random.bits(key, (1, 5), global_shape=(3, 5)),
        lambda: random.bits_at(key, (jnp.uint32(1), jnp.uint32(2)), (3, 5)),
    ):
        with pytest.raises(
            NotImplementedError, match=r"whole arrays only.*fast\(key\).*fold_in_axes"
        ):
            draw()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("impl", OTHERS)
def test_no_random_access(impl: str) -> None:
    _asks_for_a_part(_other(impl))
    random.bits(random.fast(_other(impl)), (1, 5), origin=(1, 0), global_shape=(3, 5))


def test_threefry_that_is_not_partitionable() -> None:
    key = KEYS["threefry"]
    partitionable = _bits(key, (3, 5))
    with jax.threefry_partitionable(False):
        _equal(random.bits(key, (3, 5)), jax.random.bits(key, (3, 5)))
        kept = jaxdrop.dropout(key, jnp.ones((3, 5)), 0.5) > 0
        _equal(kept, jax.random.bernoulli(key, 0.5, (3, 5)))
        assert not np.array_equal(random.bits(key, (3, 5)), partitionable)
        _asks_for_a_part(key)


@pytest.mark.parametrize("bit_width", [7, 0, 128, "32"])
def test_bit_width(bit_width: int) -> None:
    for draw in (
        random.bits,
        lambda key, shape, **how: random.bits_at(key, (jnp.uint32(0),), shape, **how),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=f"bit_width must be .*, got {bit_width!r}"
        ):
            draw(jaxdrop.key(0), (2,), bit_width=bit_width)


def test_64_bits_need_64_bit_integers() -> None:
    with pytest.raises(ValueError, match="jax_enable_x64"):
        random.bits(jaxdrop.key(0), (2,), bit_width=64)


def test_one_coordinate_for_each_axis() -> None:
    with pytest.raises(
        ValueError,
        match=r"coordinates must be one array for each axis of global_shape=\(3, 4\), got 1",
    ):
        random.bits_at(jaxdrop.key(0), (jnp.uint32(1),), (3, 4))


@pytest.mark.parametrize(
    ("draw", "error", "says"),
    [
        (lambda key: random.bits(key, (2, 3), global_shape=(2,)), ValueError, "0, 2 of them, got"),
        (lambda key: random.bits(key, (2, -1)), ValueError, "shape must be lengths of at least 0"),
        (lambda key: random.bits(key, (2, 3), origin=(1,)), TypeError, "origin must be 2 integers"),
        (lambda key: random.bits(key, (2, 3), origin=3), TypeError, "origin must be 2 integers"),
        (lambda key: random.bits(key, (2,), sharding=P("a")), TypeError, "must be a jax.sharding"),
        (lambda key: random.bits_at(key, "ab", (3, 4)), TypeError, "sequence of integer arrays"),
        (lambda key: random.bits_at(key, 3, (3, 4)), TypeError, "sequence of integer arrays"),
    ],
)
def test_bad_places(draw: Callable[[jax.Array], object], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        draw(jaxdrop.key(0))


def test_names_of_mapped_axes_and_their_size() -> None:
    """Of some axes of a layout, which may leave out the last ones."""
    spec, found = P(("i", "j"), None, "k"), {}

    def look(_: jax.Array) -> jax.Array:
        for axes in ((0,), (1,), (2,), (3,), (0, 1, 2), (2, 0), ()):
            found[axes] = _mapped_axes.names_and_size(spec, axes)
        return jnp.zeros(())

    mapped = look
    for name in "ijk":
        mapped = jax.vmap(mapped, axis_name=name)
    jax.eval_shape(mapped, jnp.zeros((5, 3, 2)))  # the outermost is k
    assert found == {
        (0,): (("i", "j"), 6),
        (1,): ((), 1),
        (2,): (("k",), 5),
        (3,): ((), 1),
        (0, 1, 2): (("i", "j", "k"), 30),
        (2, 0): (("k", "i", "j"), 30),
        (): ((), 1),
    }
    assert _mapped_axes.names_and_size(None, (0,)) == ((), 1)
