"""Random subsets of exactly k of n members: their distribution, how entries move, and layouts."""

from __future__ import annotations

import itertools
import math
import re
import typing
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import subsets
from jaxdrop._in_full import in_full
from tests import statistics
from tests.compilation import quick

P = PartitionSpec
KEY = jaxdrop.key(5)
SIZE = 48
COLLECTIVES = re.compile("all-gather|all-reduce|all-to-all|reduce-scatter|collective")
CASES: list[dict[str, Any]] = [
    {"rate": 0.5},
    {"rate": 0.3, "groups": 8},
    {"rate": 0.5, "pattern": "block", "block_size": 3},
    {"rate": 0.5, "pattern": "block", "block_size": 3, "groups": 8},
    {"rate": 0.3, "pattern": "slice"},
    {"rate": 0.6, "pattern": "slice", "groups": 8},
]
WHOLE = r"groups=4 cannot be divided over the 8 devices of \('d',\)"
KEEP_ALL_BUT_ONE = {"rate": 1 / SIZE}
KEEP_ONE = {"rate": 0.99, "pattern": "slice"}


def mask_of(kept: subsets.Subset) -> jax.Array:
    """For each entry of the axis, whether it is kept."""
    keep = (kept.ranks < kept.indices.shape[-1]).ravel()
    return jnp.repeat(keep, SIZE // keep.size)


def test_entries_move_as_under_a_mask() -> None:
    """Values, gradients, tangents, and Hessian-vector products."""
    x = np.random.default_rng(0).normal(size=(2, SIZE, 3)).astype(np.float32)

    def moved(kept: subsets.Subset, x: jax.Array) -> jax.Array:
        inner = jnp.sin(jnp.float32(kept.scale) * kept.gather(x, axis=-2))
        return jnp.cos(kept.scatter(inner, axis=-2))

    def masked(kept: subsets.Subset, x: jax.Array) -> jax.Array:
        keep = jnp.expand_dims(mask_of(kept), (*range(x.ndim - 2), x.ndim - 1))
        return jnp.cos(jnp.where(keep, jnp.sin(jnp.float32(kept.scale) * x), 0))

    @quick
    def all_of_them(key: jax.Array, x: jax.Array) -> Any:
        found = []
        for case in (*CASES, KEEP_ALL_BUT_ONE, KEEP_ONE):
            kept = subsets.draw(key, SIZE, **case)

            def both(f: Any, kept: subsets.Subset = kept) -> Any:
                loss = jax.grad(lambda x: (f(kept, x) ** 2).sum())
                value, tangent = jax.jvp(lambda x: f(kept, x), (x,), (x,))
                return value, tangent, *jax.jvp(loss, (x,), (x,)), jax.vmap(f, (None, 0))(kept, x)

            found.append((kept, mask_of(kept), both(moved), both(masked)))
        return found

    every = (each for seed in range(4) for each in all_of_them(jaxdrop.key(seed), x))
    for kept, keep, *results in every:
        ranks, indices = np.asarray(kept.ranks), np.asarray(kept.indices)
        assert int(keep.sum()) * kept.scale == pytest.approx(SIZE)
        for rank, index in zip(ranks, indices, strict=True):
            np.testing.assert_array_equal(np.flatnonzero(rank < index.size), index)
            np.testing.assert_array_equal(rank[index], np.arange(index.size))
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_several_axes_are_those_one_after_the_other() -> None:
    """Axes side by side and apart: values, tangents, gradients."""
    x = np.random.default_rng(0).normal(size=(SIZE, 2, SIZE, SIZE)).astype(np.float32)

    @quick
    def all_of_them(x: jax.Array) -> Any:
        found = []
        for axes, cases in (
            ((2, 3), (1, 2)),
            ((3, 0), (3, 0)),
            ((0, 2, 3), (0, 3, 1)),
            ((3, 2), (2, 0)),
            ((2, 3), (0, 4)),
        ):
            kept = {
                axis: subsets.draw(jax.random.fold_in(KEY, axis), SIZE, **CASES[case])
                for axis, case in zip(axes, cases, strict=True)
            }

            def apart(x: jax.Array, kept: Any = kept) -> jax.Array:
                for axis, one in kept.items():
                    x = one.gather(x, axis)
                return x

            def at_once(x: jax.Array, kept: Any = kept) -> jax.Array:
                return subsets.gather_axes(kept, x)

            def everything(f: Any) -> Any:
                y, back = jax.vjp(f, x)
                return y, *back(y), jax.jvp(f, (x,), (x,))[1], f(x > 0)

            found.append((everything(apart), everything(at_once)))
        return found

    for one, other in all_of_them(x):
        chex.assert_trees_all_equal(one, other)


def test_axes_of_one_array_are_named_once_and_consist_of_members() -> None:
    x = np.arange(48.0, dtype=np.float32).reshape(8, 6)
    one, other = (subsets.draw(KEY, size, 0.5) for size in x.shape)
    expected = other.gather(one.gather(jnp.asarray(x)), 1)
    for kept in ({0: one, 1: other}, {-2: one, 1: other}, {0: one, -1: other}):
        np.testing.assert_array_equal(subsets.gather_axes(kept, x), expected)
    with pytest.raises(ValueError, match=r"more than one subset for an axis: \[1, -1\]"):
        subsets.gather_axes({1: other, -1: other}, x)
    with pytest.raises(ValueError, match="axis=2 is out of range"):
        subsets.gather_axes({0: one, 2: other}, x)
    with pytest.raises(ValueError, match="7 entries along axis 1, which are not 1 groups of 6"):
        subsets.gather_axes({0: one, 1: other}, jnp.ones((8, 7)))
    with pytest.raises(ValueError, match="7 entries along axis 1, which are not 1 groups of 6"):
        subsets.dropped(other, jnp.ones((8, 7)), -1)


def test_axes_that_are_divided_by_groups_stay_divided() -> None:
    kept = {0: subsets.draw(KEY, 4, 0.5), 1: subsets.draw(KEY, 8, 0.5, groups=2)}
    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))
    layout = NamedSharding(mesh, PartitionSpec(None, "device"))
    x = jax.device_put(jnp.ones((4, 8)), layout)
    y = jax.jit(lambda x: subsets.gather_axes(kept, x))(x)
    assert y.sharding.is_equivalent_to(layout, 2)


def test_no_derivative_scatters() -> None:
    """Nor updates a slice: each is one pass over its result."""
    for case in CASES:

        def loss(x: jax.Array, case: dict[str, Any] = case) -> jax.Array:
            kept = subsets.draw(KEY, SIZE, **case)
            return jnp.sin(kept.scatter(jnp.sin(kept.gather(x)))).sum()

        program = jax.jit(jax.grad(loss)).lower(jnp.ones((SIZE, 2))).as_text()
        assert "gather" in program or "dynamic_slice" in program
        assert "scatter" not in program
        assert "dynamic_update_slice" not in program


def test_integers_and_booleans_move_too() -> None:
    kept = subsets.draw(KEY, SIZE, 0.5)
    numbers = jnp.arange(SIZE)

    @quick
    @jax.grad
    def gradient(x: jax.Array) -> jax.Array:
        there = kept.scatter(kept.gather(numbers > 0))
        return (x * jnp.where(there, kept.scatter(kept.gather(numbers)), 0).astype(x.dtype)).sum()

    expected = np.where(mask_of(kept), numbers, 0)
    np.testing.assert_array_equal(gradient(jnp.ones(SIZE)), expected)


@pytest.mark.parametrize("key", [jaxdrop.key(1), jax.random.key(1)], ids=["hash", "threefry"])
def test_all_subsets_are_equally_likely(key: jax.Array) -> None:
    """Ideal subsets fail with a probability of 4e-6."""
    size, kept, samples = 6, 3, 2**13
    keys = jax.random.split(key, samples)

    @quick
    @jax.vmap
    def chosen(key: jax.Array) -> Any:
        slices = subsets.draw(jax.random.fold_in(key, 1), size, 0.5, pattern="slice").starts
        return subsets.draw(key, (2, 2 * size), 0.5, groups=2).indices, slices

    indices, starts = (np.asarray(each) for each in chosen(keys))
    every = list(itertools.combinations(range(size), kept))
    code = np.zeros(2**size, np.int64)
    code[[sum(2**at for at in each) for each in every]] = np.arange(len(every))
    numbers = code[(2**indices).sum(-1)].reshape(samples, 4)  # of rows and groups
    counts = [np.bincount(column, minlength=len(every)) for column in numbers.T]
    assert min(statistics.chi_square(count, samples / len(every)) for count in counts) > 1e-6
    assert statistics.chi_square(np.bincount(starts.ravel()), samples / size) > 1e-6
    pairs = np.bincount(numbers[:, 0] * len(every) + numbers[:, 1], minlength=len(every) ** 2)
    assert statistics.chi_square(pairs, samples / len(every) ** 2) > 1e-6
    assert len(every) == math.comb(size, kept)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_whole_groups_need_no_communication(kind: AxisType) -> None:
    """On eight devices the subset is that of one, under `jit` and under `shard_map`."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    x = np.random.default_rng(0).normal(size=(SIZE, 3)).astype(np.float32)
    layout = NamedSharding(mesh, P("d"))

    def value_and_gradient(x: jax.Array, key: jax.Array, **more: Any) -> Any:
        found = []
        for case in CASES:
            if "groups" in case:

                def through(x: jax.Array, case: dict[str, Any] = case) -> jax.Array:
                    kept = subsets.draw(key, x.shape[0], **case, **more)
                    return kept.scatter(jnp.sin(kept.gather(x)))

                y, pull = jax.vjp(through, x)
                found += [y, pull(x)[0]]
        return found

    expected = quick(value_and_gradient)(x, KEY)
    divided = jax.device_put(x, layout)
    local = jax.shard_map(
        lambda x, key: value_and_gradient(x, key, spec=P("d")),
        mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"),
    )  # fmt: skip
    for f in (value_and_gradient, local):
        with jax.set_mesh(mesh):
            compiled = quick(f, out_shardings=layout).lower(divided, KEY).compile()
        assert not COLLECTIVES.search(compiled.as_text())
        for one, other in zip(compiled(divided, KEY), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "must be below 1"),
        ({"rate": 0.01}, "rate=0.01 drops nothing: of 48 members"),
        ({"rate": 0.0}, "rate=0 drops nothing"),
        ({"groups": 5}, "groups=5 do not divide 48 entries into equal groups"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"pattern": "block"}, "do not divide 48 entries .* of blocks of block_size=128"),
        ({"pattern": "units"}, "pattern must be one of"),
        ({"shape": (2, 0)}, "shape must end in a length of at least 1"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subsets.draw(KEY, **({"shape": SIZE, "rate": 0.5} | options))


def test_bad_moves() -> None:
    kept = subsets.draw(KEY, SIZE, 0.5)
    with pytest.raises(ValueError, match="x has 47 entries along axis 0"):
        kept.gather(jnp.ones(47))
    with pytest.raises(ValueError, match="axis=2 is out of range"):
        kept.gather(jnp.ones(48), axis=2)
    with pytest.raises(ValueError, match=r"subsets of shape .*vmap"):
        subsets.draw(KEY, (3, SIZE), 0.5).gather(jnp.ones(48))
    with pytest.raises(TypeError, match=r"jax.jit\(f, static_argnames='rate'\)"):
        jax.eval_shape(lambda rate: subsets.draw(KEY, SIZE, rate), 0.5)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    divided = jax.device_put(np.ones(SIZE), NamedSharding(mesh, P("d")))
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match=WHOLE),
    ):
        subsets.draw(KEY, SIZE, 0.5, groups=4).gather(divided)
    local = jax.shard_map(
        lambda key: subsets.draw(key, SIZE // 8, 0.5, groups=4, spec=P("d")).ranks,
        mesh=mesh, in_specs=P(), out_specs=P("d"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=WHOLE):
        jax.eval_shape(local, KEY)


def test_of_equal_words_the_first_are_the_smallest() -> None:
    """Exactly as many are kept, whatever the words: all of five digits from 0 to 2."""
    words = np.stack(np.meshgrid(*[np.arange(3, dtype=np.uint32)] * 5), -1).reshape(-1, 5)
    order = np.argsort(words, axis=-1, kind="stable")
    for kept in range(1, 6):
        found = subsets.smallest(jnp.asarray(words), kept)
        chosen = np.sort(order[:, :kept], axis=-1)
        np.testing.assert_array_equal(found.indices, chosen)
        ranks = np.full(words.shape, kept)
        np.put_along_axis(ranks, chosen, np.arange(kept)[None], -1)
        np.testing.assert_array_equal(found.ranks, ranks)


def test_defaults() -> None:
    """One group, of units; blocks of 128."""
    assert subsets.number_kept(256, 0.25) == (256, 192)
    assert subsets.number_kept(1024, 0.25, pattern="block") == (8, 6)
    assert subsets.draw(KEY, 1024, 0.25, pattern="block").ranks.shape == (1, 8)
    with pytest.raises(ValueError, match="drops nothing: of 1 members"):
        subsets.draw(KEY, 1, 0.5)


@pytest.mark.parametrize("sorts", [False, True])
def test_numbers_have_32_bits_with_jax_enable_x64_too(sorts: bool) -> None:
    """Of members, tokens and layers."""
    x = jnp.ones((2, 12, 3))

    def found() -> Any:
        for pattern in typing.get_args(subsets.Pattern):
            kept = subsets.draw(KEY, (2, 12), 0.5, pattern=pattern, block_size=3)
            yield kept, kept.places(x, 1)
        for options in ({}, {"ordered": False}, {"deterministic": True}):
            yield jaxdrop.token_dropout(KEY, x, 0.5, num_prefix_tokens=1, **options)[1]
        for rate in (0.0, 0.5):
            yield jaxdrop.layer_subset(KEY, [rate] * 4)
        jaxdrop.random_ltd(KEY, x, 0.5, jnp.sin, num_prefix_tokens=1)

    with jax.enable_x64(True), in_full(sorts):
        numbers = jax.tree.leaves(jax.eval_shape(lambda: list(found())))
    assert {x.dtype for x in numbers} == {np.dtype(np.int32)}


def test_axes_side_by_side_are_one_gather() -> None:
    """Of units: what two gathers would copy, one does not."""
    kept = {axis: subsets.draw(KEY, SIZE, 0.5) for axis in (0, 1)}
    slices = {axis: subsets.draw(KEY, SIZE, 0.5, pattern="slice") for axis in (0, 1)}
    x = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32)
    for each, count in ((kept, 1), (slices, 0)):
        program = str(jax.make_jaxpr(lambda x, each=each: subsets.gather_axes(each, x))(x))
        assert program.count(" gather[") == count


def test_subsets_of_rows_take_the_axes_behind_them() -> None:
    kept = subsets.draw(KEY, (3, SIZE), 0.5)
    x = jnp.arange(3.0 * SIZE).reshape(3, SIZE)
    expected = np.take_along_axis(x, kept.indices[:, 0], 1)
    np.testing.assert_array_equal(kept.gather(x, axis=-1), expected)
    for wrong, axis in ((x, 0), (jnp.ones((4, SIZE)), 1), (jnp.ones((SIZE, SIZE)), 0)):
        with pytest.raises(ValueError, match=r"subsets of shape \(3,\), one for each entry"):
            kept.gather(wrong, axis)


def test_what_is_dropped_is_what_a_mask_drops() -> None:
    x = np.random.default_rng(0).normal(size=(2, SIZE, 3)).astype(np.float32)

    @quick
    def all_of_them(key: jax.Array, x: jax.Array) -> Any:
        drawn = [subsets.draw(key, SIZE, **case) for case in CASES]
        return [(mask_of(kept), subsets.dropped(kept, x, 1), kept.scaled(x)) for kept in drawn]

    for keep, found, scaled in all_of_them(KEY, x):
        scale = np.float32(SIZE / keep.sum())
        np.testing.assert_allclose(scaled, scale * x, rtol=1e-6)
        np.testing.assert_allclose(found, np.where(keep[None, :, None], scale * x, 0), rtol=1e-6)
