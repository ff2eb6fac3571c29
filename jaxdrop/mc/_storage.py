"""Where the results of a data set's batches are kept: in memory, or on disk, where they survive a kill at any moment."""

from __future__ import annotations

import functools
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

Array = np.ndarray[Any, Any]

_MANIFEST = "manifest.json"
_DIGEST = "inputs_crc32"
_TORN = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Store(Protocol):
    """The results of each batch, a list of arrays, by the batch's number."""

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """Whether the results of this batch, which has these inputs, are there."""

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Keeps the results of a batch."""

    def read(self, index: int) -> list[Array]:
        """The results of a batch."""


class Memory:
    """A `Store` in memory."""

    def __init__(self) -> None:
        self._results: list[list[Array]] = []

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """Never before it was written."""
        return index < len(self._results)

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Batches come in order."""
        self._results.append(results)

    def read(self, index: int) -> list[Array]:
        """As it was written."""
        return self._results[index]


class Directory:
    """A `Store` of files `000000.npz`, `000001.npz`, ..., as `numpy.load` reads them, and a manifest of what made them.

    A file gets its name when all of it is on disk. One that is torn all the same, by an interrupted copy, say, fails its checksum
    and counts as missing. With the results stands a checksum of the inputs.

    Args:
      path: the directory; created if it does not exist.
      results: name, shape and dtype of each array.
      manifest: what the results depend on, by name; for JSON.

    Raises:
      ValueError: the directory was written under another manifest.
    """

    def __init__(self, path: Path, results: Mapping[str, jax.ShapeDtypeStruct], manifest: Mapping[str, Any]) -> None:
        self._path, self._results = path, results
        path.mkdir(parents=True, exist_ok=True)
        if not (path / _MANIFEST).exists():
            self._publish(json.dumps(manifest, indent=2).encode(), _MANIFEST)
        before = json.loads((path / _MANIFEST).read_text())
        for name in sorted(manifest.keys() | before.keys()):
            if before.get(name) != manifest.get(name):
                raise ValueError(
                    f"{path} holds results with other {name}: {before.get(name)!r} there, {manifest.get(name)!r} now. Pass what"
                    " was passed then, or another path."
                )

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """Whether a whole file is there.

        Raises:
          ValueError: one is, and it is of other inputs.
        """
        found = self._load(index)
        if found and found[_DIGEST] != _digest(inputs):
            raise ValueError(
                f"batch {index} is not the one whose results are in {self._file(index)}: its inputs differ. Pass the same data in"
                " the same order, unshuffled, or another path."
            )
        return found is not None

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Returns when the results are on disk."""
        arrays = dict(zip(self._results, results, strict=True)) | {_DIGEST: _digest(inputs)}
        buffer = io.BytesIO()
        # What `numpy.savez` writes; but that takes arrays by keyword, and a result may be named as one of its arguments.
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        self._publish(buffer.getbuffer(), self._file(index).name)

    def read(self, index: int) -> list[Array]:
        """Reads the file again.

        Raises:
          FileNotFoundError: it is gone or damaged.
        """
        found = self._load(index)
        if found is None:
            raise FileNotFoundError(f"{self._file(index)} is gone or damaged: run predict_dataset again")
        # NumPy's format does not know the short floats, and returns their bytes.
        return [found[name].view(result.dtype) for name, result in self._results.items()]

    def _load(self, index: int) -> dict[str, Array] | None:
        if not self._file(index).exists():
            return None
        try:
            with self._file(index).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in (*self._results, _DIGEST)}
        except _TORN:
            return None

    def _file(self, index: int) -> Path:
        return self._path / f"{index:06}.npz"

    def _publish(self, content: bytes | memoryview, name: str) -> None:
        """Writes a file, which gets its name when its content is on disk; returns when its name is, too."""
        temporary = self._path / "unfinished"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path / name)
        if os.name == "posix":  # elsewhere a directory cannot be opened
            directory = os.open(self._path, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)


def _digest(inputs: Sequence[Array]) -> np.uint32:
    return np.uint32(functools.reduce(lambda digest, x: zlib.crc32(np.asarray(x).tobytes(), digest), inputs, 0))
