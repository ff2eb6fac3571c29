"""Ensembles, against the moments and entropies of all samples together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxdrop
from jaxdrop import mc
from tests.compilation import quick

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(5, 8)))
MEMBERS = {"w": np.float32(RNG.normal(size=(3, 8, 4)))}
KEYS = mc.keys(jaxdrop.key(0), 12, groups=3)


def passes(member: Any, key: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, jnp.asarray(X), 0.5) @ member["w"]


SAMPLES = np.stack(
    [
        [passes({"w": w}, key) for key in row]
        for w, row in zip(MEMBERS["w"], KEYS.reshape(3, 4), strict=True)
    ]
).astype(float)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_variances(batch_size: int | None) -> None:
    found = quick(
        lambda members, keys: mc.ensemble(
            passes,
            members,
            keys,
            summary=lambda y: mc.regression(y, tau=4.0),
            batch_size=batch_size,
        )
    )(MEMBERS, KEYS)
    close(found.summary.mean, SAMPLES.mean((0, 1)))
    close(found.summary.epistemic_variance, SAMPLES.var((0, 1)))
    close(found.between, SAMPLES.mean(1).var(0))
    close(found.within, SAMPLES.var(1).mean(0))
    close(found.between + found.within, found.summary.epistemic_variance)
    close(found.members.mean, SAMPLES.mean(1))
    close(found.summary.standard_error, SAMPLES.mean(1).std(0, ddof=1) / np.sqrt(3))
    assert (found.summary.num_samples, found.summary.num_groups) == (12, 3)


def test_information() -> None:
    found = mc.ensemble(
        passes, MEMBERS, KEYS, summary=lambda logits: mc.classification(logits=logits)
    )
    probs = special.softmax(SAMPLES, -1)

    def entropy(p: np.ndarray) -> np.ndarray:
        return special.entr(p).sum(-1)

    close(found.summary.mean, probs.mean((0, 1)))
    members = entropy(probs.mean(1)).mean(0)
    close(found.between, entropy(probs.mean((0, 1))) - members)
    close(found.within, members - entropy(probs).mean((0, 1)))
    close(found.between + found.within, found.summary.mutual_information)


def test_a_deep_ensemble_without_dropout() -> None:
    found = mc.ensemble(lambda member: {"y": X @ member["w"]}, MEMBERS)
    outputs = X @ MEMBERS["w"]
    close(found.summary.mean["y"], outputs.mean(0))
    close(found.between["y"], outputs.var(0))
    assert not np.asarray(found.within["y"]).any()
    two = mc.ensemble(lambda member: X @ member["w"], {"w": MEMBERS["w"][:2]})
    close(two.summary.mean, outputs[:2].mean(0))
    close(two.between, outputs[:2].var(0))
    one = mc.ensemble(lambda member: X @ member["w"], {"w": MEMBERS["w"][:1]})
    assert not np.asarray(one.between).any()


def test_bad_input() -> None:
    for members in ({"w": np.ones((3, 2)), "b": np.ones(2)}, {"w": 1.0}, {}):
        with pytest.raises(ValueError, match="members must be a pytree of arrays with a leading"):
            mc.ensemble(passes, members, KEYS)
    with pytest.raises(ValueError, match=r"keys must be a multiple of the 3 members, .* got 11"):
        mc.ensemble(passes, MEMBERS, KEYS[:11])
    with pytest.raises(ValueError, match="nothing that fn returns depends on its key"):
        mc.ensemble(lambda member, key: X @ member["w"], MEMBERS, KEYS)
    same = mc.ensemble(lambda member, key: X @ member["w"], MEMBERS, KEYS, allow_deterministic=True)
    assert not np.asarray(same.within).any()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        mc.ensemble(passes, MEMBERS, KEYS, batch_size=0)
    with pytest.raises(TypeError, match="summary must be a function of samples"):
        mc.ensemble(passes, MEMBERS, KEYS, summary="mean")
    with pytest.raises(TypeError, match=r"summary must return a Classification"):
        mc.ensemble(passes, MEMBERS, KEYS, summary=lambda y: y)
    with pytest.raises(TypeError, match=r"calls fn\(member\), but fn is .* pass the key"):
        mc.ensemble(passes, MEMBERS)
    with pytest.raises(TypeError, match=r"calls fn\(member, key\), .* leave the keys out"):
        mc.ensemble(lambda member: member["w"], MEMBERS, KEYS)
    with pytest.raises(TypeError, match="fn must be a function"):
        mc.ensemble(MEMBERS, passes, KEYS)
