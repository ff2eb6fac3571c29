"""Losses over several masks, against PyTorch and loops."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxdrop
from jaxdrop.functional import losses
from tests import statistics
from tests.catalogue import KEY, RATE
from tests.oracles import require

RNG = np.random.default_rng(0)
ONE, TWO = (jnp.asarray(RNG.normal(size=(6, 5)) * 3, jnp.float32) for _ in range(2))
LABELS = jnp.asarray([0, 1, 2, 3, 4, 0])

each_rule = pytest.mark.parametrize("rule", ["fairseq", "readme", "vit"])


def reference(torch: Any, one: Any, two: Any, labels: Any, alpha: float, rule: str) -> Any:
    """As in the published code of each, without its reduction over the batch."""
    f = torch.nn.functional
    entropies = f.cross_entropy(one, labels, reduction="none") + f.cross_entropy(
        two, labels, reduction="none"
    )
    p = f.kl_div(f.log_softmax(one, -1), f.softmax(two, -1), reduction="none").sum(-1)
    q = f.kl_div(f.log_softmax(two, -1), f.softmax(one, -1), reduction="none").sum(-1)
    if rule == "vit":
        return entropies + alpha * (p + q)
    return (0.5 if rule == "readme" else 1) * entropies + alpha * (p + q) / 2


# -- R-Drop


@each_rule
def test_r_drop_is_pytorch(rule: losses.Rule) -> None:
    torch = require("torch")
    one, two = (torch.tensor(np.asarray(a), requires_grad=True) for a in (ONE, TWO))
    expected = reference(torch, one, two, torch.tensor(np.asarray(LABELS)).long(), 0.7, rule)
    expected.sum().backward()
    loss, vjp = jax.vjp(
        lambda one, two: losses.r_drop(one, two, LABELS, alpha=0.7, rule=rule), ONE, TWO
    )
    np.testing.assert_allclose(loss, expected.detach(), rtol=1e-5)
    for found, known in zip(vjp(jnp.ones_like(loss)), (one.grad, two.grad), strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)


@pytest.mark.sweep(keep=1)
@each_rule
def test_r_drop_of_one_pass_twice_is_the_cross_entropy(rule: losses.Rule) -> None:
    loss = losses.r_drop(ONE, ONE, LABELS, alpha=5.0, rule=rule)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(ONE), LABELS[:, None], 1)[:, 0]
    np.testing.assert_allclose(loss, entropy * (1 if rule == "readme" else 2), rtol=1e-6)


def test_r_drop_with_probabilities() -> None:
    expected = losses.r_drop(ONE, TWO, LABELS, alpha=0.7)
    np.testing.assert_allclose(
        losses.r_drop(ONE, TWO, jax.nn.one_hot(LABELS, 5), alpha=0.7), expected, rtol=1e-6
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    "labels", [LABELS, jax.nn.one_hot(LABELS, 5)], ids=["ids", "probabilities"]
)
def test_classes_that_both_rule_out_add_nothing(labels: jax.Array) -> None:
    def loss(one: jax.Array, two: jax.Array) -> jax.Array:
        ruled_out = jnp.full((6, 1), -jnp.inf)
        wide = labels if labels.ndim == 1 else jnp.pad(labels, ((0, 0), (0, 1)))
        return losses.r_drop(
            *(jnp.concatenate([a, ruled_out], 1) for a in (one, two)), wide, alpha=0.7
        ).sum()

    value, grads = jax.value_and_grad(loss, (0, 1))(ONE, TWO)
    expected, known = jax.value_and_grad(
        lambda one, two: losses.r_drop(one, two, labels, alpha=0.7).sum(), (0, 1)
    )(ONE, TWO)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads, known, rtol=1e-5, atol=1e-6)


def test_a_class_that_one_rules_out_is_infinitely_far() -> None:
    loss = losses.r_drop(ONE.at[0, 3].set(-jnp.inf), TWO, LABELS, alpha=0.7)
    assert loss[0] == jnp.inf
    chex.assert_tree_all_finite(loss[1:])


def test_close_passes_keep_their_digits() -> None:
    """To second order, J = sum p (d - p.d)^2 for logits that differ by d."""
    step = 1e-3 * RNG.normal(size=ONE.shape)
    p = np.asarray(jax.nn.softmax(ONE), np.float64)
    expected = (p * (step - (p * step).sum(-1, keepdims=True)) ** 2).sum(-1)
    zeros = jnp.zeros_like(ONE)
    divergence = losses.r_drop(ONE, ONE + step.astype(np.float32), zeros, alpha=1.0, rule="vit")
    assert (divergence >= 0).all()
    np.testing.assert_allclose(divergence, expected, rtol=0.01)


def test_r_drop_in_bfloat16_and_with_a_traced_alpha() -> None:
    one, two = ONE.astype(jnp.bfloat16), TWO.astype(jnp.bfloat16)
    traced = jax.jit(lambda alpha: losses.r_drop(one, two, LABELS, alpha=alpha))(0.7)
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(
        traced,
        losses.r_drop(one.astype(jnp.float32), two.astype(jnp.float32), LABELS, alpha=0.7),
        rtol=1e-5,
    )


def test_r_drop_rejects() -> None:
    with pytest.raises(ValueError, match="takes logits and other of shape"):
        losses.r_drop(ONE, TWO[:, :4], LABELS, alpha=1.0)
    with pytest.raises(ValueError, match=r"labels of int32\[6, 1\]"):
        losses.r_drop(ONE, TWO, LABELS[:, None], alpha=1.0)
    with pytest.raises(
        ValueError, match="rule must be one of 'fairseq', 'readme', 'vit', got 'paper'"
    ):
        losses.r_drop(ONE, TWO, LABELS, alpha=1.0, rule="paper")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must lie in"):
        losses.r_drop(ONE, TWO, LABELS, alpha=-1.0)
    for dtype in (jnp.int32, jnp.complex64):
        with pytest.raises(
            TypeError,
            match=f"other must be an array of floating numbers, got an array of {dtype.dtype}",
        ):
            losses.r_drop(ONE, TWO.astype(dtype), LABELS, alpha=1.0)
    for wrong in (-1, 5):
        loss = losses.r_drop(ONE, TWO, LABELS.at[0].set(wrong), alpha=1.0)
        np.testing.assert_array_equal(jnp.isnan(loss), np.arange(6) == 0)
    with pytest.raises(TypeError, match="labels must be integers or probabilities, got an array"):
        losses.r_drop(ONE, TWO, LABELS > 0, alpha=1.0)
    with pytest.raises(ValueError, match="takes logits and other of shape"):
        losses.r_drop(ONE[0, 0], ONE[0, 0], LABELS[0], alpha=1.0)
    for bad in (-0.1, np.nan):
        with pytest.raises(ValueError, match="are probabilities, but some are negative or NaN"):
            losses.r_drop(ONE, TWO, ONE.at[0].set(bad) ** 2 * jnp.sign(ONE.at[0].set(bad)), alpha=1)
    with pytest.raises(ValueError, match="alpha must be one number, got an array"):
        losses.r_drop(ONE, TWO, LABELS, alpha=jnp.ones(6))


def test_r_drop_of_any_number_of_axes() -> None:
    expected = losses.r_drop(ONE, TWO, LABELS, alpha=0.7)
    for shape in ((2, 3), (6, 1), (1, 2, 3)):
        one, two = (array.reshape(*shape, 5) for array in (ONE, TWO))
        for labels in (LABELS.reshape(shape), jax.nn.one_hot(LABELS, 5).reshape(*shape, 5)):
            found = losses.r_drop(one, two, labels, alpha=0.7)
            np.testing.assert_allclose(found, expected.reshape(shape), rtol=1e-6)
    np.testing.assert_allclose(
        losses.r_drop(ONE[0], TWO[0], LABELS[0], alpha=0.7), expected[0], rtol=1e-6
    )


def test_labels_of_few_bits_count_more_classes_than_they_have_values() -> None:
    logits = jnp.asarray(RNG.normal(size=(6, 300)), jnp.float32)
    for dtype in (jnp.int8, jnp.uint8, jnp.int16, jnp.uint32):
        np.testing.assert_array_equal(
            losses.r_drop(logits, logits, LABELS.astype(dtype), alpha=1.0),
            losses.r_drop(logits, logits, LABELS, alpha=1.0),
        )


# -- multi-sample dropout


def head(h: jax.Array) -> dict[str, jax.Array]:
    """A loss that is not linear in the features."""
    return {"loss": jax.nn.logsumexp(h, axis=-1).mean(), "each": h[:, 0] ** 2}


@pytest.mark.parametrize("options", [{}, {"broadcast_dims": (0,)}], ids=str)
def test_multi_sample_dropout_is_the_mean_of_a_loop(options: dict[str, Any]) -> None:
    for keys in (jax.random.split(KEY, 8), jaxdrop.mc.keys(KEY, 5)):
        found = losses.multi_sample_dropout(keys, ONE, RATE, head, **options)
        loop = [head(jaxdrop.dropout(key, ONE, RATE, **options)) for key in keys]
        chex.assert_trees_all_close(
            found, jax.tree.map(lambda *leaves: jnp.stack(leaves).mean(0), *loop), rtol=1e-6
        )


def test_multi_sample_dropout_of_squares() -> None:
    """`E (sum m x / q)^2 = (sum x)^2 + p / q sum x^2`. Right code fails with a probability of
    1e-6.
    """
    samples = 2**14
    found = losses.multi_sample_dropout(
        jax.random.split(KEY, samples),
        ONE,
        RATE,
        lambda h: jnp.stack([h.sum(-1) ** 2, h.sum(-1) ** 4]),
    )
    x = np.asarray(ONE, np.float64)
    expected = x.sum(-1) ** 2 + RATE / (1 - RATE) * (x * x).sum(-1)
    deviation = np.sqrt((np.asarray(found[1], np.float64) - expected**2) / samples)
    assert statistics.normal((np.asarray(found[0], np.float64) - expected) / deviation) > 1e-6


def test_multi_sample_dropout_in_evaluation_is_one_pass() -> None:
    for options in ({"deterministic": True}, {"rate": 0}):
        found = losses.multi_sample_dropout(None, ONE, **{"rate": RATE, **options}, loss=head)
        chex.assert_trees_all_equal(found, head(ONE))


def test_multi_sample_dropout_rejects() -> None:
    for keys, error in (
        (None, ValueError),
        (KEY, ValueError),
        (jnp.arange(3), TypeError),
        ([KEY, KEY], TypeError),
    ):
        with pytest.raises(error, match="key array of shape"):
            losses.multi_sample_dropout(keys, ONE, RATE, head)


def test_multi_sample_dropout_of_a_divided_array() -> None:
    """Under `spec`, each part has the masks of the whole."""
    keys = jax.random.split(KEY, 3)

    def dropped(x: jax.Array, spec: PartitionSpec | None = None) -> Any:
        return losses.multi_sample_dropout(
            keys, x, RATE, lambda y: y, broadcast_dims=(1,), spec=spec
        )

    parts = jax.vmap(lambda x: dropped(x, PartitionSpec("i")), axis_name="i")(ONE[:, None])
    np.testing.assert_array_equal(parts[:, 0], dropped(ONE))
