"""The texts of the examples, as numbers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from pydoc_data import topics
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Level: TypeAlias = Literal["characters", "words"]

UNKNOWN = "<unk>"


class Text(NamedTuple):
    """Tokens as numbers, and what the numbers mean."""

    training: Array
    validation: Array
    vocabulary: Array


def documentation() -> str:
    """Python's language reference. Its topics repeat each other, so each paragraph is taken
    once.
    """
    paragraphs = "\n\n".join(topics.topics[name] for name in sorted(topics.topics)).split("\n\n")
    return "\n\n".join({inspect.cleandoc(paragraph): None for paragraph in paragraphs})


def split(text: str, level: Level) -> list[str]:
    """Characters; or words in lower case, with punctuation and the ends of lines between them."""
    return list(text) if level == "characters" else re.findall(r"\w+|[^\w\s]|\n", text.lower())


def load(
    path: Path | None, level: Level, training: int, validation: int, *, at_least: int = 0
) -> Text:
    """The tokens that a text begins with for training, and those that it ends with for validation.

    Args:
      path: the text; by default Python's language reference.
      level: what the tokens are.
      training: how many there are.
      validation: how many there are.
      at_least: how often a token has to stand in the training part, else it becomes an unknown one.
    """
    tokens = split(documentation() if path is None else path.read_text(encoding="utf-8"), level)
    if len(tokens) < training + validation:
        raise SystemExit(
            f"{path or 'the text'} has {len(tokens)} {level}, fewer than {training} + {validation}:"
            " ask for fewer"
        )
    vocabulary, numbers = np.unique(np.array(tokens), return_inverse=True)
    rare = np.bincount(numbers[:training], minlength=len(vocabulary)) < at_least
    if rare.any():
        vocabulary, numbers = np.unique(
            np.where(rare, UNKNOWN, vocabulary)[numbers], return_inverse=True
        )
    return Text(numbers[:training], numbers[-validation:], vocabulary)


def windows(tokens: Array, starts: Array, length: int) -> Array:
    """For each start, `length` tokens and the one behind them."""
    return tokens[starts[..., None] + np.arange(length + 1)]


def consecutive(tokens: Array, batch: int, length: int) -> Array:
    """A text in `batch` parts of the same length, and those in windows: `(windows, batch, length +
    1)`.
    """
    count = (len(tokens) - 1) // (batch * length)
    if count < 1:
        raise SystemExit(
            f"{len(tokens)} tokens are too few for {batch} windows of {length} and the token behind"
            " them"
        )
    starts = np.arange(count)[:, None] + count * np.arange(batch)
    return windows(tokens, starts * length, length)


def whole(tokens: Array, batch: int) -> Array:
    """A text in `batch` parts of the same length: `(batch, length + 1)`."""
    return consecutive(tokens, batch, max((len(tokens) - 1) // batch, 1))[0]
