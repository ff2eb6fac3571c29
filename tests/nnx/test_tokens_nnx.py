"""What the NNX modules of sequences and tokens add to the functions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop.functional import tokens
from jaxdrop.nnx import (
    LabelDropout,
    LockedDropout,
    ModalityDropout,
    TokenDropout,
    WordDropout,
    Zoneout,
)
from tests.catalogue import KEY, RATE

X = jnp.linspace(0.5, 2, 4 * 8 * 3).reshape(4, 8, 3)
IDS = jnp.arange(32).reshape(4, 8) % 5


def test_evaluation() -> None:
    """Of a whole model, by Flax's own switch: no key is needed, and zoneout takes the
    expectation.
    """
    model = nnx.List(
        [
            Zoneout(RATE),
            TokenDropout(RATE, num_prefix_tokens=1),
            ModalityDropout(RATE),
            WordDropout(RATE, replacement=0),
        ]
    )
    zoneout, token, modality, word = nnx.view(model, deterministic=True)
    np.testing.assert_allclose(zoneout(X, previous=jnp.zeros_like(X)), (1 - RATE) * X, rtol=1e-6)
    assert token(X)[0] is X
    assert modality((X, X))[0] is X
    assert word(IDS) is IDS


def test_forced_labels_take_no_key() -> None:
    layer = LabelDropout(0.1, null_id=10, rngs=nnx.Rngs(dropout=KEY))
    force = IDS > 2
    np.testing.assert_array_equal(layer(IDS, force_drop=force), jnp.where(force, 10, IDS))
    assert layer.rngs.count[...] == 0
    np.testing.assert_array_equal(
        LabelDropout(0.1, null_id=10, deterministic=None)(IDS, force_drop=force),
        jnp.where(force, 10, IDS),
    )


def test_modality_dropout_draws_at_rate_one() -> None:
    layer = ModalityDropout(1.0, rule="one", weights=[0.5, 0.5], rngs=nnx.Rngs(dropout=KEY))
    stream = nnx.Rngs(dropout=KEY).dropout.fork()
    expected = tokens.modality_dropout(stream(), (X, X), 1.0, rule="one", weights=(0.5, 0.5))
    for mine, value in zip(layer((X, X)), expected, strict=True):
        np.testing.assert_array_equal(mine, value)


def test_what_has_no_default_is_asked_for() -> None:
    for layer, missing in (
        (LockedDropout, "time_axis"),
        (TokenDropout, "num_prefix_tokens"),
        (LabelDropout, "null_id"),
    ):
        with pytest.raises(TypeError, match=missing):
            layer(RATE)
