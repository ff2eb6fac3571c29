"""What to learn from, and the batches of each step."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import grain
import jax
import numpy as np
import numpy.typing as npt
from _images import mnist
from _text import documentation, windows
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array: TypeAlias = jax.Array | npt.NDArray[Any]
Kind: TypeAlias = Literal["images", "text"]


class Examples(NamedTuple):
    """One example, or a batch of them."""

    inputs: Array
    labels: Array


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Examples: ...


class Images(NamedTuple):
    """Images, `(number, height, width, 1)` with values from 0 to 1, and their classes."""

    images: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: Any) -> Examples:  # type: ignore[override]
        return Examples(self.images[index], self.classes[index])


class Windows(NamedTuple):
    """The windows of a text, one from each character on; the labels are the characters behind those
    of the window.
    """

    tokens: npt.NDArray[Any]
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length

    def __getitem__(self, index: Any) -> Examples:  # type: ignore[override]
        rows = windows(self.tokens, np.asarray(index), self.length)
        return Examples(rows[..., :-1], rows[..., 1:])


class Data(NamedTuple):
    """Examples to learn from, examples to judge by, and the number of classes, or of different
    characters.
    """

    training: Source
    validation: Source
    classes: int


def load(kind: Kind, path: Path | None, *, length: int, seed: int) -> Data:
    """Data of one kind.

    Args:
      kind: `'images'` or `'text'`.
      path: a folder with MNIST's four files, or a text file in UTF-8; by default the digits of
        scikit-learn, and the language reference of Python.
      length: of the windows of a text.
      seed: of the split of the digits.
    """
    if path is not None and not path.exists():
        raise SystemExit(f"--data {path}: there is no such file or folder")
    if kind == "images":
        return _digits(seed) if path is None else _mnist(path)
    return _text(documentation() if path is None else _read(path), path, length)


def batches(
    source: Source, steps: int, *, batch: int, micro_batches: int, rows: Sequence[int], seed: int
) -> grain.DatasetIterator[Examples]:
    """A batch for each step, `(micro_batches, rows, ...)`. What is in it depends on `seed` and the
    step, not on who loads it.

    Args:
      source: shuffled anew for each epoch.
      steps: when to stop.
      batch: the number of examples a step.
      micro_batches: the number of parts of a batch.
      rows: which rows of each part this process loads.
      seed: of the order.

    Returns:
      An iterator whose `get_state` and `set_state` make it go on where another one stopped.
    """
    size = batch // micro_batches
    examples = grain.MapDataset.source(source).shuffle(seed=seed).repeat()

    def part(start: int) -> Examples:
        return Examples(*map(np.stack, zip(*(examples[start + row] for row in rows), strict=True)))

    def load(step: int) -> Examples:
        parts = [part(step * batch + micro_batch * size) for micro_batch in range(micro_batches)]
        return Examples(*map(np.stack, zip(*parts, strict=True)))

    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.range(steps).map(load).to_iter_dataset(reading))


def spread(source: Source, count: int) -> Examples:
    """As many examples, evenly spread over all of them."""
    return source[np.linspace(0, len(source) - 1, min(count, len(source)), dtype=int)]


def digest(data: Data) -> str:
    """Tells whether data are those that a run began with."""
    found = hashlib.sha256()
    for array in jax.tree.leaves((data.training, data.validation)):
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()


# -- images


def _digits(seed: int) -> Data:
    """The 1797 images of digits, 8 x 8, that come with scikit-learn. A third is kept for
    validation.
    """
    images, classes = load_digits(return_X_y=True)
    images = np.float32(images / 16).reshape(-1, 8, 8, 1)
    seen, unseen, *labels = train_test_split(
        images, np.int32(classes), test_size=0.33, stratify=classes, random_state=seed
    )
    return Data(Images(seen, labels[0]), Images(unseen, labels[1]), classes=10)


def _mnist(folder: Path) -> Data:
    seen, unseen = (
        Images(part.images[..., None], part.labels)
        for part in (mnist(folder, "train"), mnist(folder, "t10k"))
    )
    return Data(seen, unseen, classes=1 + int(max(seen.classes.max(), unseen.classes.max())))


# -- text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise SystemExit(f"--data {path}: not a text in UTF-8 ({error})") from None


def _text(text: str, path: Path | None, length: int) -> Data:
    """Characters as numbers. The last tenth is kept for validation."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    present = np.zeros(sys.maxunicode + 1, bool)
    present[codes] = True
    tokens = (np.cumsum(present, dtype=np.int32) - 1)[codes]
    cut = len(tokens) * 9 // 10
    if len(tokens) - cut <= length:
        raise SystemExit(
            f"--data {path}: has {len(tokens)} characters; windows of {length} take more than"
            f" {10 * length}. See --length."
        )
    return Data(
        Windows(tokens[:cut], length), Windows(tokens[cut:], length), classes=int(present.sum())
    )
