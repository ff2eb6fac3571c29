"""The recurrent language model of the examples, and the windows it reads."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from examples import _text
from examples.models import rnn

pytestmark = pytest.mark.usefixtures("relaxed")

VOCABULARY, WIDTH = 7, 32
TOKENS = jnp.asarray(np.random.default_rng(0).integers(VOCABULARY, size=(2, 6)))


def model(**rates: float) -> rnn.LanguageModel:
    return rnn.LanguageModel(VOCABULARY, width=WIDTH, layers=2, **rates, rngs=nnx.Rngs(0))


def test_windows_follow_each_other() -> None:
    windows = _text.consecutive(np.arange(100), 3, 8)
    assert windows.shape == (4, 3, 9)
    np.testing.assert_array_equal(windows[1:, :, 0], windows[:-1, :, -1])
    np.testing.assert_array_equal(np.sort(windows[:, :, :-1].ravel()), np.arange(96))


def test_rare_words_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("A b, a b\nc b d d")
    text = _text.load(path, "words", 7, 2, at_least=2)
    assert list(text.vocabulary[text.training]) == ["a", "b", "<unk>", "a", "b", "<unk>", "<unk>"]
    assert list(text.vocabulary[text.validation]) == ["<unk>", "<unk>"]


def test_the_state_makes_windows_one_text() -> None:
    evaluated = nnx.view(
        model(output_rate=0.5, weight_rate=0.5, embedding_rate=0.5), deterministic=True
    )

    @nnx.jit
    def both(model: rnn.LanguageModel) -> tuple[jax.Array, jax.Array]:
        first = model(TOKENS[:, :3], model.start(2))
        second = model(TOKENS[:, 3:], first.carry)
        return model(TOKENS).logits, jnp.concatenate([first.logits, second.logits], 1)

    np.testing.assert_allclose(*both(evaluated), rtol=0, atol=1e-5)


def test_masks_hold_for_a_window() -> None:
    """Two masks of 64 entries are equal with a probability of 2**-64."""
    dropping = model(output_rate=0.5)
    dropped = [
        np.asarray(dropping(TOKENS, None, nnx.Rngs(jaxdrop.key(seed))).dropped) == 0
        for seed in (0, 1)
    ]
    for window in dropped:
        np.testing.assert_array_equal(window, np.broadcast_to(window[:, :1], window.shape))
    assert not np.array_equal(*dropped)


def test_logits_and_input_share_their_parameters() -> None:
    params = nnx.state(model(), nnx.Param)
    assert [leaf.shape for leaf in jax.tree.leaves(params) if VOCABULARY in leaf.shape] == [
        (VOCABULARY,),
        (VOCABULARY, WIDTH),
    ]


def test_activation_regularization() -> None:
    hidden = jnp.arange(6.0).reshape(1, 3, 2)
    output = rnn.Output(jnp.zeros(()), None, hidden, jnp.full((1, 3, 2), 3.0))
    np.testing.assert_allclose(rnn.activation_regularization(output, 2.0, 0.5), 2.0 * 9 + 0.5 * 4)
