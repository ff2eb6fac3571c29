"""Token, label and modality dropout, against the code of timm, PatchDropout, axlearn, DiT and
AV-HuBERT, and exact laws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxdrop
import jaxdrop.linen
from jaxdrop import masks, subsets
from jaxdrop.functional.tokens import label_dropout, modality_dropout, token_dropout
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE
from tests.compilation import quick
from tests.oracles import require

P = PartitionSpec
MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
X = jax.random.normal(jax.random.key(1), (4, 9, 5))
LABELS = jnp.arange(12).reshape(3, 4) % 10

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


# -- which tokens stay


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_token_dropout_is_the_code_of_timm(prefix: int, ordered: bool) -> None:
    """With its order of tokens, in value and gradient."""
    torch = require("torch")
    y, pull, indices = jax.vjp(
        lambda x: token_dropout(KEY, x, 0.5, num_prefix_tokens=prefix, ordered=ordered),
        X,
        has_aux=True,
    )
    order = torch.tensor(np.array(indices[:, prefix:]) - prefix, dtype=torch.long)
    x = torch.tensor(np.asarray(X), requires_grad=True)
    first, rest = x[:, :prefix], x[:, prefix:]
    assert order.shape == (4, max(1, int(rest.shape[1] * (1.0 - 0.5))))
    rest = rest.gather(1, order.unsqueeze(-1).expand((-1, -1, *rest.shape[2:])))
    theirs = torch.cat((first, rest), dim=1)
    theirs.backward(torch.tensor(np.asarray(jnp.cos(y))))
    np.testing.assert_array_equal(y, theirs.detach())
    np.testing.assert_array_equal(pull(jnp.cos(y))[0], x.grad)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("shape", [(9, 5), (4, 9, 5), (2, 4, 9, 5)])
def test_indices_are_those_of_the_kept_tokens(shape: tuple[int, ...]) -> None:
    """Any leading axes; each example has its own; the prefix comes first; in order or not, the same
    tokens stay.
    """
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    y, indices = token_dropout(KEY, x, 0.5, num_prefix_tokens=2)
    assert indices.dtype == np.int32
    assert indices.shape == y.shape[:-1] == (*shape[:-2], 5)
    np.testing.assert_array_equal(y, jnp.take_along_axis(x, indices[..., None], axis=-2))
    np.testing.assert_array_equal(indices[..., :2], np.broadcast_to([0, 1], (*shape[:-2], 2)))
    kept, ordered = token_dropout(KEY, x, 0.5, num_prefix_tokens=2, ordered=True)
    np.testing.assert_array_equal(kept, jnp.take_along_axis(x, ordered[..., None], axis=-2))
    np.testing.assert_array_equal(ordered, jnp.sort(indices, axis=-1))
    assert np.all(np.diff(ordered) > 0)
    assert len(np.unique(indices.reshape(-1, 5), axis=0)) == math.prod(shape[:-2])


@pytest.mark.parametrize("dtype", ["int32", "bool", "bfloat16", "complex64"])
def test_tokens_of_every_dtype(dtype: str) -> None:
    x = X.astype(dtype)
    y, indices = token_dropout(KEY, x, 0.5, num_prefix_tokens=1)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, jnp.take_along_axis(x, indices[..., None], axis=-2))


@pytest.mark.sweep
@each_key
def test_every_choice_of_tokens_is_as_likely_as_the_others(key: jax.Array) -> None:
    """As are its orders: 60 ways to keep 3 tokens of 5, after a prefix of 1. Ideal bits fail with a
    probability of 1e-6.
    """
    _, indices = token_dropout(key, jnp.zeros((2**15, 6, 1)), 0.4, num_prefix_tokens=1)
    found, counts = np.unique(indices[:, 1:], axis=0, return_counts=True)
    np.testing.assert_array_equal(found, list(itertools.permutations(range(1, 6), 3)))
    assert statistics.chi_square(counts, 2**15 / 60) > 1e-6


def test_ties_go_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        masks, "draw", lambda key, x, **options: jnp.zeros((*x.shape[:-1], 1), jnp.uint32)
    )
    _, indices = token_dropout(KEY, jnp.zeros((3, 11, 2)), 0.5, num_prefix_tokens=2)
    np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(6), (3, 6)))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("count", [1, 7, 10, 49, 100, 196, 197])
def test_roundings_are_those_of_the_libraries(count: int) -> None:
    """Two of them, timm and axlearn, are given the share to drop, PatchDropout's own code the share
    to keep.
    """
    x = jax.ShapeDtypeStruct((2, 1 + count, 3), jnp.float32)

    def kept(rate: float, rule: str) -> int:
        drop = jax.eval_shape(
            lambda x: token_dropout(KEY, x, rate, num_prefix_tokens=1, rule=rule)[0], x
        )
        return drop.shape[1] - 1

    for percent in range(1, 100, 7):
        rate, keep = percent / 100, (100 - percent) / 100
        assert kept(rate, "timm") == max(1, int(count * (1.0 - rate)))
        assert kept(rate, "round") == round((1 - rate) * count)
        assert kept(rate, "floor") == int(count * keep)


def test_token_dropout_stores_the_key_alone() -> None:
    """The indices are found again, as the mask is elsewhere."""

    def stored(batch: int) -> list[Any]:
        x = jnp.ones((batch, 9, 5))
        pull = jax.eval_shape(
            lambda x: jax.vjp(lambda x: token_dropout(KEY, x, 0.5, num_prefix_tokens=0)[0], x)[1], x
        )
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(pull)]

    assert stored(64) == stored(4) != []


@pytest.mark.parametrize(
    "options",
    [{"rate": 0}, {"rate": 0.0}, {"rate": np.float32(0)}, {"rate": 0.5, "deterministic": True}],
)
def test_token_dropout_without_dropping(options: dict[str, Any]) -> None:
    y, indices = token_dropout(None, X, **options, num_prefix_tokens=1, spec=P(None))
    assert y is X
    np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(9), (4, 9)))
    assert isinstance(indices, jax.Array)
    jaxpr = jax.make_jaxpr(lambda x: token_dropout(None, x, **options, num_prefix_tokens=1)[0])(X)
    assert str(jaxpr) == str(jax.make_jaxpr(lambda x: x)(X))


# -- labels


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_label_dropout_replaces_labels(dtype: str) -> None:
    labels = LABELS.astype(dtype)
    keep = masks.keep_mask(KEY, labels, masks.distribution(RATE).threshold)
    y = label_dropout(KEY, labels, RATE, null_id=10)
    assert y.dtype == labels.dtype
    np.testing.assert_array_equal(y, np.where(keep, labels, 10))


@pytest.mark.parametrize("deterministic", [True, False])
def test_forced_labels_are_those_of_dit(deterministic: bool) -> None:
    """In training and in sampling, without a key; half of a batch, as guidance asks for it."""
    torch = require("torch")
    force = jnp.arange(3) % 2 == 0
    y = label_dropout(
        None, LABELS[:, 1], 0.1, null_id=10, force_drop=force, deterministic=deterministic
    )
    theirs = torch.where(
        torch.tensor(np.asarray(force)), 10, torch.tensor(np.asarray(LABELS[:, 1]))
    )
    np.testing.assert_array_equal(y, theirs)
    assert y.dtype == LABELS.dtype


def test_forced_labels_may_be_traced() -> None:
    y = jax.jit(lambda force: label_dropout(None, LABELS, 0.1, null_id=10, force_drop=force))(
        jnp.ones((1, 4), bool)
    )
    np.testing.assert_array_equal(y, jnp.full_like(LABELS, 10))


def test_label_dropout_needs_no_key_where_nothing_is_drawn() -> None:
    assert label_dropout(None, LABELS, 0, null_id=10) is LABELS
    assert label_dropout(None, LABELS, RATE, null_id=10, deterministic=True) is LABELS
    np.testing.assert_array_equal(
        label_dropout(None, LABELS, 1, null_id=10), jnp.full_like(LABELS, 10)
    )


# -- modalities


def inputs(batch: int = 4) -> tuple[jax.Array, ...]:
    """Arrays of different ranks and dtypes, with a batch in common."""
    return (
        jnp.ones((batch, 5)),
        jnp.ones((batch,), jnp.bfloat16),
        jnp.ones((batch, 2, 3, 1), jnp.complex64),
    )


def patterns(
    count: int, rate: float, rule: str, weights: tuple[float, ...] | None
) -> dict[tuple[bool, ...], float]:
    """How likely each choice of dropped arrays is."""
    if rule == "one":
        law = {
            tuple(np.arange(count) == place): rate * (weights or [1 / count] * count)[place]
            for place in range(count)
        }
        return law | {(False,) * count: 1 - rate}
    law = {}
    for dropped in itertools.product((False, True), repeat=count):
        left = count - sum(dropped)
        law[dropped] = rate ** sum(dropped) * (1 - rate) ** left + (
            rate**count / count if left == 1 else 0
        )
    return law | {(True,) * count: 0.0}


@pytest.mark.sweep
@each_key
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("rate", "rule", "weights"),
    [
        (0.3, "independent", None),
        (0.9, "independent", None),
        (1.0, "independent", None),
        (0.5, "one", None),
        (1.0, "one", None),
        (0.4, "one", (0.2, 0.8, 0.0)),
    ],
)
def test_law_of_modality_dropout(
    key: jax.Array, count: int, rate: float, rule: str, weights: Any
) -> None:
    """Every pattern is as frequent as it should be, impossible ones never. Ideal bits fail with a
    probability of 1e-6.
    """
    weights = weights and weights[:count]
    arrays = tuple(jnp.ones(2**14) for _ in range(count))
    dropped = np.stack(
        [y == 0 for y in modality_dropout(key, arrays, rate, rule=rule, weights=weights)], axis=-1
    )
    law = {
        pattern: chance
        for pattern, chance in patterns(count, rate, rule, weights).items()
        if chance > 0
    }
    counts = np.array([(dropped == pattern).all(-1).sum() for pattern in law])
    expected = 2**14 * np.array(list(law.values()))
    assert counts.sum() == 2**14
    assert len(law) == 1 or statistics.chi_square(counts, expected) > 1e-6


@pytest.mark.parametrize("rule", ["independent", "one"])
def test_whole_examples_fall_and_nothing_is_scaled(rule: str) -> None:
    arrays = inputs(64)
    ys = modality_dropout(KEY, arrays, 0.5, rule=rule)
    kept = np.stack([np.asarray(y).reshape(64, -1)[:, 0] != 0 for y in ys])
    assert kept.any(0).all()
    assert not kept.all()
    for x, y, keep in zip(arrays, ys, kept, strict=True):
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, np.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x, 0))


def test_one_mask_for_the_batch() -> None:
    ys = jax.vmap(lambda key: modality_dropout(key, inputs(), 0.5, per="batch")[0])(
        jax.random.split(KEY, 64)
    )
    dropped = np.asarray(ys == 0).reshape(64, -1)
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert 0 < dropped[:, 0].mean() < 1
    scalars = modality_dropout(
        KEY, {"image": jnp.ones(()), "text": jnp.ones((2, 3))}, 1.0, per="batch"
    )
    assert (scalars["image"] == 0) != (scalars["text"] == 0).all()


def test_modality_dropout_keeps_the_structure() -> None:
    audio, video = jnp.ones((8, 2)), jnp.ones((8, 3, 3))
    ys = modality_dropout(KEY, {"video": video, "audio": audio}, 0.9, rule="one", weights=(1, 0))
    assert set(ys) == {"audio", "video"}
    assert (ys["audio"] == 0).any()
    np.testing.assert_array_equal(ys["video"], video)
    both = [audio, video]
    shares = np.float32([0.1, 0.9])  # their sum is 1 but for their rounding
    assert len(modality_dropout(KEY, both, 0.9, rule="one", weights=shares)) == 2
    assert modality_dropout(None, both, 0) is both
    assert modality_dropout(None, both, 0.5, deterministic=True) is both


def test_modality_dropout_does_not_multiply() -> None:
    """NaN in what is dropped vanishes, forward and backward."""
    ones = jnp.ones((64, 2))
    dropped = modality_dropout(KEY, (ones, ones), 0.5)[0] == 0
    x = jnp.where(dropped, jnp.nan, 1.0)
    y, pull = jax.vjp(lambda x: modality_dropout(KEY, (x, ones), 0.5)[0], x)
    np.testing.assert_array_equal(y, ~dropped)
    np.testing.assert_array_equal(pull(x)[0], ~dropped)


def test_modality_dropout_in_shard_map() -> None:
    arrays = inputs(8)
    for rule in ("independent", "one"):
        expected = modality_dropout(KEY, arrays, 0.5, rule=rule)
        local = jax.shard_map(
            lambda arrays, rule=rule: modality_dropout(
                KEY, arrays, 0.5, rule=rule, spec=P(("b", "a"))
            ),
            mesh=MESH,
            in_specs=P(("b", "a")),
            out_specs=P(("b", "a")),
        )
        for mine, whole in zip(jax.jit(local)(arrays), expected, strict=True):
            np.testing.assert_array_equal(mine, whole)


# -- bad input


def tokens(rate: Any = 0.5, x: jax.Array = X, prefix: int = 0, **options: Any) -> Callable[[], Any]:
    return lambda: token_dropout(KEY, x, rate, num_prefix_tokens=prefix, **options)


def modalities(arrays: Any = (X, X), rate: Any = 0.5, **options: Any) -> Callable[[], Any]:
    return lambda: modality_dropout(KEY, arrays, rate, **options)


@pytest.mark.sweep(keep=9)
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: jax.jit(lambda rate: tokens(rate)())(0.5),
            TypeError,
            "(?s)sets the shape.*static_argnames.*broadcast_dims",
        ),
        (tokens(np.array([0.5, 0.5])), TypeError, "rate must be one number that is known now"),
        (tokens("0.5"), TypeError, "rate must be a real number"),
        (tokens(1.0), ValueError, "rate must be below 1"),
        (tokens(-0.1), ValueError, "got -0.1"),
        (
            tokens(prefix=10),
            ValueError,
            r"num_prefix_tokens=10 does not fit x of shape \(4, 9, 5\)",
        ),
        (tokens(prefix=-1), ValueError, "num_prefix_tokens must be at least 0, got -1"),
        (tokens(prefix=1.0), TypeError, "num_prefix_tokens must be an integer, got 1.0"),
        (tokens(x=None), TypeError, "x must be an array of numbers, got None"),
        (tokens(x=X[0, 0]), ValueError, r"\(..., tokens, features\)"),
        (
            tokens(0.95, rule="floor"),
            ValueError,
            "rule='floor' leaves none of 9 tokens at rate 0.95",
        ),
        (
            tokens(rule="ceil"),
            ValueError,
            "rule must be one of 'timm', 'floor', 'round', got 'ceil'",
        ),
        (tokens(spec=P(None, "a")), ValueError, "divides the tokens, axis 1"),
        (tokens(spec=P(None, None, None, "a")), ValueError, "lays out 4 axes"),
        (lambda: token_dropout(KEY, X, 0.5), TypeError, "num_prefix_tokens"),
        (
            lambda: token_dropout(None, X, 0.5, num_prefix_tokens=0),
            ValueError,
            "token_dropout is stochastic here",
        ),
        (
            lambda: label_dropout(KEY, X, 0.1, null_id=0),
            TypeError,
            "label_dropout takes integers, but labels is .* float32",
        ),
        (lambda: label_dropout(KEY, LABELS, 0.1), TypeError, "null_id"),
        (
            lambda: label_dropout(KEY, LABELS, 0.1, null_id=None),
            TypeError,
            "null_id must be an integer, got None",
        ),
        (
            lambda: label_dropout(KEY, LABELS.astype("uint8"), 0.1, null_id=256),
            ValueError,
            "null_id must be .* uint8, which holds 0 to 255, got 256",
        ),
        (
            lambda: label_dropout(None, LABELS, 0.1, null_id=10),
            ValueError,
            "label_dropout is stochastic here",
        ),
        (
            lambda: label_dropout(KEY, LABELS, 0.1, null_id=10, force_drop=LABELS),
            TypeError,
            "booleans, got int32.*== 1",
        ),
        (
            lambda: label_dropout(
                KEY, LABELS, 0.1, null_id=10, force_drop=jnp.ones((2, 3, 4), bool)
            ),
            ValueError,
            r"force_drop has shape \(2, 3, 4\)",
        ),
        (modalities((X,)), ValueError, "arrays must be two or more"),
        (
            modalities((X, X[:2])),
            ValueError,
            r"one batch axis, axis 0, in common, .*\(4, 9, 5\), \(2, 9, 5\)",
        ),
        (modalities((X, LABELS)), TypeError, "int32"),
        (
            modalities(rate=jnp.full((4, 1, 1), 0.5)),
            ValueError,
            r"one rate for all examples, but rate has shape \(4, 1, 1\)",
        ),
        (modalities(rule="all"), ValueError, "rule must be one of 'independent', 'one', got 'all'"),
        (modalities(per="token"), ValueError, "per must be one of 'example', 'batch', got 'token'"),
        (modalities(weights=(0.5, 0.5)), ValueError, "weights belong to rule='one'"),
        (modalities(rule="one", weights=(0.5, 0.6)), ValueError, "2 probabilities that sum to 1"),
        (modalities(rule="one", weights=(1.0,)), ValueError, "2 probabilities"),
        (modalities(rule="one", weights=(-1.0, 2.0)), ValueError, "2 probabilities"),
        (
            lambda: jaxdrop.linen.ModalityDropout(0.5, rule="one", weights=()),
            ValueError,
            r"weights must be probabilities that sum to 1, got \(\)",
        ),
        (
            lambda: modality_dropout(None, (X, X), 1),
            ValueError,
            "modality_dropout is stochastic here",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_stratified_keys_divide_the_choice_among_samples() -> None:
    """Of S samples a token is kept in S (1 - rate), give or take what the others of its example
    did.
    """
    keys = jaxdrop.mc.keys(KEY, 64)
    indices = jax.vmap(
        lambda key: token_dropout(key, jnp.zeros((256, 8, 1)), 0.5, num_prefix_tokens=0)[1]
    )(keys)
    counts = (np.asarray(indices)[..., None] == np.arange(8)).sum((0, 2))
    independent = math.sqrt(64 * 0.5 * 0.5)
    assert counts.std() < 0.7 * independent


# -- layers that see some of the tokens


def test_reinsertion_is_the_inverse_of_token_dropout() -> None:
    """In any order of tokens; with the gradients of what is put in the places of the others."""

    @quick
    def both(key: jax.Array) -> Any:
        found = []
        for ordered in (False, True):
            kept, indices = token_dropout(key, X, 0.5, num_prefix_tokens=1, ordered=ordered)
            there = (jnp.expand_dims(indices, 1) == jnp.expand_dims(jnp.arange(9), (0, 2))).any(-1)
            y, pull = jax.vjp(lambda x, k, i=indices: jaxdrop.reinsert_tokens(x, k, i), -X, kept)
            found.append((y, jnp.expand_dims(there, 2), *pull(X), kept))
        return found

    for y, there, others, tokens, kept in both(KEY):
        np.testing.assert_array_equal(y, np.where(there, X, -X))
        np.testing.assert_array_equal(others, np.where(there, 0, X))
        np.testing.assert_array_equal(tokens, kept)


def test_a_layer_sees_the_kept_tokens_in_order() -> None:
    """Their positions and their part of a mask too; the others pass unchanged. The kept tokens are
    those of token_dropout.
    """
    mask = jnp.asarray(np.random.default_rng(0).random((4, 2, 9, 9)) < 0.5)

    def layer(x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        seen = mask.sum(1).astype(x.dtype) @ x
        return jnp.cos(x) * (1 + jnp.expand_dims(positions, 2).astype(x.dtype)) + seen

    def reference(key: jax.Array, x: jax.Array) -> jax.Array:
        _, indices = token_dropout(key, x, 0.4, num_prefix_tokens=0, ordered=True, rule="round")

        def of_one(x: jax.Array, places: jax.Array, mask: jax.Array) -> jax.Array:
            part = mask[:, places][:, :, places]
            new = layer(x[places][None], places[None], part[None])[0]
            return x.at[places].set(new)

        return jax.vmap(of_one)(x, indices, mask)

    def ltd(key: jax.Array, x: jax.Array) -> jax.Array:
        return jaxdrop.random_ltd(key, x, 0.4, layer, positions=jnp.arange(9), mask=mask)

    @quick
    def both(key: jax.Array) -> Any:
        found = []
        for f in (ltd, reference):
            y, pull = jax.vjp(lambda x, f=f: f(key, x), X)
            found.append((y, *pull(y)))
        return found

    for seed in range(3):
        for one, other in zip(*both(jaxdrop.key(seed)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_a_causal_model_stays_causal_and_prefixes_stay() -> None:
    """Under a scan over layers, each of which draws its own tokens: later tokens change nothing."""

    def block(x: jax.Array) -> jax.Array:
        return x + jnp.cumsum(x, axis=1)

    @quick
    def model(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def layer(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = jaxdrop.random_ltd(key, x, 0.5, block, num_prefix_tokens=1)
            return y, (y != x).any(2)

        return jax.lax.scan(layer, x, jax.random.split(KEY, 5))

    y, seen = model(X)
    changed, _ = model(X.at[:, 6:].add(1.0))
    np.testing.assert_array_equal(y[:, :6], changed[:, :6])
    assert np.all(seen[..., 0])
    np.testing.assert_array_equal(seen.sum(-1), 5)
    assert len(np.unique(seen.reshape(-1, 9), axis=0)) > 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 1.0}, ValueError, "rate must be below 1"),
        ({"rate": 0.01}, ValueError, "drops nothing: of 9 members"),
        ({"num_prefix_tokens": 10}, ValueError, "at least num_prefix_tokens=10 tokens"),
        ({"num_prefix_tokens": 3, "groups": 3}, ValueError, "belong to the first of groups=3"),
        ({"groups": 2}, ValueError, "groups=2 do not divide 9"),
        ({"positions": jnp.arange(8)}, ValueError, r"positions must have .* got \(8,\)"),
        ({"mask": jnp.ones((3, 9, 9))}, ValueError, r"mask must have the shape \(9, 9\)"),
        ({"layer": jnp.sum}, TypeError, "must return what is like its argument"),
    ],
)
def test_bad_input_of_random_ltd(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"rate": 0.5, "layer": jnp.tanh} | options
    with pytest.raises(error, match=message):
        jaxdrop.random_ltd(KEY, X, given.pop("rate"), given.pop("layer"), **given)


def test_bad_input_of_reinsert_tokens() -> None:
    kept, indices = X[:, :3], jnp.zeros((4, 3), jnp.int32)
    for arrays in ((X, kept, indices[:, :2]), (X[..., :2], kept, indices), (kept, X, indices)):
        with pytest.raises(ValueError, match="reinsert_tokens takes x of shape"):
            jaxdrop.reinsert_tokens(*arrays)
    with pytest.raises(TypeError, match="tokens must be of the dtype of x"):
        jaxdrop.reinsert_tokens(X, kept.astype(jnp.bfloat16), indices)


def test_all_tokens_of_one_sequence_may_be_put_back() -> None:
    """Without a batch, and as many as there are."""
    x, order = X[0], np.array([3, 1, 0, 8, 7, 2, 6, 4, 5])
    np.testing.assert_array_equal(jaxdrop.reinsert_tokens(-x, x[order], order), x)
    with pytest.raises(ValueError, match="reinsert_tokens takes x of shape"):
        jaxdrop.reinsert_tokens(x[0], x[0], order)


@pytest.mark.parametrize(
    ("positions", "mask"),
    [
        ((9,), (9, 9)),
        ((4, 9), (4, 9, 9)),
        ((1, 9), (4, 2, 9, 9)),
        ((1,), (1, 1, 9, 9)),
        ((4, 1), (4, 1, 1, 9)),
        ((9,), (1, 9)),
        ((9,), (9, 1)),
        ((9,), (4, 2, 3, 9, 9)),
    ],
)
def test_what_follows_the_tokens_is_taken_along_the_axes_that_have_them(
    positions: tuple[int, ...], mask: tuple[int, ...]
) -> None:
    """As if it had been broadcast before, but without more entries along the others."""
    count = {name: np.arange(np.prod(shape)) for name, shape in (("p", positions), ("m", mask))}
    given = {"positions": count["p"].reshape(positions), "mask": count["m"].reshape(mask)}
    seen: dict[str, jax.Array] = {}

    def layer(x: jax.Array, **follow: jax.Array) -> jax.Array:
        seen.update(follow)
        return x

    jaxdrop.random_ltd(KEY, X, 0.4, layer, **given)
    places = np.sort(subsets.draw(KEY, (4, 9), 0.4).indices[:, 0])
    kept = places.shape[1]
    whole = np.broadcast_to(given["positions"], (4, 9))
    found = np.broadcast_to(seen["positions"], (4, kept))
    np.testing.assert_array_equal(found, np.take_along_axis(whole, places, 1))
    rows = mask[1:-2] if len(mask) > 2 else ()
    whole = given["mask"].reshape(mask if len(mask) > 2 else (1, *mask))
    whole = np.broadcast_to(whole, (4, *rows, 9, 9))
    found = np.broadcast_to(seen["mask"], (4, *rows, kept, kept))
    for example, at in enumerate(places):
        np.testing.assert_array_equal(found[example], whole[example][..., at, :][..., at])
    sizes = {1: 1, 9: kept}
    assert seen["positions"].shape[-1] == sizes[positions[-1]]
    assert seen["mask"].shape[-2:] == tuple(sizes[length] for length in mask[-2:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *[("positions", shape) for shape in ((), (8,), (4, 8), (3, 9), (4, 1, 9))],
        *[("mask", shape) for shape in ((9,), (9, 8), (8, 9), (5, 9, 9), (3, 2, 9, 9))],
    ],
)
def test_what_does_not_follow_the_tokens(name: str, shape: tuple[int, ...]) -> None:
    for rate in (0.4, 0.0):
        with pytest.raises(ValueError, match=f"{name} must have the shape .* got") as raised:
            jaxdrop.random_ltd(KEY, X, rate, jnp.tanh, **{name: np.ones(shape, int)})
        assert str(raised.value).endswith(f"got {shape}")


def test_a_prefix_may_be_all_there_is_where_nothing_is_dropped() -> None:
    every = {"num_prefix_tokens": 9}
    np.testing.assert_array_equal(jaxdrop.random_ltd(None, X, 0.0, jnp.tanh, **every), jnp.tanh(X))
    np.testing.assert_array_equal(token_dropout(KEY, X, 0.5, **every)[0], X)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rate": np.ones(7)}, ValueError, "rate has shape"),
        ({"rate": 2.0}, ValueError, "rate must lie in"),
        ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
        ({"spec": PartitionSpec(*"abc")}, ValueError, "lays out 3 axes, but labels has"),
        ({"force_drop": "yes"}, TypeError, "force_drop must be an array of booleans, got 'yes'"),
        ({"null_id": 0.5}, TypeError, "null_id must be an integer, got 0.5"),
    ],
)
def test_forced_labels_are_checked_too(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    given = {"rate": 0.1, "null_id": 10, "force_drop": np.ones((), bool)} | options
    with pytest.raises(error, match=says):
        label_dropout(None, LABELS, **given)
