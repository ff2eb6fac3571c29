"""What the rows of a report say, against what the functions were given."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
from jaxdrop import audit
from jaxdrop.audit._places import Loop, Place, function_is_library
from jaxdrop.functional.attention import _block_sizes
from tests import catalogue
from tests.audit.gallery import KEY, array
from tests.audit.gallery._jax import ALL, W, X, dropout, model, sharded

pytestmark = pytest.mark.usefixtures("relaxed")

FAST = jax.eval_shape(lambda: jaxdrop.key(0))
Fn = Callable[..., Any]


def only(fn: Fn, *args: Any, **options: Any) -> audit.Site:
    (site,) = audit.check(fn, *args, **options).sites
    return site


def ours(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    return model(w, key, x, 0.25, jaxdrop.dropout)


@pytest.mark.parametrize("variant", catalogue.VARIANTS, ids=lambda variant: variant.name)
def test_every_function_of_this_library_is_a_site(variant: catalogue.Variant) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return variant.call(key, x, 0.25)

    report = audit.check(run, KEY, array(*variant.shape), training=True)
    assert report.sites
    assert {each.id for each in report.findings} <= {"JD301", "JD302", "JD304"}
    assert all(site.active and site.random_bits > 0 for site in report.sites)
    rates = {site.rate for site in report.sites} - {None}
    assert rates <= {0.25}


def words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Those of the compiler's own generator."""
    state = jnp.tile(jax.random.key_data(key), 2)
    return jax.lax.rng_bit_generator(state, shape, jnp.uint16)[1]


def digits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.lax.rem(jax.random.bits(key, shape), jnp.full(shape, np.uint32(10)))


def mantissas(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [1, 2)."""
    bits = jax.random.bits(key, shape) >> np.uint32(9)
    return jax.lax.bitcast_convert_type(bits | np.uint32(0x3F800000), jnp.float32)


def bytes_of(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bits(key, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("rate", "drop"),
    [
        (0.1, dropout),
        (0.5, jaxdrop.dropout),
        (0.3, lambda key, x, rate: jnp.where(jax.random.uniform(key, x.shape) > rate, x, 0)),
        (0.25, lambda key, x, rate: x * (jax.random.bits(key, x.shape, "uint8") < 192)),
        (0.25, lambda key, x, rate: jnp.where(jax.random.bernoulli(key, rate, x.shape), 0, x)),
        (0.2, lambda key, x, rate: x * (1 - jax.random.bernoulli(key, rate, x.shape))),
        (0.1, lambda key, x, rate: x * (jax.random.bernoulli(key, 1 - rate, x.shape) / (1 - rate))),
        (0.2, lambda key, x, rate: x * (jax.random.uniform(key, x.shape, maxval=5) > 5 * rate)),
        (0.2, lambda key, x, rate: x * (1 - jax.random.uniform(key, x.shape) < 1 - rate)),
        (0.25, lambda key, x, rate: x * (jax.random.bits(key, x.shape) * 1.0 > rate * 2**32)),
        (0.2, lambda key, x, rate: x * (1 - jax.random.uniform(key, x.shape) * 0.5 / 0.5 < 0.8)),
        (0.2, lambda key, x, rate: x * (digits(key, x.shape) > 1)),
        (0.25, lambda key, x, rate: x * (bytes_of(key, x.shape) >= np.uint8(64))),
        (0.003906, lambda key, x, rate: x * (jax.random.bits(key, x.shape, "uint8") >= 1)),
        (None, lambda key, x, rate: x * (-2 * jax.random.uniform(key, x.shape) > -0.3)),
        (None, lambda key, x, rate: x * (1 / (jax.random.uniform(key, x.shape) + 1) > 0.6)),
        (None, lambda key, x, rate: x * (1 / jax.random.uniform(key, x.shape) > 0.6)),
        (None, lambda key, x, rate: x * (0.6 - jax.random.uniform(key, x.shape) > 0.3)),
        (None, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) - 1 > -0.3)),
        (None, lambda key, x, rate: x * (bytes_of(key, x.shape) * np.uint32(3) > 99)),
        (None, lambda key, x, rate: x * (jax.random.normal(key, x.shape) > 0.3)),
        (None, lambda key, x, rate: x * (jax.random.exponential(key, x.shape) > 0.3)),
        (None, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) ** 2 > 0.3)),
        (0.2, lambda key, x, rate: x * (mantissas(key, x.shape) - 1 >= rate)),
        (None, lambda key, x, rate: x * (mantissas(key, x.shape) - 1.25 >= 0.2)),
        (None, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) / -2 > -0.15)),
        (None, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) / 0 > 1)),
        (0.0, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) < 1.5)),
        (1.0, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) > 1.5)),
        (0.0, lambda key, x, rate: x * (jax.random.uniform(key, x.shape) > -0.5)),
        (None, lambda key, x, rate: jnp.where(jax.random.normal(key, x.shape) > 0.3, 0, x)),
        (1.0, lambda key, x, rate: x * (jax.random.bernoulli(key, 1 - rate, x.shape) / (1 - rate))),
        (0.25, lambda key, x, rate: x * (words(key, x.shape) < np.uint16(0.75 * 2**16))),
    ],
)
def test_the_rate_is_read_from_the_threshold(rate: float | None, drop: Fn) -> None:
    """It is not known where what is compared is not uniform."""

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return drop(key, jnp.tanh(x), rate)

    site = only(run, KEY, X)
    assert site.rate == rate
    assert (site.variant, site.shape, site.shared_axes) == ("dropout", X.shape, ())


def test_a_traced_rate_is_said_to_be_traced() -> None:
    assert only(model, W, KEY, X, array(), jaxdrop.dropout).rate == "traced"


def test_a_layer_that_is_skipped_is_a_site() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(jax.random.bernoulli(key, 0.8), jnp.tanh, lambda x: x, x)

    site = only(run, KEY, X)
    assert (site.variant, site.shared_axes) == ("layer drop", (0, 1))
    assert site.rate == pytest.approx(0.2)


@pytest.mark.parametrize("shape", [(1, 6, 8), (4, 1, 8), (4, 6, 1), (4, 1, 1)])
def test_shared_axes_are_those_of_length_one_in_the_mask(shape: tuple[int, ...]) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, shape), jnp.tanh(x), 0)

    site = only(run, KEY, array(4, 6, 8))
    assert site.shared_axes == tuple(axis for axis in range(3) if shape[axis] == 1)
    assert site.random_bits == 32 * np.prod(shape)
    assert site.variant == ("drop path" if shape == (4, 1, 1) else "dropout")


def test_vmap_over_keys_draws_for_each_and_over_arrays_shares() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return dropout(key, jnp.tanh(x), 0.1)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    assert only(jax.vmap(run), keys, array(4, 8)).shared_axes == ()
    assert only(jax.vmap(run, in_axes=(None, 0)), KEY, array(4, 8)).shared_axes == (0,)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (KEY, "threefry2x32"),
        (FAST, "jaxdrop"),
        (jax.eval_shape(lambda: jax.random.key(0, impl="rbg")), "rbg"),
        (jax.ShapeDtypeStruct((2,), jnp.uint32), "threefry2x32"),
    ],
    ids=["threefry", "hash", "rbg", "legacy"],
)
def test_the_generator_is_that_of_the_key(key: Any, name: str) -> None:
    for fn in (model, ours):
        site = only(fn, W, key, X)
        assert site.generator == name
        assert site.random_bits == 32 * np.prod(X.shape)


@pytest.mark.parametrize("steps", [None, 3], ids=["while", "scan"])
def test_a_site_in_a_loop_that_carries_is_found(steps: int | None) -> None:
    def run(key: jax.Array, w: jax.Array, x: jax.Array, most: jax.Array, fresh: bool) -> jax.Array:
        def body(number: jax.Array, x: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, number) if fresh else key
            return dropout(own, jnp.tanh(x @ w), 0.1)

        return jax.lax.fori_loop(0, most if steps is None else steps, body, x)

    for fresh in (True, False):
        args = KEY, array(16, 16), X, array(dtype=jnp.int32)
        report = audit.check(functools.partial(run, fresh=fresh), *args)
        assert [site.rate for site in report.sites] == [pytest.approx(0.1)]
        # One mask for all steps may be meant: recurrent layers have it.
        assert not report.findings


def test_this_library_keeps_a_key_and_others_keep_a_mask() -> None:
    def gradient(fn: Fn) -> Fn:
        return lambda w, key, x: jax.grad(lambda w: jnp.square(fn(w, key, x)).mean())(w)

    for wrap in (gradient, lambda fn: fn):
        assert only(wrap(ours), W, KEY, X).kept_bytes == 8
        assert only(wrap(model), W, KEY, X).kept_bytes == np.prod(X.shape)


def test_a_loop_multiplies_what_is_drawn() -> None:
    def run(w: jax.Array, keys: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return jax.checkpoint(dropout, static_argnums=2)(key, x @ w, 0.1), None

        return jax.lax.scan(layer, x, keys)[0]

    def blocks(key: jax.Array, q: jax.Array) -> jax.Array:
        return jaxdrop.dot_product_attention(key, q, q, q, 0.25, block_sizes=(128, 128))

    site = only(blocks, FAST, array(1, 512, 2, 8))
    assert (site.repeats, site.shape, site.rate) == (16, (1, 2, 1, 128, 128), 0.25)
    assert site.random_bits == 32 * 2 * 512**2
    assert site.kept_bytes == 8  # one key for all blocks

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    gradient = jax.grad(lambda w, keys, x: jnp.square(run(w, keys, x)).sum())
    for fn in (run, gradient):
        site = only(fn, array(16, 16), keys, X)
        assert (site.repeats, site.shape) == (3, X.shape)
        assert site.random_bits == 3 * 32 * np.prod(X.shape)


def test_of_programs_for_several_platforms_only_the_one_that_runs_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attention on a CPU, by parts of the batch and of the heads, is one such program."""
    monkeypatch.setattr(_block_sizes, "parts", lambda *_: (2, 2))

    def attend(key: jax.Array, q: jax.Array) -> jax.Array:
        return jaxdrop.dot_product_attention(key, q, q, q, 0.25, block_sizes=(64, 64))

    site = only(attend, FAST, array(4, 128, 2, 8))
    assert (site.repeats, site.shape) == (16, (2, 1, 1, 64, 64))
    assert site.random_bits == 32 * 4 * 2 * 128**2


def test_calls_in_a_loop_of_a_library_are_sites_of_their_own() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            drop = jaxdrop.linen.Dropout(0.1, deterministic=False)
            inner = jaxdrop.dropout(self.make_rng("dropout"), jnp.tanh(drop(x)), 0.2)
            return x + jaxdrop.linen.Dropout(0.3, deterministic=False)(inner), None

    layers = nn.scan(nn.remat(Block), split_rngs={"dropout": True}, length=2)()

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: layers.apply({}, x, None, rngs={"dropout": key})[0].sum())(x)

    sites = audit.check(run, KEY, X, training=True).sites
    assert [site.rate for site in sites] == [0.1, 0.2, 0.3]
    assert {site.random_bits for site in sites} == {2 * 32 * 8 * 16}


def test_a_key_that_is_repeated_for_a_loop_is_one_key() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        def micro_batch(_: None, key: jax.Array) -> tuple[None, jax.Array]:
            return None, dropout(key, x, 0.1)

        return jax.lax.scan(micro_batch, None, jnp.broadcast_to(key, (3,)))[1]

    assert [finding.id for finding in audit.check(run, KEY, X).findings] == ["JD203"]


def test_devices_that_compute_the_same_may_draw_the_same() -> None:
    def body(w: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        return model(w, key, x)

    alike = sharded(body, 2, "data", (ALL, ALL, ALL), ALL)
    assert not audit.check(alike, W, KEY, X).findings


def test_what_devices_return_depends_on_the_loop_around_them() -> None:
    """The key of a step, made on the devices: each step has its mask."""
    next_key = sharded(lambda key: jax.random.fold_in(key, 1), 2, "data", (ALL,), ALL)

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        def step(_: None, key: jax.Array) -> tuple[None, jax.Array]:
            return None, dropout(next_key(key), x, 0.1)

        return jax.lax.scan(step, None, jax.random.split(key, 3))[1]

    assert not audit.check(run, KEY, X).findings


def test_random_numbers_that_drop_nothing_are_no_sites() -> None:
    def positions(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.arange(16, dtype=x.dtype), x.shape)

    def run(key: jax.Array, x: jax.Array, tokens: jax.Array) -> Any:
        keys = jax.random.split(key, 5)
        noise = jnp.tanh(x) + jnp.exp(x) * jax.random.normal(keys[0], x.shape)
        flipped = jnp.where(jax.random.bernoulli(keys[1], 0.5, (8, 1)), x[:, ::-1], x)
        ids = jnp.where(jax.random.bernoulli(keys[2], 0.15, (8,)), 103, jnp.arange(8))
        chosen = jax.random.categorical(keys[3], x)
        signs = jnp.tanh(x) * jnp.where(jax.random.bernoulli(keys[1], 0.5, x.shape), 1, -1)
        mixed = jnp.where(jax.random.bernoulli(keys[2], 0.9, x.shape), jnp.tanh(x), noise / noise)
        swapped = jnp.where(jax.random.bernoulli(keys[3], 0.9, x.shape), x, positions(x))
        moved = jax.random.permutation(keys[4], x)
        whole = jnp.where(jax.random.bernoulli(keys[0], 0.9, X.shape), tokens, 0)
        counts = tokens * jax.random.bernoulli(keys[1], 0.9, X.shape)
        held = positions(x) * jax.random.bernoulli(keys[2], 0.9, X.shape)
        known = jax.lax.cond(jax.random.bernoulli(keys[3]), lambda: 2.0, lambda: 3.0)
        whole_numbers = jnp.asarray(np.arange(128).reshape(8, 16)).astype(x.dtype)
        numbers = whole_numbers * jax.random.bernoulli(keys[0], 0.9, X.shape)
        last, rows = jax.lax.scan(lambda c, i: (c + i, 2 * c), jnp.zeros(16), jnp.arange(8.0))
        looped = rows * jax.random.bernoulli(keys[1], 0.9, X.shape)
        final = last * jax.random.bernoulli(keys[2], 0.9, (16,))
        coin = jax.random.bernoulli(keys[0], 0.5, x.shape)
        shifted = [
            jnp.tanh(x) * (2 * coin - 1),
            (1 - 2 * coin) * jnp.tanh(x),
            jnp.exp(x) * (1 + coin),
        ]
        mixture = noise, flipped, ids, chosen, signs, mixed, swapped, moved, whole, counts
        return mixture, held, known, numbers, looped, final, shifted

    assert audit.check(run, KEY, X, array(*X.shape, dtype=jnp.int32)).sites == []


def test_arrays_that_the_function_holds_are_dropped_too() -> None:
    held = np.arange(32.0, dtype=np.float32).reshape(4, 8)
    rates = np.linspace(0, 0.5, 8, dtype=np.float32)
    drop = nn.Dropout(0.25, deterministic=False)
    for fn in (
        lambda key: dropout(key, jnp.asarray(held), 0.25),
        lambda key: drop.apply({}, held, rngs={"dropout": key}) * 2,
        lambda key: jaxdrop.dropout(key, held @ held.T, 0.25),
    ):
        site = only(fn, KEY, training=True)
        assert (site.rate, site.shape[0]) == (0.25, 4)
    assert only(lambda key, x: jaxdrop.dropout(key, x, rates), KEY, array(4, 8)).rate is None


def test_what_no_result_needs_is_no_site() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        model(w, key, x)
        return x @ w["w"]

    assert audit.check(run, W, KEY, X).sites == []


def test_two_passes_with_one_key_are_not_two_sites_of_one_key() -> None:
    """As in sharpness-aware minimization, whose second gradient is taken with the same masks."""

    def step(w: Any, key: jax.Array, x: jax.Array) -> Any:
        gradient = jax.grad(lambda w: jnp.square(model(w, key, x)).mean())
        return gradient(jax.tree.map(jnp.add, w, gradient(w)))

    def twice(w: Any, key: jax.Array, x: jax.Array, drop: Fn = dropout) -> jax.Array:
        for _ in range(2):
            x = drop(key, jnp.tanh(x @ w["w"]), 0.1)
        return x @ w["v"]

    def of_words(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
        return x * (words(key, x.shape) >= np.uint16(rate * 2**16))

    assert audit.check(step, W, KEY, X).findings == []
    for drop in (dropout, of_words):
        report = audit.check(functools.partial(twice, drop=drop), W, KEY, X)
        assert [each.id for each in report.findings] == ["JD201"]


def test_layers_that_are_off_have_a_row() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dropout(0.4, deterministic=True)(x)

    site = only(lambda x: Net().apply({}, x), X)
    row = audit.Site(
        "Dropout_0", "Dropout (off)", 0.4, (), (), "", 0, 0, 0, 0, active=False, repeats=1
    )
    assert site == row


def test_the_place_is_the_path_of_the_module_and_the_line() -> None:
    class Inner(nnx.Module):
        def __init__(self) -> None:
            self.drop = nnx.Dropout(0.1)

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            return self.drop(x, rngs=key)

    class Outer(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([Inner(), Inner()])

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            return self.layers[1](x, key)

    found = Outer()
    report = audit.check(nnx.jit(lambda model, x, key: model(x, key)), found, X, KEY)
    (where,) = (site.where for site in report.sites if site.active)
    assert where.startswith("layers/1/drop (")
    assert "tests/audit/test_sites.py:" in where
    assert type(found) is Outer  # the model itself is not changed
    assert type(found.layers[1]) is Inner


def test_a_model_is_audited_without_a_change_of_its_state() -> None:
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    before = int(model.rngs.count[...])
    audit.check(lambda model, x: model(x), model, X)
    assert int(model.rngs.count[...]) == before


def test_a_function_that_closes_over_a_model_is_told_so() -> None:
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    with pytest.raises(Exception, match="trace level") as caught:
        audit.check(lambda x: model(x), X)
    assert "check(lambda model, x" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": "stpe"}, ValueError, "step='stpe' names no argument"),
        ({"step": 3}, ValueError, "step=3 names no argument"),
        ({"step": True}, TypeError, "step must be the number or the name"),
        ({"step": 1.5}, TypeError, "step must be the number or the name"),
        ({"select": ["JX"]}, ValueError, "select must hold ids of rules"),
        ({"ignore": "JD9"}, ValueError, "ignore must hold ids of rules"),
        ({"training": "yes"}, TypeError, "training"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        audit.check(model, W, KEY, X, **options)


def test_select_and_ignore() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return model(w, jax.random.key(0), x, 0.9)

    def ids(**options: Any) -> list[str]:
        return [each.id for each in audit.check(run, W, KEY, X, **options).findings]

    assert ids() == ["JD205", "JD304"]
    assert ids(select="JD2") == ids(ignore=["JD304"]) == ["JD205"]
    assert ids(select=["JD205", "JD3"], ignore=["JD2"]) == ["JD304"]


def test_a_vector_has_no_path_to_drop() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), jnp.tanh(x), 0)

    assert only(run, KEY, array(8)).variant == "dropout"


def hand_made(key: jax.Array, x: jax.Array) -> jax.Array:
    return dropout(key, jnp.tanh(x), 0.1)


def of_words(words: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x) * (jax.lax.rng_bit_generator(words, x.shape, jnp.uint32)[1] >= 64)


def key_of(impl: str) -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl=impl))


@pytest.mark.parametrize(
    ("fn", "key", "word"),
    [
        (hand_made, KEY, 110),
        (hand_made, FAST, 15),
        (hand_made, key_of("rbg"), 2),
        (hand_made, key_of("unsafe_rbg"), 2),
        (of_words, array(4, dtype=jnp.uint32), 60),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_costs_of_a_site(fn: Fn, key: Any, word: int, times: int) -> None:
    """An array is read and written. A word takes the operations of its generator, six that compare
    it, and two that apply the mask, in each iteration of a loop.
    """

    def looped(keys: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, key: (fn(key, x), None), x, keys)[0]

    keys = jax.ShapeDtypeStruct((times, *key.shape), key.dtype)
    site = only(looped, keys, X) if times > 1 else only(fn, key, X)
    entries = times * np.prod(X.shape)
    assert site.flops == entries * (word + 6 + 2)
    assert (site.bytes, site.random_bits) == (2 * 4 * entries, 32 * entries)
    assert (site.repeats, site.kept_bytes) == (times, entries)


def test_costs_of_a_mask_that_entries_share() -> None:
    """It is kept as it was drawn."""

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, (8, 1)), jnp.tanh(x), 0)

    site = only(run, KEY, X)
    assert (site.flops, site.kept_bytes, site.random_bits) == (8 * 116 + 2 * 128, 8, 8 * 32)
    assert site.bytes == 2 * 4 * 128


def gone_over(w: Any, keys: jax.Array, x: jax.Array, drop: Fn) -> jax.Array:
    def body(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return drop(key, jnp.tanh(x @ w)), None

    return jax.lax.scan(body, x, keys)[0].sum()


def carried(w: Any, keys: jax.Array, x: jax.Array, drop: Fn) -> jax.Array:
    def body(carry: Any, _: None) -> tuple[Any, None]:
        own, following = jax.random.split(carry[1])
        return (drop(own, jnp.tanh(carry[0] @ w)), following), None

    return jax.lax.scan(body, (x, keys[0]), None, length=3)[0][0].sum()


def at_once(w: Any, keys: jax.Array, x: jax.Array, drop: Fn) -> jax.Array:
    return drop(keys[0], jnp.tanh(x @ w)).sum()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("fn", "times"), [(at_once, 1), (gone_over, 3), (carried, 3)])
@pytest.mark.parametrize(
    ("drop", "impl", "each"),
    [
        (lambda key, x: dropout(key, x, 0.1), "threefry2x32", 128),
        (lambda key, x: jaxdrop.dropout(key, x, 0.1), "threefry2x32", 8),
        (lambda key, x: jaxdrop.dropout(key, x, 0.1), "rbg", 16),
        (jax.checkpoint(lambda key, x: dropout(key, x, 0.1)), "threefry2x32", 8),
    ],
    ids=["a mask", "a key", "a long key", "a checkpoint"],
)
def test_what_is_kept_for_the_backward_pass(
    gradient: bool, fn: Fn, times: int, drop: Fn, impl: str, each: int
) -> None:
    """In each iteration a mask; the keys of this library, and of a checkpoint."""

    def run(w: Any, keys: jax.Array, x: jax.Array) -> Any:
        return (jax.grad(fn) if gradient else fn)(w, keys, x, drop)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=impl), 3))
    assert only(run, array(16, 16), keys, X).kept_bytes == times * each


def test_a_mask_that_no_gradient_is_taken_through_is_not_kept() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> Any:
        return dropout(key, jnp.tanh(x), 0.1), jax.grad(lambda w: jnp.square(x @ w).sum())(w)

    assert only(run, array(16, 16), KEY, X).kept_bytes == 0


def test_a_mask_whose_rate_is_computed_behind_another_is_one_of_its_own() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        y = dropout(first, jnp.tanh((x @ w)[:, :4]), 0.1)
        rate = jax.lax.stop_gradient(jnp.exp(-y[0].sum()))
        return dropout(second, jnp.tanh(x @ w), rate).sum() + y.sum()

    for fn in (run, jax.grad(run)):
        sites = audit.check(fn, array(16, 16), KEY, X).sites
        kept = {site.shape: (site.rate, site.kept_bytes) for site in sites}
        assert kept == {(8, 4): (0.1, 32), (8, 16): ("traced", 128)}


def test_a_place_has_a_name_and_a_number_of_turns() -> None:
    assert Place().where == "?"
    for jaxpr in (None, types.SimpleNamespace(debug_info=None)):  # of which JAX says nothing
        assert not function_is_library(jaxpr)
    assert Place(("a/b", "jit(c)/jaxdrop.dropout/d")).where == "a/b/c/d"
    outer = Loop("scan", 2, 4, 3, "", Place())
    inner = Loop("while", 8, 16, None, "", Place())
    last = Loop("scan", 32, 64, 5, "", Place())
    place = Place(loops=(outer, inner, last))
    assert place.repeats == 15
    assert [place.runs(deps) for deps in (0, 2, 8, 32, 8 | 32, 2 | 32)] == [1, 3, 1, 5, 5, 15]


@pytest.mark.parametrize(
    ("path", "inside"),
    [("", True), ("a", True), ("c", True), ("a/b", True), ("b/c", True), ("a/b/c", True),
     ("a/~/b", True), ("a/c", False), ("a/b/c/d", False), ("d", False), ("b/a", False)],
)  # fmt: skip
def test_a_place_is_within_the_modules_of_its_path(path: str, inside: bool) -> None:
    assert Place(("jit(f)/a", "b/c")).within(path) is inside


def test_a_place_of_an_object_is_within_the_whole_path() -> None:
    place = Place(("model:net.a/x", "model:net.a.b/y"))
    assert place.path == ("net", "a", "b")
    assert [place.within(path) for path in ("net/a/b", "net/a", "net", "a/b")] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "shared"),
    [
        ((4, 2, 8), ()), ((4, 1, 8), (1,)), ((1, 2, 1), (0, 2)), ((1, 1, 1), (0, 1, 2)),
        ((8,), (0, 1)), ((), (0, 1, 2)),
    ],
)  # fmt: skip
def test_axes_of_length_two_are_shared_and_of_length_one_are_not(
    mask: tuple[int, ...], shared: tuple[int, ...]
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, mask), jnp.tanh(x), 0)

    assert only(run, KEY, array(4, 2, 8)).shared_axes == shared
    if mask[1:2] == (1,):
        assert only(run, KEY, array(4, 1, 8)).shared_axes == tuple(at for at in shared if at != 1)


@pytest.mark.parametrize(
    ("shared", "made"),
    [
        ((1, 3), lambda draw: draw(2, 4).reshape(2, 1, 4, 1)),
        ((0, 2), lambda draw: draw(2, 1, 2).reshape(2, 2)[None, :, None, :]),
        ((0, 3), lambda draw: draw(4, 2).T.reshape(1, 2, 4, 1)),
        ((), lambda draw: draw(8, 4).reshape(2, 2, 4, 2)),
        ((2, 3), lambda draw: draw(4).reshape(2, 2, 1, 1)),
        ((1, 3), lambda draw: jnp.broadcast_to(draw(2, 1, 4), (2, 2, 4)).reshape(2, 2, 4, 1)),
    ],
)
def test_axes_of_masks_that_are_reshaped(shared: tuple[int, ...], made: Fn) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        mask = made(lambda *shape: jax.random.bernoulli(key, 0.9, shape))
        return jnp.where(mask, jnp.tanh(x), 0)

    assert only(run, KEY, array(2, 2, 4, 2)).shared_axes == shared


@pytest.mark.parametrize("tiled", [False, True])
def test_masks_that_are_repeated_or_stacked(tiled: bool) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        if tiled:
            keep = jnp.tile(jax.random.bernoulli(key, 0.9, (2, 1, 1, 5)), (1, 3, 4, 1))
        else:
            bits = jax.random.uniform(key, (2, 3, 4, 5))
            keep = jnp.stack([bits[0], bits[1]]) < 0.9
        return jnp.where(keep, jnp.tanh(x), 0)

    site = only(run, KEY, array(2, 3, 4, 5))
    assert (site.shared_axes, site.rate) == ((1, 2) if tiled else (), pytest.approx(0.1))
