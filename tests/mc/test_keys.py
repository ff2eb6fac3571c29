"""Keys for Monte Carlo samples: each sample is an ordinary draw, and together they divide the unit
interval.

Statistics with fixed keys: a deviate of 5 sigma is met once in 1.7 million draws of ideal bits, a
p-value below 1e-6 once in a million; all of this file's would fail together once in about ten
thousand choices of keys.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy import stats

import jaxdrop
from jaxdrop import masks, mc, random
from jaxdrop.random import _lattices
from tests import statistics

LEVEL = 1e-6
COUNTS = [1, 2, 3, 5, 10, 16, 31, 100, 1000]
RATES = np.array([0.5, 0.1, 1 / 3, 0.9, 0.01], np.float32)
STRATEGIES = ["stratified", "antithetic", "independent"]

GRID = 2.0**-23  # of a float32 uniform


@functools.partial(jax.jit, static_argnames="units")
def _bits(keys: jax.Array, units: int) -> jax.Array:
    """Of shape (samples, units)."""
    return jax.vmap(lambda key: random.bits(key, (units,)))(keys)


_keys = jax.jit(mc.keys, static_argnums=(1, 2))


def _quantised(rate: float) -> float:
    """The probability of dropping on the grid of the masks."""
    return 1 - int(masks.distribution(float(rate)).threshold) / 2**23


# -- stratified: one position over all samples


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("num", COUNTS)
def test_every_unit_is_dropped_in_its_share_of_the_samples(num: int) -> None:
    """Rounded up or down, and at random so that the mean is exact: to 5 sigma for each rate."""
    units = 2_000
    keys = _keys(jaxdrop.key(num), num)

    @jax.jit
    def dropped(rate: jax.Array) -> jax.Array:
        outputs = jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones(units), rate))(keys)
        return (outputs == 0).sum(0)

    for rate in RATES:
        share = num * _quantised(rate)
        times, part = np.asarray(dropped(rate)), share % 1
        assert set(times) <= {np.floor(share), np.ceil(share)}
        assert abs(times.mean() - share) <= 5 * np.sqrt(part * (1 - part) / units)


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("num", [*COUNTS, 9, 27, 60_000, 65_535])
def test_one_value_in_each_stratum(num: int) -> None:
    """Over the samples: of the bits, of uniform values on their grids, and of normal ones through
    their distribution function.

    Of one stratum more, one is empty, if the number of samples is odd and no prime.
    """
    strata = sum(_lattices.sizes(num))
    units = 500 if num <= 1000 else 5

    @jax.jit
    def draw(keys: jax.Array) -> list[jax.Array]:
        draws = (
            random.bits,
            jax.random.uniform,
            lambda key, shape: jax.random.uniform(key, shape, jnp.bfloat16).astype(jnp.float32),
            jax.random.normal,
        )
        return [
            jnp.sort(jax.vmap(lambda key, draw=draw: draw(key, (units,)))(keys), axis=0)
            for draw in draws
        ]

    bits, uniform, short, normal = (
        np.asarray(values, np.float64) for values in draw(_keys(jaxdrop.key(num), num))
    )
    edges = np.arange(strata + 1)[:, None] / strata
    for values, error in (
        (bits / 2**32, 2.0**-31),
        (uniform, GRID),
        (short, 2.0**-7),
        (stats.norm.cdf(normal), 3 * GRID),
    ):
        assert (values >= edges[:num] - error).all()
        assert (values < edges[-num:] + error).all()
    if num < 100:  # the edges of more strata are not right to the last bit
        assert (np.diff(np.floor(bits / 2**32 * strata), axis=0) > 0).all()


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(
    ("num", "strategy"),
    [*((num, "stratified") for num in COUNTS), (9, "antithetic"), (9, "independent")],
)
def test_each_sample_is_an_ordinary_draw(num: int, strategy: mc.Strategy) -> None:
    """One p-value for each of at most 40 samples."""
    keys = _keys(jaxdrop.key(num + 1), num, strategy)
    some = np.unique(np.linspace(0, num - 1, 40).astype(int))
    bits = np.asarray(_bits(keys[some], 10_000))
    assert min(statistics.uniform(sample, 50) for sample in bits) * len(some) > LEVEL


@pytest.mark.parametrize(("num", "sample"), [(2, 1), (10, 3), (31, 30), (1000, 77)])
def test_a_stratified_sample_is_a_good_stream(num: int, sample: int) -> None:
    bits = np.asarray(_bits(_keys(jaxdrop.key(num), num)[sample][None], 2**18)[0])
    odd = {part: p for part, p in statistics.battery(bits).items() if p < LEVEL}
    assert not odd


# -- stratified: pairs


@pytest.mark.sweep
def test_lattices() -> None:
    """Every number of samples is one odd prime (or 1), or the sum of two that differ."""
    for num in range(1, 2**16):
        parts = _lattices.sizes(num)
        assert sum(parts) == num or (sum(parts) == num + 1 and num % 2 == 1)
        assert len(set(parts)) == len(parts) or num == 2
    assert [_lattices.sizes(num) for num in (1, 2, 7, 8, 9, 100)] == [
        (1,),
        (1, 1),
        (7,),
        (7, 1),
        (7, 3),
        (53, 47),
    ]
    assert [_lattices.sizes(num) for num in (21, 22, 24, 27, 30)] == [
        (19, 3),
        (19, 3),
        (13, 11),
        (17, 11),
        (17, 13),
    ]
    largest = _lattices.points(2**16 - 1)
    assert len(largest) == 2**16 - 1
    assert (largest[:, 0] * largest[:, 1] == 1).all()


@pytest.mark.sweep
@pytest.mark.parametrize("num", [3, 8, 12, 31, 64])
def test_pairs_of_units_are_independent(num: int) -> None:
    """Two units that are dropped in a and b of a lattice's samples are dropped together in a
    hypergeometric number of them.

    That is, its mean and variance are those of samples in random order: to 5 standard errors, and
    to 5 %, over 120,000 pairs.
    """
    first, *_ = sizes = _lattices.sizes(num)

    def deviation(key: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        all_dropped = (_bits(mc.keys(key, num), 20_000) >> np.uint32(9)) >= threshold
        parts = []
        for dropped, size in zip((all_dropped[:first], all_dropped[first:]), sizes, strict=False):
            if size == 1:
                continue
            one, other = dropped[:, :10_000], dropped[:, 10_000:]
            a, b, both = (x.sum(0).astype(jnp.float32) for x in (one, other, one & other))
            mean = a * b / size
            variance = mean * (size - a) * (size - b) / (size * (size - 1))
            parts.append([(both - mean).sum(), ((both - mean) ** 2).sum(), variance.sum()])
        return jnp.asarray(parts)

    deviations = jax.jit(
        lambda keys, threshold: jax.lax.map(lambda key: deviation(key, threshold), keys)
    )
    for rate in (0.5, 0.1):
        parts = deviations(
            jax.random.split(jaxdrop.key(num), 12), masks.distribution(rate).threshold
        )
        for shift, square, variance in np.asarray(parts, np.float64).sum(0):
            assert abs(shift) < 5 * np.sqrt(variance)
            assert abs(square / variance - 1) < 0.05


@pytest.mark.sweep
@pytest.mark.parametrize("num", [3, 5, 8, 10, 31, 32])
def test_pairs_of_samples_are_alike(num: int) -> None:
    """At rate 0.5, every two samples of a lattice are dropped together equally often, and so are
    every two of different lattices.

    To 6 standard errors over 200,000 positions.
    """
    units = 200_000

    @jax.jit
    def together(key: jax.Array) -> jax.Array:
        dropped = (_bits(mc.keys(key, num), units) >= np.uint32(2**31)).astype(jnp.float32)
        return dropped @ dropped.T / units

    first, *_ = sizes = _lattices.sizes(num)
    counts = np.array(
        [[first // 2, first // 2 + 1], [num // 2 - first // 2, num // 2 - first // 2 - 1]]
    )  # either is as likely
    expected = np.empty((num, num))
    for row, size in enumerate(sizes):
        block = slice(0, first) if row == 0 else slice(first, None)
        expected[block, block] = np.mean(counts[row] * (counts[row] - 1)) / max(
            size * (size - 1), 1
        )
        expected[:first, first:] = expected[first:, :first] = np.mean(counts[0] * counts[1]) / (
            first * (num - first or 1)
        )
    off = np.asarray(together(jaxdrop.key(num)) - expected)[np.triu_indices(num, 1)]
    assert np.abs(off).max() < 6 * np.sqrt(0.25 * 0.75 / units)


# -- antithetic and independent


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("num", [1, 2, 7, 10])
def test_antithetic_samples_mirror_each_other(num: int) -> None:
    keys = _keys(jaxdrop.key(0), num, "antithetic")
    bits = np.asarray(_bits(keys, 1000))
    pairs = num // 2
    np.testing.assert_array_equal(bits[1::2], ~bits[0::2][:pairs])
    uniform = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (1000,)))(keys))
    np.testing.assert_array_equal(uniform[1::2] + uniform[0::2][:pairs], np.float32(1 - GRID))
    kept = np.asarray(jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones(1000), 0.5))(keys)) > 0
    assert (kept[1::2] ^ kept[0::2][:pairs]).all()
    firsts = bits[0::2]
    assert len(np.unique(firsts)) == firsts.size


@pytest.mark.parametrize("make", [jaxdrop.key, jax.random.key, jax.random.PRNGKey])
def test_independent_keys_are_fold_ins(make: object) -> None:
    key = make(3)
    keys = _keys(key, 5, "independent")
    typed = jax.random.wrap_key_data(key) if key.dtype == jnp.uint32 else key
    assert keys.dtype == typed.dtype
    for t in range(5):
        np.testing.assert_array_equal(
            jax.random.key_data(keys[t]), jax.random.key_data(jax.random.fold_in(typed, t))
        )


# -- all strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_vmap_is_a_loop(strategy: mc.Strategy) -> None:
    keys = _keys(jaxdrop.key(0), 5, strategy)

    def draw(key: jax.Array) -> jax.Array:
        return jaxdrop.dropout(jax.random.fold_in(key, 3), jnp.ones((4, 6)), 0.4)

    loop = jnp.stack([jax.jit(draw)(key) for key in keys])
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(keys), loop)
    inside = jax.jit(lambda key: jax.vmap(draw)(mc.keys(key, 5, strategy)))
    np.testing.assert_array_equal(inside(jaxdrop.key(0)), loop)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "derive", [lambda key: jax.random.fold_in(key, 7), lambda key: jax.random.split(key, 3)[1]]
)
@pytest.mark.parametrize("strategy", ["stratified", "antithetic"])
def test_derived_keys_keep_their_place(strategy: mc.Strategy, derive: object) -> None:
    """What a model does with its key, as often as it likes."""
    keys = _keys(jaxdrop.key(1), 6, strategy)
    bits = np.asarray(_bits(jax.jit(jax.vmap(lambda key: derive(derive(key))))(keys), 1000))
    if strategy == "stratified":
        strata = np.sort((bits.astype(np.uint64) * np.uint64(6)) >> np.uint64(32), axis=0)
        np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(6)[:, None], strata.shape))
    else:
        np.testing.assert_array_equal(bits[1::2], ~bits[0::2])
    assert not np.array_equal(bits, _bits(keys, 1000))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_kind_of_key_will_do(strategy: mc.Strategy) -> None:
    made = [
        _keys(key, 4, strategy)
        for key in (
            jaxdrop.key(0),
            jax.random.key(0),
            jax.random.PRNGKey(0),
            jax.random.key(0, impl="rbg"),
        )
    ]
    assert all(keys.shape == (4,) for keys in made)
    rbg = np.asarray(jax.vmap(lambda key: jaxdrop.dropout(key, jnp.ones(1000), 0.25))(made[3]) == 0)
    assert len(np.unique(rbg, axis=0)) == 4
    if strategy == "stratified":
        assert (rbg.sum(0) == 1).all()


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize("layer", [nn.Dropout, jaxdrop.linen.Dropout])
def test_linen_models(layer: type[nn.Module]) -> None:
    """Flax's own layer is stratified as well: it draws from the key that it is given."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = layer(0.25, deterministic=False)(x)
            return x, layer(0.5, deterministic=False)(jnp.ones_like(x))

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return Model().apply({}, jnp.ones((8, 16)), rngs={"dropout": key})

    first, second = jax.jit(jax.vmap(run))(_keys(jaxdrop.key(0), 8))
    assert ((first == 0).sum(0) == 2).all()
    assert ((second == 0).sum(0) == 4).all()
    assert not np.array_equal(first == 0, second == 0)


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize("layer", [nnx.Dropout, jaxdrop.nnx.Dropout])
def test_nnx_models(layer: type[nnx.Module]) -> None:
    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rngs = nnx.Rngs(dropout=key)
        first, second = layer(0.25, rngs=rngs), layer(0.5, rngs=rngs)
        return first(jnp.ones((8, 16))), second(jnp.ones((8, 16)))

    first, second = jax.jit(jax.vmap(run))(_keys(jaxdrop.key(0), 8))
    assert ((first == 0).sum(0) == 2).all()
    assert ((second == 0).sum(0) == 4).all()
    assert not np.array_equal(first == 0, second == 0)


def test_the_compiler_does_not_complain(capfd: pytest.CaptureFixture[str]) -> None:
    """Some forms of this program make XLA report a circular simplification on stderr."""

    @jax.jit
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jaxdrop.dropout(key, x, 0.1))(mc.keys(key, 10))

    run.lower(jaxdrop.key(0), jnp.ones((7, 100))).compile()
    assert "circular simplification" not in capfd.readouterr().err


@pytest.mark.sweep
def test_stratified_means_have_a_smaller_error() -> None:
    """The mean over 10 passes of a network with two dropout layers, 200 times: the mean squared
    error of stratified means is 0.2 of that of independent ones, with a standard error of 0.03.
    """
    parts = jax.random.split(jax.random.key(0), 4)
    x, *weights = (
        jax.random.normal(key, shape)
        for key, shape in zip(parts, [(16,), (16, 32), (32, 32), (32,)], strict=True)
    )

    def network(key: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ weights[0] / 4)
        h = jax.nn.relu(jaxdrop.dropout(jax.random.fold_in(key, 0), h, 0.2) @ weights[1] / 6)
        return jaxdrop.dropout(jax.random.fold_in(key, 1), h, 0.2) @ weights[2] / 6

    @functools.partial(jax.jit, static_argnames="strategy")
    def error(keys: jax.Array, strategy: mc.Strategy) -> jax.Array:
        means = jax.vmap(lambda key: jax.vmap(network)(mc.keys(key, 10, strategy)).mean())(keys)
        return jnp.mean((means - exact) ** 2)

    exact = jax.jit(jax.vmap(network))(_keys(jaxdrop.key(1), 50_000, "independent")).mean()
    keys = jax.random.split(jaxdrop.key(2), 200)
    assert error(keys, "stratified") < 0.4 * error(keys, "independent")


# -- errors


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num", [0, -1])
def test_no_samples(strategy: mc.Strategy, num: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples must be at least 1, got {num}"):
        mc.keys(jaxdrop.key(0), num, strategy)


@pytest.mark.parametrize("num", [2.5, "3", None])
def test_a_number_of_samples_that_is_none(num: object) -> None:
    with pytest.raises(TypeError, match=f"num_samples must be an integer, got {num!r}"):
        mc.keys(jaxdrop.key(0), num)


def test_too_many_strata() -> None:
    with pytest.raises(
        ValueError, match=r"at most 65535 samples, got 70000.*groups.*independently"
    ):
        mc.keys(jaxdrop.key(0), 70_000)
    assert mc.keys(jaxdrop.key(0), 70_000, "antithetic").shape == (70_000,)


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="'stratified', 'antithetic', 'independent', got 'sobol'"):
        mc.keys(jaxdrop.key(0), 3, "sobol")


@pytest.mark.parametrize("outer", ["stratified", "antithetic"])
@pytest.mark.parametrize("inner", STRATEGIES)
def test_samples_of_a_sample(outer: mc.Strategy, inner: mc.Strategy) -> None:
    key = mc.keys(jaxdrop.key(0), 4, outer)[1]
    with pytest.raises(ValueError, match=r"^key already is the key of one Monte Carlo sample"):
        mc.keys(key, 3, inner)
