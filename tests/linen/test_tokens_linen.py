"""What the Linen modules of sequences and tokens add to the functions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop.functional import tokens
from jaxdrop.linen import (
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
    """No key is needed, and zoneout takes the expectation. The flag comes to the module or with the
    call.
    """
    expected = (1 - RATE) * X
    zeros = jnp.zeros_like(X)
    np.testing.assert_allclose(
        Zoneout(RATE, deterministic=True).apply({}, X, previous=zeros), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        Zoneout(RATE).apply({}, X, True, previous=zeros), expected, rtol=1e-6
    )
    assert TokenDropout(RATE, num_prefix_tokens=1).apply({}, X, True)[0] is X
    assert ModalityDropout(RATE).apply({}, (X, X), True)[0] is X
    assert WordDropout(RATE, replacement=0).apply({}, IDS, True) is IDS


def test_forced_labels_take_no_key() -> None:
    force = IDS > 2
    for layer in (
        LabelDropout(0.1, null_id=10),
        LabelDropout(0.1, null_id=10, deterministic=False),
    ):
        np.testing.assert_array_equal(
            layer.apply({}, IDS, force_drop=force), jnp.where(force, 10, IDS)
        )


def test_modality_dropout_draws_at_rate_one() -> None:
    layer = ModalityDropout(1.0, rule="one", weights=[0.5, 0.5], deterministic=False)
    expected = tokens.modality_dropout(KEY, (X, X), 1.0, rule="one", weights=(0.5, 0.5))
    for mine, value in zip(layer.apply({}, (X, X), rng=KEY), expected, strict=True):
        np.testing.assert_array_equal(mine, value)
    assert len(layer.apply({}, [X, X], rngs={"dropout": KEY})) == 2


def test_what_has_no_default_is_asked_for() -> None:
    for layer, missing in (
        (LockedDropout, "time_axis"),
        (TokenDropout, "num_prefix_tokens"),
        (LabelDropout, "null_id"),
    ):
        with pytest.raises(TypeError, match=missing):
            layer(RATE)
