"""The mean over all examples, for any size of a batch, on any mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import compare, data, evaluation, models, parallel, steps


def network() -> models.Network:
    def apply(params: Any, stats: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
        return params * inputs, stats

    return models.Network(lambda: (1.0, {}), apply, models.cross_entropy)


def judge(size: int, mesh: str, count: int) -> evaluation.Evaluation:
    devices = parallel.make_mesh(mesh, jax.devices()[:count])
    return evaluation.Evaluation(network(), parallel.Placement(devices, size, 1, "jit"))


def state(params: Any) -> steps.State:
    return steps.State(params, {}, {})


@pytest.mark.parametrize(
    ("size", "mesh", "count"), [(8, "data=8", 8), (3, "data=1", 1), (64, "data=4,fsdp=2", 8)]
)
def test_the_mean_is_that_over_the_examples(size: int, mesh: str, count: int) -> None:
    """Of 21 examples, in batches that none of these sizes divides."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(21, 5)).astype(np.float32), random.integers(5, size=21)
    source = data.Images(logits, labels)
    found = judge(size, mesh, count)(
        state(2.0), evaluation.parts(source, source, None)["validation"]
    )
    probs = np.float64(2 * logits)
    losses = np.log(np.exp(probs).sum(1)) - probs[np.arange(21), labels]
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(1) == labels).mean(), rtol=1e-12)


@pytest.mark.parametrize("characters", [29, 30, 31, 35])
def test_each_character_of_a_text_counts_once(characters: int) -> None:
    source = data.Windows(np.arange(characters), 7)
    part = evaluation.parts(source, source, None)["validation"]
    examples, weights = part.take(np.arange(len(part.numbers) + 2))
    counts = np.zeros(characters, int)
    np.add.at(counts, examples.labels, weights.astype(int))
    np.testing.assert_array_equal(counts, [0] + [1] * (characters - 1))


def test_the_training_part_has_as_many() -> None:
    text = data.Windows(np.arange(100), 7), data.Windows(np.arange(50), 7)
    parts = evaluation.parts(*text, None)
    assert len(parts["training"].numbers) == len(parts["validation"].numbers) == 7
    assert set(parts["training"].counted) == {7}
    assert [len(part.numbers) for part in evaluation.parts(*text, 3).values()] == [3, 3]


def test_nan_counts_where_it_counts() -> None:
    logits = np.zeros((9, 2), np.float32)
    source = data.Images(logits, np.zeros(9, int))
    logits[0, 0] = np.nan  # fills the last batch up, with weight 0
    whole = evaluation.Part(source, np.arange(9), np.ones(9, int))
    assert np.isnan(judge(8, "data=8", 8)(state(1.0), whole)["loss"])
    rest = whole._replace(numbers=np.r_[1:9, 0], counted=np.r_[np.ones(8, int), 0])
    np.testing.assert_allclose(
        judge(8, "data=8", 8)(state(1.0), rest)["loss"], np.log(2), rtol=1e-6
    )


def test_side_by_side() -> None:
    source = data.Images(np.eye(3, dtype=np.float32), np.arange(3))
    placement = parallel.Placement(parallel.make_mesh("data=2", jax.devices()[:2]), 2, 1, "jit")
    both = evaluation.Evaluation(network(), placement, compare.judged)
    part = evaluation.parts(source, source, None)["validation"]
    scales = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(
        both(state(scales), part)["loss"], np.log([3, 2 + np.e]) - [0, 1], rtol=1e-6
    )
    logits, labels = both.logits(state(scales), part)
    np.testing.assert_array_equal(logits, [np.zeros((3, 3)), np.eye(3)])
    np.testing.assert_array_equal(labels, np.arange(3))
