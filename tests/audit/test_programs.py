"""What may stand between a key and an array: arithmetic, loops, branches, devices, references."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.sharding import Mesh, PartitionSpec

from jaxdrop import audit
from jaxdrop.audit import _control
from jaxdrop.audit._graph import Graph, ancestors, descendants
from tests.audit.gallery import KEY, STEP, array
from tests.audit.gallery._jax import ALL, ROWS, W, X, dropout, model, sharded

pytestmark = pytest.mark.usefixtures("relaxed")

Fn = Callable[..., Any]
FOLD = jax.random.fold_in
KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))


def found(fn: Fn, *args: Any, **options: Any) -> list[str]:
    return [each.id for each in audit.check(fn, *args, **options).findings]


def only(fn: Fn, *args: Any, **options: Any) -> audit.Site:
    (site,) = audit.check(fn, *args, **options).sites
    return site


def keep(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.bernoulli(key, 0.9, shape)


def layer(key: jax.Array, w: Any, x: jax.Array) -> jax.Array:
    return dropout(key, jnp.tanh(x @ w["w"]), 0.1)


@pytest.mark.parametrize(
    ("variant", "shared", "drop"),
    [
        ("DropKey", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, -jnp.inf)),
        ("DropKey", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, -1e9)),
        ("DropKey", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, -1001)),
        ("alpha dropout", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, -1000)),
        ("alpha dropout", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, -1.758)),
        ("alpha dropout", (), lambda key, x: jnp.where(keep(key, 2, 3, 4, 5), x, 1)),
        ("dropout", (0, 1, 2, 3), lambda key, x: lax.select(keep(key), x, jnp.zeros_like(x))),
        ("spatial dropout", (1, 2), lambda key, x: jnp.where(keep(key, 2, 1, 1, 5), x, 0)),
        ("drop path", (1, 2, 3), lambda key, x: jnp.where(keep(key, 2)[:, None, None, None], x, 0)),
        ("dropout", (1,), lambda key, x: jnp.where(keep(key, 2, 20).reshape(2, 1, 4, 5), x, 0)),
        ("dropout", (0, 3), lambda key, x: jnp.where(keep(key, 4, 3).T[:, :, None], x, 0)),
        ("dropout", (0, 1, 3), lambda key, x: jnp.where(keep(key, 1, 4).reshape(4, 1), x, 0)),
        ("layer drop", (0, 1, 2, 3), lambda key, x: lax.cond(keep(key), jnp.exp, jnp.sin, x)),
    ],
)
def test_a_mask_made_by_hand_has_a_name(variant: str, shared: tuple[int, ...], drop: Fn) -> None:
    site = only(lambda key, x: drop(key, jnp.tanh(x)), KEY, array(2, 3, 4, 5))
    assert (site.variant, site.shared_axes, site.rate) == (variant, shared, 0.1)


SOFTMAX = jax.nn.softmax


@pytest.mark.parametrize(
    ("variant", "of"),
    [
        ("attention dropout", SOFTMAX),
        ("attention dropout", lambda x: SOFTMAX(x) / 0.9 * 2),
        ("attention dropout", lambda x: SOFTMAX(x).astype(jnp.bfloat16).swapaxes(2, 3)),
        ("attention dropout", lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)),
        ("dropout", lambda x: jnp.exp(x) / jnp.exp(x).max(-1, keepdims=True)),
        ("dropout", lambda x: jnp.tanh(x) / jnp.tanh(x).sum(-1, keepdims=True)),
        ("dropout", lambda x: SOFTMAX(x) * jnp.tanh(x)),
        ("dropout", lambda x: SOFTMAX(x) + 1),
    ],
)
def test_weights_of_attention_are_a_softmax(variant: str, of: Fn) -> None:
    """Up to its place and a constant factor."""
    site = only(lambda key, x: jnp.where(keep(key, *x.shape), of(x), 0), KEY, array(2, 3, 4, 4))
    assert site.variant == variant


@pytest.mark.parametrize(("shape", "count"), [((2,), 1), ((1,), 0), ((), 0), ((1, 2), 1)])
def test_a_factor_of_one_number_is_no_mask(shape: tuple[int, ...], count: int) -> None:
    sites = audit.check(lambda key, x: jnp.tanh(x) * keep(key, *shape), KEY, array(*shape)).sites
    assert len(sites) == count


@pytest.mark.parametrize("count", [1, 2, 3])
def test_keys_of_rbg_under_vmap_are_counted(count: int) -> None:
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="rbg"), count))
    run = jax.vmap(lambda key, x: dropout(key, jnp.tanh(x), 0.1))
    evidence = [each.evidence for each in audit.check(run, keys, array(count, 8)).findings]
    assert evidence == ([f"{count} rbg keys are drawn from"] if count > 1 else [])


def test_the_rate_of_a_mask_that_meets_itself_is_unknown() -> None:
    """As where blocks are dropped: an entry is kept if its neighbors are, too."""

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        mask = keep(key, *x.shape[:-1], 1)
        kept = mask & jnp.roll(mask, 1, 0)
        return jnp.where(kept & jnp.roll(kept, -1, 0), jnp.tanh(x), 0)

    def rolled(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jnp.roll(keep(key, *x.shape[:-1], 1), 1, 0), jnp.tanh(x), 0)

    def of_traced(key: jax.Array, x: jax.Array, rate: jax.Array) -> jax.Array:
        mask = jax.random.bernoulli(key, rate, (*x.shape[:-1], 1))
        return jnp.where(mask & jnp.roll(mask, 1, 0), jnp.tanh(x), 0)

    for fn, rate in ((run, None), (rolled, 0.1)):
        site = only(fn, KEY, array(4, 6, 8))
        assert (site.rate, site.shared_axes) == (rate, (2,))
    assert only(of_traced, KEY, array(4, 6, 8), array()).rate == "traced"


@pytest.mark.parametrize(
    ("rate", "factor"),
    [
        (0.1, lambda key, shape: ~jax.random.bernoulli(key, 0.1, shape)),
        (0.2, lambda key, shape: jnp.where(jax.random.bernoulli(key, 0.2, shape), 0.0, 1.25)),
        (0.2, lambda key, shape: jnp.where(jax.random.uniform(key, shape) > 0.2, 1.25, 0.0)),
        (0.25, lambda key, shape: byte(key, shape) < jnp.bitwise_and(BYTE, SOME)),
        (0.25, lambda key, shape: byte(key, shape) < ~jnp.bitwise_or(~BYTE, ~SOME)),
        (None, lambda key, shape: byte(key, shape) & 7 != 0),
        (0.25, lambda key, shape: uniform(key, shape) < jnp.where(jnp.array(True), 0.75, 0.5)),
        (0.25, lambda key, shape: uniform(key, shape) < jnp.where(jnp.array(False), 0.5, 0.75)),
        (0.25, lambda key, shape: uniform(key, shape) < jnp.where(jnp.all(YES), 0.75, 0.5)),
        (0.75, lambda key, shape: uniform(key, shape) < jnp.float32(0.5) ** 2),
        (0.2, lambda key, shape: jax.random.bernoulli(key, 0.2, shape) - 1),
        (0.2, lambda key, shape: 1.25 - 1.25 * jax.random.bernoulli(key, 0.2, shape)),
        (0.2, lambda key, shape: jax.random.bernoulli(key, 0.8, shape) * 1.25 - 0.0),
    ],
)
def test_the_rate_is_that_of_what_an_array_is_multiplied_by(rate: float | None, factor: Fn) -> None:
    """It is not known of bits that are compared for equality."""
    found = only(lambda key, x: jnp.tanh(x) * factor(key, x.shape), KEY, X).rate
    assert found == (rate if rate is None else pytest.approx(rate, abs=1e-6))


BYTE, SOME, YES = np.uint8(255), np.uint8(192), np.ones((), bool)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape)


def byte(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bits(key, shape, np.uint8)


@pytest.mark.parametrize(
    ("rate", "test"),
    [
        (0.1, lambda mask: mask != 0),
        (0.1, lambda mask: mask > 0),
        (0.1, lambda mask: jnp.less(0, mask)),
        (0.1, lambda mask: mask == 2),
        (0.1, lambda mask: mask >= 1),
        (0.9, lambda mask: mask == 0),
        (0.9, lambda mask: mask < 1),
        (0.9, lambda mask: mask != 2),
        (0.9, lambda mask: jnp.greater(1, mask)),
        (None, lambda mask: mask >= 0),
        (None, lambda mask: mask > mask.sum()),
    ],
)
def test_a_mask_may_be_stored_as_a_number_and_compared(rate: float | None, test: Fn) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(test(2 * keep(key, *x.shape).astype(jnp.int8)), jnp.tanh(x), 0)

    def traced(key: jax.Array, x: jax.Array, rate: jax.Array) -> jax.Array:
        mask = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(test(2 * mask.astype(jnp.int8)), jnp.tanh(x), 0)

    assert only(run, KEY, X).rate == rate
    assert only(traced, KEY, X, array()).rate == "traced"


def test_a_mask_may_be_scaled_by_a_value_of_the_program() -> None:
    def run(key: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.tanh(x) * (keep(key, *x.shape) * scale)

    assert only(run, KEY, X, array()).rate == 0.1


@pytest.mark.parametrize(
    "of",
    [
        lambda mask: ~mask,
        lambda mask: 1 - mask,
        lambda mask: mask - 1,
        lambda mask: mask / 0.9,
        lambda mask: 2.0 * mask,
        lambda mask: jnp.where(mask, 2.0, 0.0),
        lambda mask: jnp.where(mask, 0.0, 2.0),
    ],
)
def test_what_is_made_of_a_mask_of_a_traced_rate_has_it(of: Fn) -> None:
    def run(key: jax.Array, x: jax.Array, rate: jax.Array) -> jax.Array:
        return jnp.tanh(x) * of(jax.random.bernoulli(key, rate, x.shape))

    assert only(run, KEY, X, array()).rate == "traced"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mask_may_choose_a_scale_of_the_program(swapped: bool) -> None:
    def run(key: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
        mask = keep(key, *x.shape)
        factor = jnp.where(~mask, 0.0, scale) if swapped else jnp.where(mask, scale, 0.0)
        return jnp.tanh(x) * factor

    assert only(run, KEY, X, array()).rate == pytest.approx(0.1)


def test_constants_that_are_infinite_are_no_warning() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        infinite = jnp.inf * keep(key, *x.shape) - jnp.inf  # NaN or minus infinity
        return dropout(key, jnp.tanh(x), 0.1) * infinite - jnp.log(jnp.zeros(x.shape))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert only(run, KEY, X).rate == 0.1


def test_one_mask_for_two_arrays_is_one_site() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        mask = keep(key, *x.shape)
        return jnp.where(mask, jnp.tanh(x), 0) + jnp.where(mask, jnp.exp(x), 0)

    assert only(run, KEY, X).random_bits == 32 * np.prod(X.shape)


def test_a_key_may_be_chosen_at_random() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        first, second, choice = jax.random.split(key, 3)
        return dropout(jnp.where(jax.random.bernoulli(choice), first, second), jnp.tanh(x), 0.1)

    def or_constant(key: jax.Array, x: jax.Array) -> jax.Array:
        first, choice = jax.random.split(key)
        own = jnp.where(jax.random.bernoulli(choice), first, jax.random.key(3))
        return dropout(own, jnp.tanh(x), 0.1)

    for fn in (run, or_constant):
        assert only(fn, KEY, X).rate == 0.1


def test_the_compilers_generator_takes_no_key() -> None:
    def run(words: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x) * (lax.rng_bit_generator(words, x.shape, np.uint8)[1] >= 64)

    site = only(run, array(4, dtype=jnp.uint32), X)
    assert (site.rate, site.generator) == (0.25, "raw words")
    assert site.random_bits == 8 * np.prod(X.shape)


@pytest.mark.parametrize(
    ("text", "derived"),
    [
        ("k", lambda k: jax.random.wrap_key_data(jax.random.key_data(k))),
        ("k", lambda k: k.reshape(1)[0]),
        ("key(7)", lambda k: jax.random.key(7)),
        ("fold_in(k, 3)", lambda k: jax.random.fold_in(k, 3)),
        ("fold_in(fold_in(k, 3), 5)", lambda k: jax.random.fold_in(jax.random.fold_in(k, 3), 5)),
        (f"{6 * 'fold_in('}..., 2), 3), 4), 5), 6), 7)", lambda k: reduce(FOLD, range(1, 8), k)),
        ("split(k)[...]", lambda k: jax.random.split(k, (2, 2))[0, 1]),
        ("random_clone(k)", jax.random.clone),
        ("a constant[...]", lambda k: jax.random.wrap_key_data(WORDS)[0]),
    ],
)
def test_a_finding_says_where_its_key_comes_from(text: str, derived: Fn) -> None:
    def run(k: jax.Array, x: jax.Array) -> jax.Array:
        return dropout(derived(k), jnp.tanh(dropout(derived(k), jnp.exp(x), 0.1)), 0.1)

    (finding,) = audit.check(run, KEY, X, select=["JD201"]).findings
    assert finding.evidence.startswith(f"the key {text} also draws at ")


WORDS = np.arange(4, dtype=np.uint32).reshape(2, 2)


def test_a_finding_says_which_key_a_device_has_a_part_of() -> None:
    def body(keys: jax.Array, x: jax.Array) -> jax.Array:
        return dropout(keys[0], jnp.tanh(dropout(keys[0], jnp.exp(x), 0.1)), 0.1)

    report = audit.check(sharded(body, 3, "data", (ROWS, ROWS), ROWS), KEYS, array(6, 16))
    (finding,) = report.findings
    assert finding.evidence.startswith("the key keys also draws at ")


# Loops.


def test_a_loop_whose_length_is_traced() -> None:
    """Its number of iterations is not known, and one mask for all batches is a fault."""

    def step(w: Any, key: jax.Array, batches: jax.Array, count: jax.Array, fold: bool) -> Any:
        def body(index: jax.Array, total: Any) -> Any:
            own = jax.random.fold_in(key, index) if fold else key
            x = lax.dynamic_index_in_dim(batches, index, keepdims=False)
            grads = jax.grad(lambda w: jnp.square(model(w, own, x)).mean())(w)
            return jax.tree.map(jnp.add, total, grads)

        return lax.fori_loop(0, count, body, jax.tree.map(jnp.zeros_like, w))

    arguments = (W, KEY, array(3, 8, 16), STEP)
    assert found(lambda *given: step(*given, fold=True), *arguments) == []
    report = audit.check(lambda *given: step(*given, fold=False), *arguments)
    (finding,) = report.findings
    assert finding.id == "JD203"
    assert finding.evidence.endswith("the key args[1] is the same in all")
    (site,) = report.sites
    assert (site.repeats, site.shape) == (1, X.shape)


def test_operands_of_a_loop_condition_are_not_those_of_its_body() -> None:
    """The bound is one of the condition's constants, the key one of the body's."""

    def run(key: jax.Array, x: jax.Array, bound: jax.Array, low: jax.Array) -> Any:
        def small(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            return (carry[1].sum() < bound) & (carry[1].min() > low)

        def body(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            index, x = carry
            return index + 1, dropout(jax.random.fold_in(key, index), jnp.tanh(x), 0.1)

        return lax.while_loop(small, body, (0, x))

    site = only(run, KEY, X, array(), array())
    assert (site.rate, site.shape, site.generator) == (0.1, X.shape, "threefry2x32")


def test_what_a_loop_carries_unchanged_is_what_it_began_with() -> None:
    """The condition looks at the key, so that the loop carries it."""

    def run(key: jax.Array, batches: jax.Array, w: Any, again: bool) -> Any:
        def more(carry: Any) -> jax.Array:
            return carry[0] < jax.random.key_data(carry[1])[0] % 3

        def body(carry: Any) -> Any:
            index, key, total = carry
            x = lax.dynamic_index_in_dim(batches, index, keepdims=False)
            grads = jax.grad(lambda w: jnp.square(model(w, key, x)).mean())(w)
            following = key if again else jax.random.split(key)[0]
            return index + 1, following, jax.tree.map(jnp.add, total, grads)

        _, key, total = lax.while_loop(more, body, (0, key, jax.tree.map(jnp.zeros_like, w)))
        # The key behind the loop is that of the loop, if it is carried unchanged.
        return total, jnp.where(keep(key, 16, 16), w["w"], 0)

    arguments = (KEY, array(3, 8, 16), W)
    assert found(lambda *given: run(*given, again=True), *arguments) == ["JD201", "JD203"]
    assert found(lambda *given: run(*given, again=False), *arguments) == []


def test_loops_in_loops() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        def outer(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            def inner(x: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
                return layer(jax.random.fold_in(key, index), w, x), None

            return lax.scan(inner, x, jnp.arange(2))

        return lax.scan(outer, x, jax.random.split(key, 3))[0]

    site = only(run, W, KEY, X)
    assert (site.repeats, site.random_bits) == (6, 6 * 32 * np.prod(X.shape))


@pytest.mark.parametrize(("axis", "ids"), [(0, ["JD203"]), (1, [])])
def test_keys_that_are_repeated_along_an_axis(axis: int, ids: list[str]) -> None:
    """Along that of the loop, all iterations have the same ones."""

    def run(keys: jax.Array, x: jax.Array) -> jax.Array:
        def micro_batch(_: None, row: jax.Array) -> tuple[None, jax.Array]:
            return None, dropout(row[0], jnp.tanh(x), 0.1)

        repeated = jnp.broadcast_to(jnp.expand_dims(keys, axis), (3, 3))
        return lax.scan(micro_batch, None, repeated)[1]

    assert found(run, KEYS, X) == ids


@pytest.mark.parametrize(
    ("weights", "product"),
    [
        (True, lambda w, x: x @ w),
        (True, lambda w, x: (w @ x.T).T),
        (True, lambda w, x: x @ w.T),
        (False, lambda w, x: w[:8] * x),
        (False, lambda w, x: x + np.ones((8, 16), np.float32) @ w),
        (False, lambda w, x: x + (w @ w)[:8]),
    ],
)
def test_layers_are_arrays_that_are_multiplied_with_what_a_loop_carries(
    weights: bool, product: Fn
) -> None:
    def run(w: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        def body(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return dropout(key, jnp.tanh(product(w, x)), 0.1), None

        return lax.scan(body, x, w)[0]

    evidence = [each.evidence for each in audit.check(run, array(3, 16, 16), KEY, X).findings]
    text = "the loop goes over layers, and the key key is the same in all of 3"
    assert evidence == ([text] if weights else [])


@pytest.mark.parametrize("inside", [False, True])
def test_what_a_loop_carries_depends_on_its_beginning_and_on_what_replaces_it(
    inside: bool,
) -> None:
    def run(first: jax.Array, keys: jax.Array, x: jax.Array) -> jax.Array:
        def body(carry: Any, key: jax.Array) -> tuple[Any, None]:
            x, own = carry
            return (dropout(own, jnp.tanh(x), 0.1) if inside else x, key), None

        (x, last), _ = lax.scan(body, (x, first), keys)
        return x if inside else dropout(last, jnp.tanh(x), 0.1)

    (finding,) = audit.check(run, KEY, KEYS, X, step="x").findings
    assert finding.evidence == "the mask depends on first, keys, and not on the step"


# Branches, devices, references.


def test_a_choice_by_an_argument_drops_nothing_and_its_branches_may() -> None:
    def run(key: jax.Array, x: jax.Array, which: jax.Array) -> jax.Array:
        branches = [
            lambda x: x,
            lambda x: dropout(key, jnp.tanh(x), 0.1),
            lambda x: dropout(jax.random.fold_in(key, 1), jnp.exp(x), 0.2),
        ]
        return lax.switch(which, branches, x)

    sites = audit.check(run, KEY, X, STEP).sites
    assert [(site.variant, site.rate) for site in sites] == [("dropout", 0.1), ("dropout", 0.2)]


@pytest.mark.parametrize(
    ("size", "groups", "ids"),
    [(1, None, []), (4, None, ["JD204"]), (4, [[0, 1], [2, 3]], [])],
    ids=["one device", "the sum of all", "the sum of a group"],
)
def test_devices_draw_the_same_from_what_is_the_same_on_all(
    size: int, groups: Any, ids: list[str]
) -> None:
    """A sum over all devices is the same on each, that over groups of them is not. One device has
    no other to share a mask with.
    """

    def body(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        total = lax.psum(lax.axis_index("data"), "data", axis_index_groups=groups)
        return model(w, jax.random.fold_in(key, total), x)

    assert found(sharded(body, size, "data", (ALL, ALL, ROWS), ROWS), W, KEY, X) == ids


@pytest.mark.parametrize(
    ("ids", "of"),
    [
        (["JD204"], lambda index: lax.pmax(index, "data")),
        (["JD204"], lambda index: lax.all_gather(index, "data").sum()),
        ([], lambda index: lax.ppermute(index, "data", [(0, 1), (1, 0)])),
    ],
)
def test_what_devices_exchange(ids: list[str], of: Fn) -> None:
    def body(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return model(w, jax.random.fold_in(key, of(lax.axis_index("data"))), x)

    assert found(sharded(body, 2, "data", (ALL, ALL, ROWS), ROWS), W, KEY, X) == ids


def test_a_key_in_two_programs_of_devices_is_one_key() -> None:
    divided = sharded(lambda key, x: dropout(key, jnp.tanh(x), 0.1), 2, "data", (ALL, ALL), ALL)
    assert found(lambda key, x: divided(key, jnp.exp(divided(key, x))), KEY, X) == ["JD201"]


def test_devices_in_a_loop_that_carries_what_they_compute() -> None:
    def body(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return layer(jax.random.fold_in(key, lax.axis_index("data")), w, x)

    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        divided = sharded(body, 2, "data", (ALL, ALL, ROWS), ROWS)
        return lax.scan(lambda x, key: (divided(w, key, x), None), x, jax.random.split(key, 3))[0]

    site = only(run, W, KEY, X)
    assert (site.repeats, site.shape) == (3, (4, 16))


def test_callbacks_and_tokens_are_values_like_others() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        lax.after_all(lax.create_token())
        jax.debug.print("{}", x)
        y = io_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return dropout(key, jnp.tanh(y), 0.1)

    assert only(run, KEY, X).rate == 0.1


@pytest.mark.parametrize("read", [lambda ref: ref[...], jax.freeze])
def test_what_is_read_from_a_reference_is_what_was_written_to_it(read: Fn) -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        ref = jax.new_ref(jnp.zeros(x.shape))
        ref[...] = layer(key, w, x)
        return read(ref) @ w["v"]

    def unread(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        ref = jax.new_ref(jnp.zeros(x.shape))
        ref[...] = layer(key, w, x)
        return x @ w["v"]

    assert only(run, W, KEY, X).rate == 0.1
    assert audit.check(unread, W, KEY, X).sites == []


def test_what_is_written_to_a_reference_outside_is_a_result() -> None:
    ref = jax.new_ref(jnp.zeros(X.shape))

    def given(ref: Any, w: Any, key: jax.Array, x: jax.Array) -> None:
        ref[...] = layer(key, w, x)

    def held(w: Any, key: jax.Array, x: jax.Array) -> None:
        given(ref, w, key, x)

    assert found(given, ref, W, KEY, X, training=True) == []
    assert found(held, W, KEY, X, training=True) == []
    assert not np.any(ref[...])


def test_a_key_in_a_reference_is_renewed() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        ref = jax.new_ref(key)
        for _ in range(2):
            x = layer(ref[...], w, x)
            ref[...] = jax.random.split(ref[...])[0]
        return x @ w["v"]

    assert found(run, W, KEY, X) == []


# Arguments.


@pytest.mark.parametrize(
    ("step", "ids"), [(2, []), ("n", []), (1, []), (3, ["JD202"]), (["n", "x"], [])]
)
def test_a_step_may_be_a_number(step: Any, ids: list[str]) -> None:
    """Numbers are constants, but for the one that changes from step to step."""

    def run(w: Any, key: jax.Array, n: int, x: jax.Array) -> jax.Array:
        return model(w, jax.random.fold_in(key, n), x)

    assert found(run, W, KEY, 0, X, step=step) == ids


class WithoutSignature:
    __signature__ = "unknown"

    def __call__(self, *args: Any) -> Any:
        return model(*args)


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (lambda w, *rest, scale=1.0: model(w, rest[0], rest[1]), ["w", "args[1]", "args[2]"]),
        (lambda *args: model(*args), ["args[0]", "args[1]", "args[2]"]),
        (WithoutSignature(), ["args[0]", "args[1]", "args[2]"]),
    ],
)
def test_arguments_without_a_name_have_a_number(fn: Fn, names: list[str]) -> None:
    for step, ids in ((names[2], ["JD202"]), (2, ["JD202"]), (names[1], []), (1, [])):
        assert found(fn, W, KEY, X, step=step) == ids
    with pytest.raises(ValueError, match="names no argument") as caught:
        audit.check(fn, W, KEY, X, step="args[3]")
    assert str(caught.value).endswith(f"{names[0]}['v'], {names[0]}['w'], {names[1]}, {names[2]}")


def test_an_error_names_the_first_arrays() -> None:
    with pytest.raises(ValueError, match="names no argument") as caught:
        audit.check(lambda *args: args[0], *[X] * 22, step="x")
    assert str(caught.value).endswith(", ".join(f"args[{at}]" for at in range(20)))


def test_a_model_that_comes_back_is_the_state_of_its_argument() -> None:
    """Whatever the name of the argument. The mode of what comes back is another one."""
    given = nnx.Dropout(0.1, deterministic=True, rngs=nnx.Rngs(0))
    other = nnx.Linear(16, 16, rngs=nnx.Rngs(0))

    def run(model: Any, x: jax.Array) -> Any:
        own = nnx.clone(model)
        own.train()
        return own(jnp.tanh(x)), own

    def second(first: Any, net: Any, x: jax.Array, renewed: bool = True) -> Any:
        y, own = run(net, first(x))
        return y, own if renewed else net

    assert found(run, given, X) == []
    assert found(second, other, given, X) == []
    (finding,) = audit.check(partial(second, renewed=False), other, given, X).findings
    assert finding.id == "JD202"
    assert finding.evidence.startswith(
        "the mask depends on rngs.count, rngs.key, which is returned"
    )


def test_state_with_a_key_that_comes_back_unchanged() -> None:
    def step(state: Any, x: jax.Array, renew: bool) -> Any:
        key = jax.random.fold_in(state["key"], 1) if renew else state["key"]
        result = model(state["w"], state["key"], x)
        return result, {"w": jax.tree.map(lambda w: w + result.sum(), state["w"]), "key": key}

    state = {"w": W, "key": KEY}
    assert found(lambda state, x: step(state, x, renew=True), state, X) == []
    (finding,) = audit.check(lambda state, x: step(state, x, renew=False), state, X).findings
    assert finding.id == "JD202"
    assert finding.evidence == "the mask depends on state['key'], which is returned unchanged"

    def alone(w: Any, state: Any, x: jax.Array) -> Any:
        return model(w, state["key"], x), state

    (finding,) = audit.check(alone, W, {"key": KEY}, X).findings
    assert finding.evidence == "the mask depends on state['key'], which is returned unchanged"


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    def run(x: jax.Array) -> jax.Array:
        raise ValueError("of the function")

    with pytest.raises(ValueError, match="of the function") as caught:
        audit.check(run, X)
    assert "Audit a function" not in "".join(getattr(caught.value, "__notes__", ()))


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(on: bool) -> None:
    was_on = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        audit.check(model, W, KEY, X)
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_operations_of_other_parameters_are_other_values() -> None:
    moved = Primitive("moved")
    moved.def_abstract_eval(lambda key, by: key)

    def run(key: jax.Array, x: jax.Array, by: Any, other: Any) -> jax.Array:
        first, second = moved.bind(key, by=by), moved.bind(key, by=other)
        return dropout(second, jnp.tanh(dropout(first, jnp.exp(x), 0.1)), 0.1)

    assert found(partial(run, by=1, other=2), KEY, X) == []
    assert found(partial(run, by=1, other=1), KEY, X) == ["JD201"]


def test_a_search_of_a_large_program_ends() -> None:
    graph = Graph()
    first = graph.node("argument", {}, (), X, 1)
    node = first
    for _ in range(9):
        node = graph.node("sin", {}, (node,), X, 1)
    assert [each.number for each in descendants(first)] == [*range(1, 10)]
    assert [each.number for each in ancestors(node)] == [*range(8, -1, -1)]
    assert len(list(descendants(first, limit=4))) == 4
    assert len({first, node, first}) == 2  # a value equals itself alone


def test_arguments_by_keyword() -> None:
    """They have names, and may be the step; a flag stays one."""

    def run(w: Any, key: jax.Array, on: bool = False, *, n: Any, x: jax.Array) -> jax.Array:
        assert on is True
        return model(w, jax.random.fold_in(key, n["number"]), x)

    for step, ids in (("n", []), ("n['number']", []), ("x", ["JD202"]), ("on", ["JD202"])):
        kwargs = {"n": {"number": STEP}, "x": X}
        assert found(run, W, KEY, True, kwargs=kwargs, step=step) == ids
    (finding,) = audit.check(run, W, KEY, True, kwargs=kwargs, step="x").findings
    assert finding.evidence == "the mask depends on key, n['number'], and not on the step"


@pytest.mark.parametrize("step", [-1, 2])
def test_a_step_beyond_the_arguments(step: int) -> None:
    with pytest.raises(ValueError, match=f"step={step} names no argument: the function is given 2"):
        audit.check(lambda key, x: x, KEY, X, step=step)
    with pytest.raises(ValueError, match="arrays are none"):
        audit.check(lambda n: n, 3, step="x")


def test_results_that_are_no_arrays_have_no_state() -> None:
    """The key is the last of five results, of which two are arrays and one is a number."""

    def step(state: Any, x: jax.Array, renew: bool) -> Any:
        key = jax.random.split(state["key"])[0] if renew else state["key"]
        result = dropout(state["key"], jnp.tanh(x), 0.1)
        return result, "text", 3, None, {"key": key, "count": state["count"] + 1}

    state = {"key": KEY, "count": STEP}
    assert found(partial(step, renew=True), state, X) == []
    assert found(partial(step, renew=False), state, X) == ["JD202"]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("partitionable", [True, False])
def test_when_a_split_equals_a_fold_in(impl: str, partitionable: bool) -> None:
    """Of threefry in the mode that is JAX's default; not of splits with several axes."""

    def run(key: jax.Array, x: jax.Array, several: bool = False) -> jax.Array:
        first = jax.random.split(key, (3, 1))[1, 0] if several else jax.random.split(key, 3)[1]
        second = jax.random.fold_in(key, 1)
        return dropout(second, jnp.tanh(dropout(first, jnp.exp(x), 0.1)), 0.1)

    key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
    with jax.threefry_partitionable(partitionable):
        equal = impl == "threefry2x32" and partitionable
        assert found(run, key, X) == (["JD201"] if equal else [])
        assert found(partial(run, several=True), key, X) == []


@pytest.mark.parametrize("length", [1, 2])
def test_one_iteration_shares_its_key_with_no_other(length: int) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        def body(_: None, x: jax.Array) -> tuple[None, jax.Array]:
            return None, dropout(key, jnp.tanh(x), 0.1)

        return lax.scan(body, None, x)[1]

    assert found(run, KEY, array(length, 8, 16)) == (["JD203"] if length > 1 else [])


@pytest.mark.parametrize("factor", [0, 1, 2])
def test_zero_times_the_number_of_an_iteration_is_zero(factor: int) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        def body(_: None, index: jax.Array) -> tuple[None, jax.Array]:
            own = jax.random.fold_in(key, factor * index)
            return None, dropout(own, jnp.tanh(x), 0.1)

        return lax.scan(body, None, jnp.arange(3))[1]

    evidence = [each.evidence for each in audit.check(run, KEY, X).findings]
    text = "the loop goes over independent parts, and the key fold_in(key, 0) is the same in all"
    assert evidence == ([] if factor else [f"{text} of 3"])


@pytest.mark.parametrize("gradient", [False, True])
def test_a_layer_that_is_skipped_in_a_loop_is_one_site(gradient: bool) -> None:
    def run(w: jax.Array, keys: jax.Array, x: jax.Array) -> jax.Array:
        def body(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            chosen = lax.cond(keep(key), lambda x: jnp.tanh(x @ w), lambda x: x, x)
            return chosen, None

        return lax.scan(body, x, keys)[0].sum()

    fn = jax.grad(run) if gradient else run
    site = only(fn, array(16, 16), KEYS, X)
    assert (site.variant, site.rate, site.repeats) == ("layer drop", 0.1, 3)


def test_the_branch_of_this_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = [("tpu",), ("cuda", "rocm"), None]
    for backend, number in (("tpu", 0), ("gpu", 1), ("cpu", 2)):
        monkeypatch.setattr(jax, "default_backend", lambda own=backend: own)
        assert _control._branch_here(branches) == number
        assert _control._branch_here([("x",), ("y",)]) == 0
    monkeypatch.undo()

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        other = partial(dropout, key, rate=0.2)
        return lax.platform_dependent(x, default=partial(dropout, key, rate=0.1), tpu=other)

    assert only(lambda key, x: run(key, jnp.tanh(x)), KEY, X).rate == 0.1


def test_an_array_that_is_divided_over_two_axes() -> None:
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    rows = PartitionSpec(("a", "b"))

    def run(w: Any, key: jax.Array, x: jax.Array, own: str = "") -> jax.Array:
        if own:
            key = jax.random.fold_in(key, lax.axis_index(own))
        return model(w, key, x)

    for own, axes in (("", ["'a'", "'b'"]), ("a", ["'b'"])):
        body = jax.shard_map(
            partial(run, own=own),
            mesh=mesh,
            in_specs=(ALL, ALL, rows),
            out_specs=rows,
            check_vma=False,
        )
        findings = audit.check(body, W, KEY, X).findings
        assert {each.id for each in findings} == {"JD204"}
        assert [each.evidence.split("axis ")[1].split(",")[0] for each in findings] == axes


def test_a_single_number_is_no_mask_that_costs_memory() -> None:
    def step(w: Any, key: jax.Array, x: jax.Array, shape: tuple[int, ...]) -> Any:
        def loss(w: Any) -> jax.Array:
            outside = keep(key, *shape)

            @jax.checkpoint
            def block(w: jax.Array, x: jax.Array) -> jax.Array:
                return jnp.where(outside, jax.nn.relu(x @ w) / 0.9, 0)

            return jnp.square(block(w["w"], x) @ w["v"]).mean()

        return jax.grad(loss)(w)

    assert "JD308" not in found(partial(step, shape=()), W, KEY, X)
    assert "JD308" in found(partial(step, shape=(2, 1)), W, KEY, array(2, 16))
