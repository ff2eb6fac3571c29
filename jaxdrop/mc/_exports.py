"""Results of a data set as one file that other programs read: npz, Parquet or zarr."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdrop import _optional

Array = np.ndarray[Any, Any]
_CALLER = "DatasetResults.save"


class Batch(NamedTuple):
    """The results of one batch by name."""

    arrays: Mapping[str, Array]
    """With the examples on their first axis."""
    numbers: Mapping[str, Array]
    """What is the same for all examples."""


Batches = Callable[[], Iterable[Batch]]
"""An iterable that begins anew with each call."""


def save(batches: Batches, path: Path) -> None:
    """Writes all batches as the format of which `path` has the suffix. The file gets its name when
    all of it is written.
    """
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"path must end with {', '.join(_FORMATS)}, which says how to write, got {str(path)!r}"
        )
    if path.is_dir() and not (path.suffix == ".zarr" and (path / "zarr.json").exists()):
        raise ValueError(f"{path} is a folder, and no group of zarr that could be replaced")
    unfinished = path.with_name(f"{path.name}.unfinished")
    _remove(unfinished)
    try:
        _FORMATS[path.suffix](batches, unfinished)
    except BaseException:
        _remove(unfinished)
        raise
    _remove(path)
    os.replace(unfinished, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _npz(batches: Batches, path: Path) -> None:
    first = next(iter(batches()))
    with zipfile.ZipFile(path, "w") as archive:
        for name, number in first.numbers.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, _plain(number), allow_pickle=False)
        for name in first.arrays:  # one array at a time is in memory
            array = np.concatenate([_plain(batch.arrays[name]) for batch in batches()])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _parquet(batches: Batches, path: Path) -> None:
    """A row for each example. What has further axes is a list of fixed length, row-major; its shape
    and the numbers stand in the metadata of the file, as JSON under `jaxdrop`.
    """
    pyarrow = _optional.load("pyarrow", _CALLER, "pyarrow", "parquet")
    parquet = importlib.import_module("pyarrow.parquet")

    def column(array: Array) -> Any:
        flat = pyarrow.array(_plain(array).reshape(-1))
        size = int(np.prod(array.shape[1:]))
        return flat if array.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, size)

    writer = None
    with contextlib.ExitStack() as stack:
        for batch in batches():
            columns = {name: column(array) for name, array in batch.arrays.items()}
            table = pyarrow.table(columns)
            if writer is None:
                about = {
                    "shapes": {name: array.shape[1:] for name, array in batch.arrays.items()},
                    "numbers": {name: value.item() for name, value in batch.numbers.items()},
                }
                schema = table.schema.with_metadata({"jaxdrop": json.dumps(about)})
                writer = stack.enter_context(parquet.ParquetWriter(path, schema))
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _zarr(batches: Batches, path: Path) -> None:
    """A group of arrays, in chunks of a batch; the numbers are its attributes."""
    zarr = _optional.load("zarr", _CALLER, "zarr", "zarr")
    group = zarr.open_group(str(path))
    for at, batch in enumerate(batches()):
        for name, array in batch.arrays.items():
            plain = _plain(array)
            if at == 0:
                made = group.create_array(
                    name,
                    shape=(0, *plain.shape[1:]),
                    chunks=tuple(max(length, 1) for length in plain.shape),
                    dtype=plain.dtype,
                )
            else:
                made = group[name]
            made.append(plain)
        if at == 0:
            group.attrs.update({name: value.item() for name, value in batch.numbers.items()})


def _plain(array: Array) -> Array:
    """With a dtype that NumPy itself has: bfloat16 and other short floats become float32."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


_FORMATS = {".npz": _npz, ".parquet": _parquet, ".zarr": _zarr}


def as_batches(
    parts: Iterable[Iterable[Array]], names: Iterable[str], batch_axis: int
) -> Iterator[Batch]:
    """The results of each batch, of which the arrays get the axis of examples in front."""
    names = list(names)
    for part in parts:
        found = dict(zip(names, part, strict=True))
        yield Batch(
            {name: np.moveaxis(x, batch_axis, 0) for name, x in found.items() if np.ndim(x)},
            {name: np.asarray(x) for name, x in found.items() if not np.ndim(x)},
        )
