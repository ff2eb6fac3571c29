"""Stores for the results of a data set's batches: in memory, or on disk, where finished batches
survive a kill of the process at any moment.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _structures

Array = np.ndarray[Any, Any]

_MANIFEST = "manifest.json"
_FORMAT = 2
"""The version of the files. Results of another version are neither read nor resumed."""
_NUM_BATCHES = "num_batches"
"""The entry of the manifest with the number of batches, None until the run has finished."""
_TORN = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Store(Protocol):
    """Maps the number of a batch to its results, a list of arrays."""

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """Whether the store has the results of this batch, for these inputs."""

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Stores the results of a batch."""

    def read(self, index: int) -> list[Array]:
        """The results of a batch."""

    def finish(self, num_batches: int) -> None:
        """Marks the run as finished."""


class Memory:
    """A `Store` in memory."""

    def __init__(self) -> None:
        self._results: list[list[Array]] = []

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """False: a run in memory starts without results."""
        return index < len(self._results)

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Appends the results: batches come in order."""
        self._results.append(results)

    def read(self, index: int) -> list[Array]:
        """The results of a batch."""
        return self._results[index]

    def finish(self, num_batches: int) -> None:
        """Does nothing: a run in memory is not resumed."""


class Directory:
    """A `Store` of files `000000.npz`, `000001.npz`, ..., as `numpy.load` reads them, and a
    manifest.

    A file gets its name when all of it is on disk. If a file is incomplete anyway, after an
    interrupted copy, say, its checksum does not match, and it counts as missing. Each file also
    holds a checksum of the inputs of its batch. Use `create` or `open` to make a store.

    Args:
      path: an existing directory.
      manifest: descriptions of the results, and of all that they depend on, by name; for JSON.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, dict(manifest)

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> Directory:
        """The store of a run in a directory, with the results that an earlier run left there.

        Raises:
          NotADirectoryError: there is a file of this name.
          ValueError: the directory was written under another manifest.
        """
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                f"path must be that of a directory, for one file a batch, but {path} is a file."
                " results.save writes one file."
            )
        path.mkdir(parents=True, exist_ok=True)
        if not (path / _MANIFEST).exists():
            directory = cls(path, {"format": _FORMAT, **manifest, _NUM_BATCHES: None})
            directory._publish_manifest()
            return directory
        directory = cls(path, _manifest(path))
        there = {
            name: x
            for name, x in directory.manifest.items()
            if name not in ("format", _NUM_BATCHES)
        }
        for name in {**manifest, **there}:
            if there.get(name) != manifest.get(name):
                raise ValueError(
                    f"{path} holds results with other {name}: {there.get(name)!r} there,"
                    f" {manifest.get(name)!r} now. Pass what was passed then, or another path."
                )
        return directory

    @classmethod
    def open(cls, path: Path) -> Directory:
        """The store of a run in a directory, finished or not.

        Raises:
          FileNotFoundError, NotADirectoryError: there is no such directory.
          ValueError: it holds no results, or they cannot be read.
        """
        if not path.exists():
            raise FileNotFoundError(f"there is no folder {path}")
        if not path.is_dir():
            raise NotADirectoryError(
                f"{path} is a file: path is the folder that predict_dataset was given"
            )
        if not (path / _MANIFEST).exists():
            raise ValueError(
                f"{path} holds no results of predict_dataset: it has no {_MANIFEST}, which is"
                " written with the first batch"
            )
        return cls(path, _manifest(path))

    @property
    def num_batches(self) -> int | None:
        """The number of batches; None if the run has not finished."""
        return self.manifest[_NUM_BATCHES]

    def finish(self, num_batches: int | None) -> None:
        """Writes the number of batches of a finished run into the manifest, or None for a run that
        goes on.
        """
        if self.num_batches != num_batches:
            self.manifest[_NUM_BATCHES] = num_batches
            self._publish_manifest()

    def written(self) -> int:
        """The number of files from the first batch on, without a gap."""
        return next(index for index in itertools.count() if not self._file(index).exists())

    def holds(self, index: int, inputs: Sequence[Array]) -> bool:
        """Whether the file of the batch is there and complete.

        Raises:
          ValueError: it is, but with the results of other inputs.
        """
        found = self._load(index)
        if found and found[_structures.RESERVED] != _digest(inputs):
            raise ValueError(
                f"batch {index} is not the one whose results are in {self._file(index)}: its inputs"
                " differ. Pass the same data in the same order, unshuffled, or another path."
            )
        return found is not None

    def write(self, index: int, inputs: Sequence[Array], results: list[Array]) -> None:
        """Writes the results. Returns when they are on disk."""
        if self.num_batches is not None:
            self.finish(None)
        arrays = dict(zip(self.manifest["results"], results, strict=True)) | {
            _structures.RESERVED: _digest(inputs)
        }
        buffer = io.BytesIO()
        # The format of `numpy.savez`. That function takes arrays as keyword arguments, and the name
        # of a result could be one of its own arguments.
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array))
        self._publish(buffer.getbuffer(), self._file(index).name)

    def read(self, index: int) -> list[Array]:
        """Reads the results of a batch from its file.

        Raises:
          FileNotFoundError: the file is missing or damaged.
        """
        found = self._load(index)
        if found is None:
            raise FileNotFoundError(
                f"{self._file(index)} is gone or damaged: run predict_dataset again"
            )
        # NumPy's format has no dtypes such as bfloat16, and returns arrays of bytes for them.
        forms = self.manifest["results"].items()
        return [found[name].view(jnp.dtype(form.partition("(")[0])) for name, form in forms]

    def _load(self, index: int) -> dict[str, Array] | None:
        if not self._file(index).exists():
            return None
        try:
            with self._file(index).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {
                    name: arrays[name] for name in (*self.manifest["results"], _structures.RESERVED)
                }
        except _TORN:
            return None

    def _file(self, index: int) -> Path:
        return self.path / f"{index:06}.npz"

    def _publish_manifest(self) -> None:
        self._publish(json.dumps(self.manifest, indent=2).encode(), _MANIFEST)

    def _publish(self, content: bytes | memoryview, name: str) -> None:
        """Writes a file, and renames it to its name when the content is on disk. Returns when the
        new name is on disk too.
        """
        temporary = self.path / "unfinished"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path / name)
        if os.name == "posix":  # on Windows a directory cannot be opened
            directory = os.open(self.path, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)


def checked_path(path: Any, rule: str = "path must be that of a directory") -> Path:
    """The argument `path` as a path. `rule` begins the message."""
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"{rule}, as a str or a pathlib.Path, got {_checks.quoted(path)}") from None


def damaged(path: Path) -> ValueError:
    """The error for a manifest that cannot be read."""
    return ValueError(
        f"{path / _MANIFEST} is damaged. numpy.load still reads the batches, {path / '000000.npz'}"
        " and so on."
    )


def _manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        version, _ = manifest.get("format", 1), manifest["results"].keys()
    except (ValueError, AttributeError, KeyError, TypeError):
        raise damaged(path) from None
    if version != _FORMAT:
        raise ValueError(
            f"{path} was written by another version of jaxdrop: its files have format {version!r},"
            f" and this version has {_FORMAT}. Read them with that version or numpy.load, or pass"
            " another path."
        )
    return manifest


def _digest(inputs: Sequence[Array]) -> np.uint32:
    return np.uint32(
        functools.reduce(lambda digest, x: zlib.crc32(np.asarray(x).tobytes(), digest), inputs, 0)
    )
