"""Spatial dropout and DropBlock, against PyTorch, Keras, the code of DropBlock's implementations
and closed forms.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import random
from jaxdrop.functional import _axes
from jaxdrop.functional.regions import _drop_block, drop_block, spatial_dropout
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE
from tests.oracles import assert_close, require, torch_value_and_pull, value_and_pull

P = PartitionSpec
MESHES = {
    kind.name: jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind,) * 2)
    for kind in (AxisType.Auto, AxisType.Explicit)
}


def ramp(*shape: int) -> jax.Array:
    return jnp.linspace(0.5, 2, int(np.prod(shape)), dtype=jnp.float32).reshape(shape)


# -- where the axes are


@pytest.mark.parametrize(
    ("ndim", "channel_axis", "spatial_rank", "expected"),
    [
        (3, -1, None, ((0,), (1,), 2)),
        (4, -1, None, ((0,), (1, 2), 3)),
        (4, 1, None, ((0,), (2, 3), 1)),
        (5, -4, None, ((0,), (2, 3, 4), 1)),
        (3, -1, 2, ((), (0, 1), 2)),
        (3, -3, 2, ((), (1, 2), 0)),
        (4, -3, 2, ((0,), (2, 3), 1)),
        (5, -1, 2, ((0, 1), (2, 3), 4)),
        (5, 2, 2, ((0, 1), (3, 4), 2)),
        (2, 1, 1, ((), (0,), 1)),
    ],
)
def test_axes(
    ndim: int, channel_axis: int, spatial_rank: int | None, expected: tuple[Any, ...]
) -> None:
    assert _axes.split(ndim, channel_axis, spatial_rank) == expected


@pytest.mark.parametrize("function", [spatial_dropout, drop_block])
@pytest.mark.parametrize(
    ("shape", "options", "error", "match"),
    [
        (
            (2, 3),
            {},
            ValueError,
            "x has 2 axes, too few for 1 of space and one of channels behind one of examples",
        ),
        (
            (2, 3),
            {"spatial_rank": 2},
            ValueError,
            "x has 2 axes, too few for 2 of space and one of channels",
        ),
        ((2, 3, 4), {"spatial_rank": 0}, ValueError, "spatial_rank must be at least 1, got 0"),
        (
            (2, 3, 4),
            {"spatial_rank": 1.5},
            TypeError,
            "spatial_rank must be a number of axes, or None, got 1.5",
        ),
        (
            (2, 3, 4),
            {"channel_axis": 3},
            ValueError,
            "channel_axis=3 is out of range: with 3 axes, -3 to 2 are allowed",
        ),
        (
            (2, 3, 4),
            {"channel_axis": None},
            TypeError,
            "channel_axis must be the number of an axis, got None",
        ),
        # PyTorch's (C, H, W) with the channel axis of (N, C, H, W)
        (
            (2, 3, 4),
            {"channel_axis": 1, "spatial_rank": 2},
            ValueError,
            r"channel_axis=1 of 3 axes would stand among 2 axes of space.*\(-3\)",
        ),
        (
            (2, 3, 4, 5),
            {"channel_axis": 0},
            ValueError,
            "channel_axis=0 of 4 axes would stand among",
        ),
        (
            (2, 3, 4, 5),
            {"channel_axis": 2},
            ValueError,
            "channel_axis=2 of 4 axes would stand among",
        ),
    ],
)
def test_bad_axes(
    function: Any,
    shape: tuple[int, ...],
    options: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        function(KEY, ramp(*shape), RATE, **options)


# -- spatial dropout


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("shape", "options", "shared"),
    [
        ((8, 6, 4), {}, (1,)),
        ((8, 5, 6, 4), {}, (1, 2)),
        ((8, 4, 5, 6), {"channel_axis": 1}, (2, 3)),
        ((4, 5, 6), {"channel_axis": -3, "spatial_rank": 2}, (1, 2)),
        ((2, 3, 4, 6, 5), {"spatial_rank": 2}, (2, 3)),
    ],
)
def test_spatial_dropout_is_dropout_of_whole_channels(
    shape: tuple[int, ...], options: dict[str, Any], shared: tuple[int, ...]
) -> None:
    """And so has all of dropout's properties."""
    x = ramp(*shape)
    for rate in (RATE, 1):
        ours = value_and_pull(lambda x, rate=rate: spatial_dropout(KEY, x, rate, **options), x)
        plain = value_and_pull(
            lambda x, rate=rate: jaxdrop.dropout(KEY, x, rate, broadcast_dims=shared), x
        )
        chex.assert_trees_all_equal(ours, plain)


@pytest.mark.parametrize("rate", [0.3, 0.7])
@pytest.mark.parametrize("shape", [(8, 4, 6), (8, 4, 5, 6), (8, 4, 3, 5, 6), (4, 3, 5, 6)], ids=str)
def test_spatial_dropout_equals_that_of_pytorch(shape: tuple[int, ...], rate: float) -> None:
    """Theirs has another mask: compared where both drop, or both keep. The last one is a single
    example.
    """
    require("torch").manual_seed(7)
    rank = 3 if shape[0] == 4 else len(shape) - 2
    theirs = getattr(require("torch").nn, f"Dropout{rank}d")(rate)
    x = ramp(*shape)
    ours = value_and_pull(
        lambda x: spatial_dropout(KEY, x, rate, channel_axis=-1 - rank, spatial_rank=rank), x
    )
    seen = np.zeros(shape, bool)
    for _ in range(32):
        other = torch_value_and_pull(theirs, x)
        agree = (np.asarray(ours[0]) == 0) == (other[0] == 0)
        assert_close(ours, other, where=agree)
        np.testing.assert_array_equal(
            agree, np.broadcast_to(agree.any(tuple(range(-rank, 0)), keepdims=True), shape)
        )
        seen |= agree
    assert seen.all()


@pytest.mark.sweep
@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize(
    ("rank", "first"), [(1, False), (2, False), (2, True), (3, False), (3, True)]
)
def test_spatial_dropout_draws_the_masks_of_keras(rank: int, first: bool) -> None:
    """Channels last, and first where Keras has that. A Keras seed is the words of a legacy key."""
    keras = require("keras")
    options = {"data_format": "channels_first"} if first else {}
    layer = getattr(keras.layers, f"SpatialDropout{rank}D")(RATE, seed=7, **options)
    x = ramp(*(8, 4, 5, 6, 3)[: rank + 2])
    theirs = layer(x, training=True)
    ours = spatial_dropout(jnp.array([7, 0], jnp.uint32), x, RATE, channel_axis=1 if first else -1)
    np.testing.assert_array_max_ulp(np.asarray(ours), np.asarray(theirs), maxulp=1)


# -- DropBlock: the mask, from the seeds that were drawn


def gamma(rate: float, lengths: Sequence[int], blocks: Sequence[int]) -> float:
    inside = np.prod([length - block + 1 for length, block in zip(lengths, blocks, strict=True)])
    return rate * np.prod(lengths) / np.prod(blocks) / inside


# One program, and not one for each operation.
bits = jax.jit(random.bits, static_argnums=1)


def seeds(key: jax.Array, shape: tuple[int, ...], probability: float) -> np.ndarray:
    return np.asarray(bits(key, shape)) < probability * 2**32


def blocks_around(
    seeds: np.ndarray, blocks: Sequence[int], lengths: Sequence[int], everywhere: bool
) -> np.ndarray:
    """What falls, of one map: block after block, from its first corner on, or around its middle and
    cut at the edge.
    """
    dropped = np.zeros(lengths, bool)
    for seed in zip(*np.nonzero(seeds), strict=True):
        first = [i - block // 2 if everywhere else i for i, block in zip(seed, blocks, strict=True)]
        dropped[
            tuple(slice(max(i, 0), i + block) for i, block in zip(first, blocks, strict=True))
        ] = True
    return dropped


CASES = [
    ((9,), 3, (3,)),
    ((9,), 4, (4,)),
    ((7, 10), 3, (3, 3)),
    ((7, 10), 4, (4, 4)),
    ((7, 10), (2, 5), (2, 5)),
    ((5, 10), 8, (5, 8)),
    ((4, 4), 4, (4, 4)),
    ((6, 7), 1, (1, 1)),
    ((4, 5, 6), 3, (3, 3, 3)),
    ((4, 5, 6), (1, 2, 9), (1, 2, 6)),
]


@pytest.mark.sweep(keep=5)
@pytest.mark.parametrize("rule", ["paper", "torchvision", "timm"])
@pytest.mark.parametrize(("lengths", "block_size", "blocks"), CASES)
def test_drop_block_drops_blocks(
    rule: str, lengths: tuple[int, ...], block_size: Any, blocks: tuple[int, ...]
) -> None:
    """Any number of dimensions, even and odd blocks, and ones that are longer than the map;
    channels first and last by turns.
    """
    key, first = KEYS["threefry"], CASES.index((lengths, block_size, blocks)) % 2 == 0
    if rule == "torchvision":
        limits = np.atleast_1d(block_size) * np.ones_like(lengths)
        blocks = tuple(int(min(size, *lengths)) for size in limits)
    everywhere = rule == "timm"
    starts = (
        lengths
        if everywhere
        else tuple(length - block + 1 for length, block in zip(lengths, blocks, strict=True))
    )
    put = (lambda space, c: (16, c, *space)) if first else (lambda space, c: (16, *space, c))
    drawn = seeds(key, put(starts, 1 if everywhere else 3), gamma(RATE, lengths, blocks))
    expected = [
        [
            blocks_around(one.take(channel, 0 if first else -1), blocks, lengths, everywhere)
            for channel in range(one.shape[0 if first else -1])
        ]
        for one in drawn
    ]
    dropped = np.broadcast_to(
        np.moveaxis(np.array(expected), 1, 1 if first else -1), put(lengths, 3)
    )
    options = {"block_size": block_size, "rule": rule, "channel_axis": 1 if first else -1}
    y = drop_block(key, np.ones(put(lengths, 3), np.float32), RATE, **options)
    np.testing.assert_array_equal(np.asarray(y) == 0, dropped)
    assert dropped.any()
    assert not dropped.all()


# -- DropBlock: the code of its implementations, given our seeds


def images(channels: int = 3) -> jax.Array:
    """Channels first, of values without zeros."""
    return ramp(4, channels, 9, 8)


def torchvision_code(x: Any, noise: Any, block_size: int) -> Any:
    functional = require("torch").nn.functional
    noise = functional.pad(noise, [block_size // 2] * 4, value=0)
    noise = functional.max_pool2d(
        noise, stride=(1, 1), kernel_size=(block_size, block_size), padding=block_size // 2
    )
    noise = 1 - noise
    normalize_scale = noise.numel() / (1e-6 + noise.sum())
    return x * noise * normalize_scale


def timm_code(x: Any, block_mask: Any, kh: int, kw: int) -> Any:
    functional = require("torch").nn.functional
    block_mask = functional.max_pool2d(
        block_mask, kernel_size=(kh, kw), stride=1, padding=(kh // 2, kw // 2)
    )
    block_mask = block_mask[..., (kh + 1) % 2 :, (kw + 1) % 2 :]
    keep_mask = 1.0 - block_mask
    return x * (keep_mask * (keep_mask.numel() / keep_mask.sum().add(1e-7)))


def paper_code(x: Any, noise: Any, block_size: int) -> Any:
    """Of the authors, for TensorFlow: seeds in the middle of blocks, and a minimum over windows
    with the padding `SAME`.
    """
    functional = require("torch").nn.functional
    before, after = (block_size - 1) // 2, block_size // 2
    pattern = 1 - functional.pad(noise, [after, before] * 2)
    pattern = -functional.max_pool2d(
        functional.pad(-pattern, [before, after] * 2, value=-2), block_size, stride=1
    )
    return x / pattern.mean() * pattern


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("rule", "code", "block_size"),
    [
        ("torchvision", torchvision_code, 3),
        ("torchvision", torchvision_code, 5),
        ("paper", paper_code, 3),
        ("paper", paper_code, 4),
        ("timm", timm_code, 3),
        ("timm", timm_code, 4),
    ],
)
def test_drop_block_equals_the_code_of(rule: str, code: Any, block_size: int) -> None:
    x = images()
    probability = gamma(0.1, x.shape[2:], (block_size,) * 2)
    starts = (4, 1, 9, 8) if rule == "timm" else (4, 3, 10 - block_size, 9 - block_size)
    noise = require("torch").tensor(seeds(KEY, starts, probability).astype(np.float32))
    sizes = (block_size,) * 2 if rule == "timm" else (block_size,)
    options = {"block_size": block_size, "rule": rule, "normalize": "batch", "channel_axis": 1}
    ours = value_and_pull(lambda x: drop_block(KEY, x, 0.1, **options), x)
    assert_close(ours, torch_value_and_pull(lambda x: code(x, noise, *sizes), x))
    assert (ours[0] == 0).any()


# -- DropBlock: its law


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("rule", "length", "rate", "published"),
    [
        ("paper", 14, 0.1, 0.0929),
        ("paper", 28, 0.1, 0.0939),
        ("paper", 7, 0.1, 0.1),
        ("torchvision", 14, 0.1, 0.0929),
        ("timm", 14, 0.1, 0.2092),
        ("timm", 28, 0.1, 0.1329),
        ("timm", 7, 0.1, 0.93),
    ],
)
def test_drop_block_drops_the_fraction_that_it_should(
    rule: str, length: int, rate: float, published: float
) -> None:
    """Each position by `1 - (1 - gamma)**seeds within reach`. Ideal seeds fail with a probability
    of 1e-6.
    """
    block, everywhere = 7, rule == "timm"
    ends = range(length) if everywhere else range(length - block + 1)
    offset = block // 2 if everywhere else 0
    reach = [
        sum(0 <= position - (end - offset) < block for end in ends) for position in range(length)
    ]
    law = 1 - (1 - gamma(rate, (length,) * 2, (block,) * 2)) ** np.multiply.outer(reach, reach)
    np.testing.assert_allclose(law.mean(), published, atol=5e-5)

    shape = (2048, length, length, 1) if everywhere else (256, length, length, 8)
    maps = np.moveaxis(
        np.asarray(drop_block(KEY, jnp.ones(shape), rate, rule=rule) == 0), -1, 1
    ).reshape(2048, -1)
    z = (maps.mean(0) - law.ravel()) / np.sqrt(law.ravel() * (1 - law.ravel()) / len(maps))
    assert statistics.normal(z) > 1e-6
    fraction = maps.mean(1)
    assert (
        statistics.normal((fraction.mean() - law.mean()) / fraction.std() * np.sqrt(len(maps)))
        > 1e-6
    )


def test_drop_block_at_rate_one_keeps_something() -> None:
    """As in torchvision: blocks of 3 on a map of 8 x 8 drop 0.613 of it. Ideal seeds fail with a
    probability of 1e-6.
    """
    for rate in (1, 1.0, jnp.float32(1)):
        dropped = (
            np.asarray(drop_block(KEY, jnp.ones((256, 8, 8, 8)), rate, block_size=3) == 0)
            .mean((1, 2))
            .ravel()
        )
        assert (
            statistics.normal((dropped.mean() - 0.6130) / dropped.std() * np.sqrt(dropped.size))
            > 1e-6
        )


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("block_size", [1, 5, (9, 6)])
@pytest.mark.parametrize("normalize", ["example", "batch", "expected"])
@pytest.mark.parametrize("known", [True, False], ids=["static", "traced"])
def test_drop_block_at_rate_one_of_single_entries_or_the_whole_map(
    block_size: Any, normalize: str, known: bool
) -> None:
    x = ramp(2, 5, 5, 3).at[0, 0].set(jnp.nan)
    run = lambda rate: value_and_pull(  # noqa: E731
        lambda x: drop_block(KEY, x, rate, block_size=block_size, normalize=normalize), x
    )
    chex.assert_trees_all_equal(run(1.0) if known else jax.jit(run)(1.0), (jnp.zeros_like(x),) * 2)


@pytest.mark.parametrize(("rule", "channels"), [("paper", 3), ("torchvision", 3), ("timm", 1)])
def test_which_maps_share_their_blocks(rule: str, channels: int) -> None:
    """Maps of their own do not correlate. Ideal seeds fail with a probability of 1e-6."""
    dropped = np.asarray(
        drop_block(KEY, jnp.ones((4096, 6, 6, 3)), RATE, block_size=3, rule=rule) == 0
    )
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[..., :channels], dropped.shape))
    counts = dropped[..., :channels].sum((1, 2)).astype(float)
    z = (counts - counts.mean(0)) / counts.std(0)
    neighbors = (z[1:] * z[:-1]).sum(0) / np.sqrt(len(z))
    pairs = [
        (z[:, i] * z[:, j]).sum() / np.sqrt(len(z))
        for i, j in itertools.combinations(range(channels), 2)
    ]
    assert statistics.normal(np.r_[neighbors, pairs]) > 1e-6


# -- DropBlock: what is kept is scaled


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("rule", ["paper", "timm"])
@pytest.mark.parametrize("traced", [False, True])
def test_drop_block_normalizes(rule: str, traced: bool) -> None:
    rate = jnp.float32(0.1) if traced else 0.1
    ones = jnp.ones((16, 14, 14, 3))
    drop = functools.partial(drop_block, KEY, ones, rate, rule=rule)
    per_example, batch, expected = (
        np.asarray(drop(normalize=over)) for over in ("example", "batch", "expected")
    )
    np.testing.assert_allclose(per_example.mean((1, 2, 3)), 1, rtol=1e-5)
    assert len(np.unique(per_example)) > 2
    np.testing.assert_allclose(batch.mean(), 1, rtol=1e-5)
    assert len(np.unique(batch)) == 2
    fraction = {"paper": 0.0929, "timm": 0.2092}[rule]
    np.testing.assert_allclose(np.unique(expected), [0, 1 / (1 - fraction)], rtol=1e-4)


@pytest.mark.parametrize("normalize", ["example", "expected"])
def test_an_example_does_not_depend_on_its_batch(normalize: str) -> None:
    """What is kept of it has the scale of its own mask, and so does a vmap over single examples."""
    x = ramp(8, 6, 6, 3)
    options = {"block_size": 3, "normalize": normalize}
    y = drop_block(KEY, x, RATE, **options)
    one = functools.partial(drop_block, rate=RATE, spatial_rank=2, **options)
    keys = jax.random.split(KEY, 8)
    vmapped = jax.vmap(one)(keys, x)
    for result in (y, vmapped):
        kept = np.asarray(result != 0)
        scale = (
            1 / kept.mean((1, 2, 3), keepdims=True)
            if normalize == "example"
            else np.asarray(result / x).max()
        )
        np.testing.assert_allclose(result, np.where(kept, x * scale, 0), rtol=1e-6)
    np.testing.assert_array_equal(
        vmapped, jnp.stack([one(key, image) for key, image in zip(keys, x, strict=True)])
    )


def test_counts_beyond_32_bits() -> None:
    """Of one part of a mask of up to 2**34 entries: its share of the whole, 48 of 64 entries in
    each of two examples.
    """
    keep = jnp.arange(128).reshape(2, 4, 4, 4) % 4 != 0
    for parts in (1, 2**20, 2**27):
        kept = _drop_block._kept(keep, _axes.Axes((0,), (1, 2), 3), (), parts)
        np.testing.assert_array_equal(kept, np.full((1, 1, 1, 1), 0.75 / parts, np.float32))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("shape", [(3,), (4, 1, 1, 3), (4, 1, 1, 1)])
@pytest.mark.parametrize("normalize", ["example", "batch", "expected"])
def test_drop_block_of_several_rates(shape: tuple[int, ...], normalize: str) -> None:
    rates = jnp.linspace(0, 0.6, int(np.prod(shape))).reshape(shape)
    drop = functools.partial(
        drop_block, KEY, jnp.ones((4, 6, 6, 3)), block_size=3, normalize=normalize
    )
    y, every = drop(rates), np.broadcast_to(rates, (4, 6, 6, 3))
    for rate in np.unique(every):
        np.testing.assert_array_equal((y == 0)[every == rate], (drop(rate) == 0)[every == rate])


def test_drop_block_of_an_empty_array() -> None:
    for shape in ((0, 4, 4, 2), (2, 0, 4, 2), (2, 4, 4, 0)):
        assert drop_block(KEY, jnp.ones(shape), RATE).shape == shape


# -- DropBlock: layouts

LAYOUTS = [
    P(),
    P("a", None, None, "b"),
    P(None, "a", "b"),
    P("b", None, "a"),
    P(("b", "a")),
]


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize(
    ("rule", "normalize"), [("paper", "example"), ("paper", "batch"), ("timm", "expected")]
)
def test_jit_draws_the_same_blocks_under_every_layout(kind: str, rule: str, normalize: str) -> None:
    """Divided spatial axes too; value and gradient."""
    x = ramp(8, 8, 12, 8)
    drop = functools.partial(drop_block, block_size=3, rule=rule, normalize=normalize)
    run = jax.jit(lambda key, x: value_and_pull(lambda x: drop(key, x, RATE), x))
    expected = run(KEY, x)
    for spec in LAYOUTS:
        placed = jax.device_put(x, NamedSharding(MESHES[kind], spec))
        for result, value in zip(run(KEY, placed), expected, strict=True):
            np.testing.assert_array_equal(result, value, err_msg=str(spec))
            assert result.sharding.is_equivalent_to(placed.sharding, 4), spec


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "spec", [P("a"), P(("a", "b")), P("a", None, None, "b"), P(None, None, None, ("b", "a"))]
)
@pytest.mark.parametrize(("rule", "normalize"), [("paper", "batch"), ("timm", "batch")])
def test_shard_map_with_spec_counts_the_whole_mask(
    spec: PartitionSpec, rule: str, normalize: str
) -> None:
    x = ramp(8, 5, 4, 8)
    drop = functools.partial(drop_block, rate=RATE, block_size=3, rule=rule, normalize=normalize)
    local = jax.shard_map(
        lambda x: value_and_pull(lambda x: drop(KEY, x, spec=spec), x),
        mesh=MESHES["Auto"],
        in_specs=spec,
        out_specs=spec,
    )
    whole = value_and_pull(lambda x: drop(KEY, x), x)
    for result, value in zip(jax.jit(local)(x), whole, strict=True):
        np.testing.assert_array_equal(result, value)


def test_pmap_with_spec_draws_the_whole_mask() -> None:
    x = ramp(8, 5, 4, 2)
    parts = jax.pmap(lambda x: drop_block(KEY, x, RATE, block_size=3, spec=P("i")), axis_name="i")(
        x[:, None]
    )
    np.testing.assert_array_equal(parts[:, 0], drop_block(KEY, x, RATE, block_size=3))


def test_shard_map_cannot_divide_a_spatial_axis() -> None:
    mesh = jax.make_mesh((8, 1), ("a", "one"), axis_types=(AxisType.Auto,) * 2)
    x = ramp(2, 8, 8, 2)

    def local(spec: PartitionSpec) -> jax.Array:
        drop = lambda x: drop_block(KEY, x, RATE, block_size=3, spec=spec)  # noqa: E731
        return jax.shard_map(drop, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    with pytest.raises(
        ValueError,
        match=r"spec=.* divides a spatial axis of x: a device would have to know the seeds",
    ):
        local(P(None, "a"))
    np.testing.assert_array_equal(local(P(None, "one")), drop_block(KEY, x, RATE, block_size=3))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"rule": "keras"},
            ValueError,
            "rule must be one of 'paper', 'torchvision', 'timm', got 'keras'",
        ),
        (
            {"normalize": "all"},
            ValueError,
            "normalize must be one of 'example', 'batch', 'expected', got 'all'",
        ),
        (
            {"block_size": 0},
            ValueError,
            "block_size must be at least 1, or that for each of the spatial axes, got 0",
        ),
        (
            {"block_size": (3, 3, 3)},
            ValueError,
            r"block_size must be at least 1, or that for each of 2 spatial axes, got \(3, 3, 3\)",
        ),
        (
            {"block_size": 3.5},
            TypeError,
            "block_size must be an integer, or one for each spatial axis, got 3.5",
        ),
        ({"rate": 1.5}, ValueError, "1.5"),
        ({"rate": jnp.ones((8, 6, 1))}, ValueError, r"\(8, 1, 1, 4\)"),
        ({"rate": jnp.ones(4), "rule": "timm"}, ValueError, r"\(8, 1, 1, 1\)"),
        ({"key": None}, ValueError, "drop_block is stochastic here and needs a key"),
        ({"x": jnp.ones((8, 2, 2, 2), int)}, TypeError, "drop_block scales what it keeps"),
        ({"spec": P(None, None, None, None, "a")}, ValueError, "lays out 5 axes, but x has 4"),
    ],
)
def test_drop_block_bad_input(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        drop_block(**{"key": KEY, "x": ramp(8, 6, 6, 4), "rate": RATE} | options)


@pytest.mark.parametrize("rule", ["paper", "torchvision", "timm"])
def test_a_block_of_the_whole_map_at_rate_one(rule: str) -> None:
    """Each entry is a seed for sure, whose logarithm is not taken: no warning."""
    for rate in (1.0, jnp.float32(1)):
        y = drop_block(KEY, ramp(2, 3, 3, 2), rate, block_size=3, rule=rule, normalize="expected")
        np.testing.assert_array_equal(y, np.zeros((2, 3, 3, 2)))
