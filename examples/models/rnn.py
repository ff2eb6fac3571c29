"""A recurrent language model in Flax NNX, with the dropout of AWD-LSTM.

References: Merity, Keskar & Socher, "Regularizing and optimizing LSTM language models", 2017,
arXiv:1708.02182. Merity, McCann & Socher, "Revisiting activation regularization for language RNNs",
2017, arXiv:1708.01009. Press & Wolf, "Using the output embedding to improve language models", 2016,
arXiv:1608.05859.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import with_logical_constraint as constrain

import jaxdrop.nnx

Carry: TypeAlias = Any

_RATES = (
    "dropout",
    "input_rate",
    "recurrent_rate",
    "candidate_rate",
    "weight_rate",
    "cell_zoneout",
    "hidden_zoneout",
)


class Output(NamedTuple):
    """What the model makes of a window of text."""

    logits: jax.Array
    """`(batch, length, vocabulary)`."""
    carry: Carry
    """The state behind the last token, with which the next window begins."""
    hidden: jax.Array
    """What the last layer puts out, `(batch, length, width)`."""
    dropped: jax.Array
    """The same after dropout: the logits are made of it."""


class LanguageModel(nnx.Module):
    """Predicts the next token at every place. The kernel of the output is the embedding.

    Masks hold for a call, which is a window of truncated backpropagation through time: the next
    window has others.

    Args:
      vocabulary: the number of tokens.
      width: the number of features of a token, and of units of a layer.
      layers: the number of recurrent layers.
      cell: makes their cells, as in `jaxdrop.nnx.StackedRNN`.
      embedding_rate: the probability of dropping a token from the input, wherever in the batch it
        stands.
      output_rate: that of dropping a unit of the last layer's output.
      locked: whether the masks of that output, and those between layers, are the same at all
        places.
      rngs: for the parameters and the masks.
      rates: further arguments of `jaxdrop.nnx.StackedRNN`: `input_rate`, `dropout` (between
        layers), `recurrent_rate`, `weight_rate`, `cell_zoneout`, `hidden_zoneout`, `per_step` and
        so on.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        cell: Callable[..., nnx.RNNCellBase] = nnx.OptimizedLSTMCell,
        embedding_rate: float = 0.0,
        output_rate: float = 0.0,
        locked: bool = True,
        rngs: nnx.Rngs,
        **rates: Any,
    ) -> None:
        # Between 1, which suits what goes into the layers, and width**-0.5, which suits the logits.
        self.tokens = nnx.Embed(
            vocabulary, width, embedding_init=nnx.initializers.normal(width**-0.25), rngs=rngs
        )
        self.embedding_dropout = jaxdrop.nnx.EmbeddingDropout(embedding_rate, rngs=rngs)
        self.rnn = jaxdrop.nnx.StackedRNN(
            cell,
            width,
            width,
            num_layers=layers,
            locked=locked,
            return_carry=True,
            rngs=rngs,
            **rates,
        )
        self.output_dropout = jaxdrop.nnx.Dropout(
            output_rate, broadcast_dims=(1,) if locked else (), rngs=rngs
        )
        self.bias = nnx.Param(jnp.zeros(vocabulary))

    def __call__(
        self,
        tokens: jax.Array,
        carry: Carry | None = None,
        rngs: nnx.Rngs | None = None,
        *,
        strength: float | jax.Array = 1.0,
    ) -> Output:
        """Runs over a window.

        Args:
          tokens: integers, `(batch, length)`.
          carry: the state behind the window before; by default a text begins here.
          rngs: where the keys come from, instead of the model's own streams.
          strength: multiplies all rates; a traced value, as of a schedule, does not recompile.
        """
        embedding_rate, output_rate = (
            strength * layer.rate for layer in (self.embedding_dropout, self.output_dropout)
        )
        rates = {name: strength * rate for name in _RATES if (rate := getattr(self.rnn, name))}
        x = self.embedding_dropout(self.tokens(tokens), ids=tokens, rate=embedding_rate, rngs=rngs)
        x = constrain(x, ("batch", None, None))
        carry, hidden = self.rnn(x, initial_carry=carry, rates=rates, rngs=rngs)
        dropped = self.output_dropout(hidden, rate=output_rate, rngs=rngs)
        return Output(self.tokens.attend(dropped) + self.bias, carry, hidden, dropped)

    def start(self, batch: int) -> Carry:
        """The state before a text."""
        rngs = nnx.Rngs(carry=0)
        cells = [[run.cell for run in directions] for directions in self.rnn.layers]
        return tuple(
            tuple(cell.initialize_carry((batch, cell.in_features), rngs) for cell in layer)
            for layer in cells
        )


def activation_regularization(
    output: Output, alpha: float | jax.Array, beta: float | jax.Array
) -> jax.Array:
    """`alpha mean(dropped_t^2) + beta mean((hidden_t - hidden_(t-1))^2)`: keeps activations small,
    and their changes.
    """
    return alpha * jnp.mean(output.dropped**2) + beta * jnp.mean(
        jnp.diff(output.hidden, axis=1) ** 2
    )
