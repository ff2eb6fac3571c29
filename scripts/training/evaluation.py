"""How a model does on examples that it has not learned from: all of them, in batches.

The last batch is filled up with examples of weight 0, and so is each process's part of it. So the
mean is that over the examples, for any size of a batch and any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from training.data import Array, Examples, Source, spread
from training.models import Network, correct
from training.parallel import Placement


class Part(NamedTuple):
    """Examples to judge by: their numbers, and for each how many of its labels count, from the last
    one on. A window that overlaps with the one before it counts what that one has not.
    """

    source: Source
    numbers: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]

    def take(self, places: npt.NDArray[np.int64]) -> tuple[Examples, npt.NDArray[np.float32]]:
        """The examples at these places, and the weights of their labels. A place past the end has
        weight 0.
        """
        there = places < len(self.numbers)
        places = np.where(there, places, 0)
        examples = self.source[self.numbers[places]]
        counted = np.where(there, self.counted[places], 0)
        if np.ndim(examples.labels) == 1:
            return examples, (counted > 0).astype(np.float32)
        length = np.shape(examples.labels)[1]
        return examples, (np.arange(length) >= length - counted[:, None]).astype(np.float32)


def parts(training: Source, validation: Source, count: int | None) -> dict[str, Part]:
    """What to judge by: all of the validation part, or so many examples of it; and as many of the
    training part, evenly spread.
    """
    numbers, counted = validation.cover()
    judged = Part(validation, numbers, counted)
    if count is not None and count < len(numbers):
        judged = _sample(validation, count)
    return {"training": _sample(training, len(judged.numbers)), "validation": judged}


def _sample(source: Source, count: int) -> Part:
    numbers = spread(source, count)
    _, counted = source.cover()
    return Part(source, numbers, np.full(len(numbers), counted[0]))


class Evaluation:
    """Mean loss and accuracy, with nothing dropped.

    Args:
      network: the model.
      placement: says how many examples are judged at once, and which rows this process loads.
      over: wraps the function of one batch, `function(state, examples, weights)`, for several
        models side by side.
    """

    def __init__(
        self,
        network: Network,
        placement: Placement,
        over: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    ) -> None:
        def logits(state: Any, examples: Examples, weights: Array) -> jax.Array:
            return network.apply(state.params, state.stats, examples.inputs)[0]

        def sums(state: Any, examples: Examples, weights: Array) -> dict[str, jax.Array]:
            found = logits(state, examples, weights)
            each = {
                "loss": network.loss(found, examples.labels),
                "accuracy": correct(found, examples.labels),
            }
            # NaN is to be seen, but not that of an example which does not count.
            return {
                name: jnp.sum(jnp.where(weights > 0, values, 0.0)) for name, values in each.items()
            } | {"weight": jnp.sum(weights)}

        self._placement = placement
        self._sums = jax.jit(over(sums), out_shardings=placement.everywhere)
        self._logits = jax.jit(over(logits), out_shardings=placement.everywhere)

    def __call__(self, state: Any, part: Part) -> dict[str, npt.NDArray[np.float64]]:
        """The means over all labels that count."""
        totals: dict[str, Any] = {}
        waiting = None
        for batch in [*self._batches(part), None]:
            # While the device works on a batch, the sums of the one before are fetched.
            running = None if batch is None else self._sums(state, *batch)
            for name, value in jax.device_get(waiting or {}).items():
                totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
            waiting = running
        weight = totals.pop("weight")
        return {name: total / weight for name, total in totals.items()}

    def all(self, state: Any, parts: dict[str, Part]) -> dict[str, npt.NDArray[np.float64]]:
        """Those of each part, such as `validation_loss`."""
        return {
            f"{part}_{name}": value
            for part in parts
            for name, value in self(state, parts[part]).items()
        }

    def logits(self, state: Any, part: Part) -> tuple[Array, Array]:
        """All logits, `(..., examples, ...)` as `over` has them, and the labels."""
        found = [np.asarray(self._logits(state, *batch)) for batch in self._batches(part)]
        examples, _ = part.take(np.arange(len(part.numbers)))
        axis = found[0].ndim - np.ndim(examples.labels) - 1
        count = len(part.numbers)
        return np.concatenate(found, axis).take(np.arange(count), axis), examples.labels

    def _batches(self, part: Part) -> Iterator[tuple[Examples, jax.Array]]:
        size = self._placement.shape[1]
        for start in range(0, len(part.numbers), size):
            examples, weights = part.take(start + np.array(self._placement.rows))
            yield self._placement.rows_of((examples, weights))
