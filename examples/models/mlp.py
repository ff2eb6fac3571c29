"""A multilayer perceptron in Flax NNX, with dropout behind each hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from flax.linen import with_logical_constraint as constrain

import jaxdrop.nnx


class Layer(nnx.Module):
    """A linear map, an activation, and dropout."""

    def __init__(self, inputs: int, outputs: int, rate: float, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(inputs, outputs, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)

    def __call__(
        self, x: jax.Array, strength: float | jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        return self.dropout(nnx.relu(self.linear(x)), rate=strength * self.dropout.rate, rngs=rngs)


class MLP(nnx.Module):
    """Classifies images.

    Args:
      features: the number of values of an image.
      classes: the number of classes.
      width: the number of units of a hidden layer.
      layers: the number of hidden layers.
      rate: of dropout.
      remat: whether the backward pass computes the hidden layers again instead of storing them.
      rngs: for the parameters.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        width: int,
        layers: int,
        rate: float,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.hidden = nnx.List(
            [Layer(width if layer else features, width, rate, rngs=rngs) for layer in range(layers)]
        )
        self.last = nnx.Linear(width if layers else features, classes, rngs=rngs)
        self.remat = remat

    def __call__(
        self, images: jax.Array, rngs: nnx.Rngs | None = None, *, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        """The logits, `(batch, classes)`.

        Args:
          images: `(batch, ...)`.
          rngs: where the keys come from, if anything is to be dropped. There is no stored stream.
          strength: multiplies the rate; a traced value, as of a schedule, does not recompile.
        """
        run: Callable[..., jax.Array] = nnx.remat(Layer.__call__) if self.remat else Layer.__call__
        x = images.reshape(len(images), -1)
        for layer in self.hidden:
            x = constrain(run(layer, x, strength, rngs), ("batch", "mlp"))
        return self.last(x)
