"""The results of a data set, in memory or on disk, and how they are opened again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _exports, _storage, _structures

_SHOWN = 3


class Form(NamedTuple):
    """The structure, dtypes and shapes of the results of a batch."""

    structure: Any
    """A pytree whose leaves are the names of the arrays."""
    arrays: Mapping[str, str]
    """The dtype and shape of each array by its name, as in `float32(5, batch, 3)`."""
    batch_axis: int

    @classmethod
    def of(cls, results: Any, batch_axis: int) -> Form:
        """The form of a batch's results, a pytree of shapes and dtypes."""

        def array(result: jax.ShapeDtypeStruct) -> str:
            lengths = map(str, result.shape)
            shown = (
                "batch" if axis == batch_axis else length for axis, length in enumerate(lengths)
            )
            return f"{result.dtype}({', '.join(shown)})"

        names = _structures.names(results)
        arrays = dict(zip(names, map(array, jax.tree.leaves(results)), strict=True))
        return cls(jax.tree.unflatten(jax.tree.structure(results), names), arrays, batch_axis)

    def to_json(self) -> dict[str, Any]:
        """The form as JSON, for the manifest."""
        structure = _structures.to_json(self.structure)
        return {
            "results": dict(self.arrays),
            "structure": structure,
            "batch_axis": self.batch_axis,
        }

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> Form:
        """The form from the JSON of a manifest."""
        structure = _structures.from_json(manifest["structure"])
        return cls(structure, manifest["results"], manifest["batch_axis"])


@cites("gal2016dropout")
class DatasetResults(Sequence[Any]):
    """The results of `predict_dataset` by batch, as pytrees of NumPy arrays.

    `results[i]`, `for part in results`, `len(results)`. Results on disk are read again at each
    access.
    """

    def __init__(
        self, store: _storage.Store, form: Form | None, num_batches: int, complete: bool = True
    ) -> None:
        self._store, self._form, self._num_batches = store, form, num_batches
        self._complete = complete

    @property
    def complete(self) -> bool:
        """Whether the run that wrote the results has finished."""
        return self._complete

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: Any) -> Any:
        try:
            chosen = range(len(self))[index]
        except IndexError:
            raise IndexError(f"there are {len(self)} batches, got {index}") from None
        return self._read(chosen) if isinstance(chosen, int) else [*map(self._read, chosen)]

    def __repr__(self) -> str:
        count = f"{len(self)} batch{'es' * (len(self) != 1)}"
        if self._form is None:
            return f"DatasetResults({count})"
        kind = type(self._form.structure)
        of = "" if kind in (str, dict, list, tuple) else f" of {kind.__name__}"
        arrays = [f"{name} {array}" for name, array in self._form.arrays.items()]
        more = f", and {len(arrays) - _SHOWN} more" if len(arrays) > _SHOWN else ""
        where = "" if self.complete else "incomplete, "
        where += (
            f"in {self._store.path}" if isinstance(self._store, _storage.Directory) else "in memory"
        )
        return f"DatasetResults({count}{of}: {', '.join(arrays[:_SHOWN])}{more}; {where})"

    def concatenate(self) -> Any:
        """The results for all examples in one pytree.

        Arrays are concatenated along their batch axis. A number must be the same in all batches.

        Raises:
          ValueError: there are no batches, or a number is not the same in all of them.
        """
        if not len(self):
            raise ValueError("there is nothing to concatenate: the data had no batches")
        return jax.tree.map(self._together, *self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the results of all examples into one file for other programs, batch by batch.

            results.save("results.parquet")

        Arrays are written under the names that `repr(results)` shows, with the examples on their
        first axis: samples as (example, sample, ...). Floats of 16 bits that NumPy does not have
        become float32.

        Args:
          path: ends with `.npz` for `numpy.load`; with `.parquet` for a table with a row for each
            example (`pip install 'jaxdrop[parquet]'`), in which arrays of more axes are lists in
            row-major order, and numbers, with the shapes of arrays, metadata of the file; or with
            `.zarr` for a group of chunked arrays (`pip install 'jaxdrop[zarr]'`), of which numbers
            are the attributes. What stands there is replaced when all is written.

        Raises:
          ValueError: there are no batches, or another suffix.
          ImportError: the package is not installed.
        """
        if self._form is None or not len(self):
            raise ValueError("there is nothing to save: the data had no batches")
        form, store = self._form, self._store
        _exports.save(
            lambda: _exports.as_batches(
                map(store.read, range(len(self))), form.arrays, form.batch_axis
            ),
            _storage.checked_path(path, "path must be that of a file"),
        )

    def _read(self, index: int) -> Any:
        assert self._form is not None
        structure = jax.tree.structure(self._form.structure)
        return jax.tree.unflatten(structure, self._store.read(index))

    def _together(self, *parts: Any) -> Any:
        assert self._form is not None
        if parts[0].ndim:
            return np.concatenate(parts, axis=self._form.batch_axis)
        if any(part != parts[0] for part in parts):
            raise ValueError(
                f"summary returns a number that is not the same in all batches, {parts[0]} in the"
                " first one"
            )
        return parts[0]


@_checks.hinted
def open_results(path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> DatasetResults:
    """Opens the results that `predict_dataset(path=path)` wrote, without the model, the keys and
    the batches.

        results = mc.open_results("results")
        summary = results.concatenate()

    The folder is only read. Summaries of this library, lists, tuples and dictionaries come back as
    such. An object of another class comes back as a named tuple of its fields, or as a dictionary
    of its arrays by name if its fields are not known.

    Args:
      path: the folder.
      allow_incomplete: whether to open a run that has not finished, for the batches that are there.
        `results.complete` says whether it has finished.

    Returns:
      The results by batch, as `predict_dataset` returns them.

    Raises:
      FileNotFoundError, NotADirectoryError: there is no such folder, or a batch is missing.
      ValueError: the folder holds no results, damaged ones, those of another version, or those of a
        run that has not finished.
    """
    _checks.check_flag(allow_incomplete, "allow_incomplete")
    store = _storage.Directory.open(Path(path))
    written, num_batches = store.written(), store.num_batches
    if num_batches is None and not allow_incomplete:
        raise ValueError(
            f"the run that writes to {store.path} has not finished: {written} batches are there."
            " Run predict_dataset again, which computes the others, or pass allow_incomplete=True."
        )
    if num_batches is not None and written < num_batches:
        raise FileNotFoundError(
            f"batch {written} of {num_batches} is gone from {store.path}: run predict_dataset again"
        )
    try:
        form = Form.from_json(store.manifest)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _storage.damaged(store.path) from None
    complete = num_batches is not None
    return DatasetResults(
        store, form, num_batches if num_batches is not None else written, complete
    )
