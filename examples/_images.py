"""Images of digits for the examples: those of scikit-learn, or MNIST's."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array: TypeAlias = jax.Array | npt.NDArray[Any]


class Images(NamedTuple):
    """Images, `(number, height, width)` with values from 0 to 1, and what they show."""

    images: Array
    labels: Array


def load(folder: Path | None, seed: int) -> tuple[Images, Images]:
    """Images to learn from, and images to judge by.

    By default the 1797 images, 8 x 8, that come with scikit-learn, of which `seed` chooses 797 to
    judge by; else the 60000 and 10000 of MNIST, 28 x 28, from the four files in `folder`,
    compressed or not.
    """
    if folder is not None:
        return mnist(folder, "train"), mnist(folder, "t10k")
    return take(digits(), 1000, seed)


def digits() -> Images:
    """All that come with scikit-learn."""
    found = load_digits()
    return Images((found.images / 16).astype(np.float32), found.target.astype(np.int32))


def turn(images: Array, degrees: float) -> Array:
    """Rotates images counter-clockwise. What leaves the frame is lost."""
    return ndimage.rotate(images, degrees, axes=(2, 1), reshape=False, order=1)


def blur(images: Array, pixels: float) -> Array:
    """Images blurred by a Gaussian with this standard deviation."""
    return ndimage.gaussian_filter(images, (0, pixels, pixels))


def take(data: Images, number: int, seed: int) -> tuple[Images, Images]:
    """So many images, of which each digit has its share, and the others; if there are no more than
    `number`, no others.
    """
    if number >= len(data.labels):
        return data, Images(data.images[:0], data.labels[:0])
    first, second, *labels = train_test_split(
        *data, train_size=number, stratify=data.labels, random_state=seed
    )
    return Images(first, labels[0]), Images(second, labels[1])


def mnist(folder: Path, name: str) -> Images:
    """The part of MNIST that is called `name`, `train` or `t10k`, from its two files."""
    images, labels = (
        _idx(folder, f"{name}-{part}-ubyte", rank)
        for part, rank in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if len(images) != len(labels):
        raise SystemExit(
            f"--data {folder}: {name} has {len(images)} images, but {len(labels)} labels"
        )
    return Images((images / 255).astype(np.float32), labels.astype(np.int32))


def _idx(folder: Path, name: str, rank: int) -> npt.NDArray[np.uint8]:
    """An array of bytes in the format of MNIST: two zeros, the type 8, the rank, the sizes
    (big-endian), and the data.
    """
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    if path is None:
        raise SystemExit(f"--data {folder}: the folder holds no {name} and no {name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SystemExit(f"{path}: broken gzip file ({error}). Fetch it again.") from None
    start = 4 + 4 * rank
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) < start:
        raise SystemExit(
            f"{path}: not an idx file of bytes with {rank} axes: it begins with"
            f" {content[:4].hex(' ') or 'nothing'}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != math.prod(shape):
        raise SystemExit(
            f"{path}: says that it holds {' x '.join(map(str, shape))} bytes, but holds"
            f" {len(content) - start}. Fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
