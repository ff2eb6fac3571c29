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
from etils import epath
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from training import records, storage

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

    def cover(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Examples that together are all there is, and for each how many of its labels, from the
        last one on, no example before it has.
        """

    @property
    def content(self) -> Sequence[Any]:
        """Arrays that differ where the examples do."""


class Images(NamedTuple):
    """Images, `(number, height, width, 1)` with values from 0 to 1, and their classes."""

    images: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: Any) -> Examples:  # type: ignore[override]
        return Examples(self.images[index], self.classes[index])

    def cover(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return np.arange(len(self)), np.ones(len(self), np.int64)

    @property
    def content(self) -> Sequence[Any]:
        return self.images, self.classes


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

    def cover(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        starts = np.append(np.arange(0, len(self) - 1, self.length), len(self) - 1)
        return starts, np.diff(starts, prepend=-self.length)

    @property
    def content(self) -> Sequence[Any]:
        return self.tokens, self.length


class Records(records.Records):
    """Windows that lie in files, each token in one of them."""

    def __getitem__(self, index: Any) -> Examples:
        rows = self.rows(index)
        return Examples(rows[..., :-1], rows[..., 1:])

    def cover(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return np.arange(len(self)), np.full(len(self), self.length)

    @property
    def content(self) -> Sequence[Any]:
        return (np.frombuffer(self.described, np.uint8),)


class Data(NamedTuple):
    """Examples to learn from, examples to judge by, and the number of classes, or of different
    characters.
    """

    training: Source
    validation: Source
    classes: int


def load(kind: Kind, path: epath.PathLike | None, *, length: int, seed: int) -> Data:
    """Data of one kind.

    Args:
      kind: `'images'` or `'text'`.
      path: a folder with MNIST's four files, or a text file in UTF-8, or a folder of ArrayRecord
        files; by default the digits of scikit-learn, and the language reference of Python.
      length: of the windows of a text.
      seed: of the split of the digits.
    """
    if path is None:
        return _digits(seed) if kind == "images" else _text(documentation(), None, length)
    path = epath.Path(path)
    if not path.exists():
        raise SystemExit(f"--data {path}: there is no such file or folder")
    if storage.in_bucket(path) and (kind == "images" or path.is_dir()):
        raise SystemExit(
            f"--data {path}: only a text is read from a bucket. Mount it as a folder, by gcsfuse"
        )
    if kind == "images":
        return _mnist(Path(path))
    if path.is_dir():
        return Data(*records.load(Path(path), length, Records))
    return _text(_read(path), path, length)


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


def spread(source: Source, count: int) -> npt.NDArray[np.int64]:
    """The numbers of so many examples, evenly spread over all of them."""
    return np.linspace(0, len(source) - 1, min(count, len(source)), dtype=np.int64)


def digest(data: Data) -> str:
    """Tells whether data are those that a run began with."""
    found = hashlib.sha256()
    for array in (*data.training.content, *data.validation.content):
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


def _read(path: epath.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SystemExit(f"--data {path}: not a text in UTF-8 ({error})") from None


def _text(text: str, path: epath.Path | None, length: int) -> Data:
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
