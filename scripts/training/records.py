"""Tokens in ArrayRecord files: grain reads them record by record, wherever in a file they stand, so
that no process holds the text, and each reads only its rows of a batch.

A folder has files such as `training-00000.array_record` and `validation-00000.array_record`, and
`tokens.yaml`, which describes them. A record is `length + 1` tokens: what a model reads, and each
time the token behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grain
import numpy as np
import numpy.typing as npt
import yaml
from array_record.python.array_record_module import ArrayRecordWriter

DESCRIPTION = "tokens.yaml"
PARTS = ("training", "validation")


class Records:
    """One part of the tokens in a folder.

    Args:
      folder: on this machine; a bucket can be mounted there (`gcsfuse`).
      part: 'training' or 'validation'.
      described: what `tokens.yaml` says.
    """

    def __init__(self, folder: Path, part: str, described: Mapping[str, Any]) -> None:
        self.length: int = described["length"]
        self._dtype = np.dtype(described["dtype"])
        files = described["files"][part]
        for name, file in files.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != file["bytes"]:
                raise _not_described(folder, name)
        self._source = grain.sources.ArrayRecordDataSource([str(folder / name) for name in files])
        if len(self._source) != sum(file["records"] for file in files.values()):
            raise _not_described(folder, part)
        self.described = yaml.safe_dump(dict(described)).encode()

    def __len__(self) -> int:
        return len(self._source)

    def rows(self, index: Any) -> npt.NDArray[np.int32]:
        """The tokens of one record, or of each, `(..., length + 1)`."""
        if np.ndim(index) == 0:
            return np.frombuffer(self._source[int(index)], self._dtype).astype(np.int32)
        found = self._source.__getitems__([int(one) for one in index])
        return np.stack([np.frombuffer(row, self._dtype) for row in found]).astype(np.int32)


Part = TypeVar("Part", bound=Records)


def _not_described(folder: Path, name: str) -> SystemExit:
    return SystemExit(
        f"--data {folder}: {name} is not what {DESCRIPTION} describes. Write the folder again."
    )


def load(folder: Path, length: int, kind: type[Part]) -> tuple[Part, Part, int]:
    """The two parts, each of this class, and the number of different tokens.

    Raises:
      SystemExit: the folder holds no such files, or files of another length.
    """
    try:
        described = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        training, validation = (kind(folder, part, described) for part in PARTS)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise SystemExit(
            f"--data {folder}: no folder of tokens ({DESCRIPTION}: {error!r}). See"
            " scripts/write_tokens.py."
        ) from None
    if training.length != length:
        raise SystemExit(
            f"--length {length}: --data {folder} has records of {training.length} tokens. Take"
            f" --length {training.length}, or write them again."
        )
    return training, validation, described["classes"]


def write(
    folder: Path,
    parts: Mapping[str, Iterable[npt.ArrayLike]],
    *,
    length: int,
    classes: int,
    files: int = 4,
) -> dict[str, int]:
    """Writes a folder. Records follow each other in the text, and overlap in one token, so that
    each token but the first is predicted once; what is left at the end is dropped.

    Args:
      folder: is made, if it is not there.
      parts: 'training' and 'validation', each an iterable of arrays of tokens, such as documents.
      length: of the windows that a model reads.
      classes: the number of different tokens, all less than it.
      files: of the training part.

    Returns:
      How many records each part has.

    Raises:
      ValueError: a token is out of range, or a part has no record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)  # of files that are now written over
    dtype = np.min_scalar_type(classes - 1)
    described: dict[str, Any] = {"length": length, "classes": classes, "dtype": dtype.name}
    described["files"], counts = {}, {}
    for part in PARTS:
        names = [f"{part}-{i:05}.array_record" for i in range(files if part == PARTS[0] else 1)]
        # Records that are read one by one must be groups of one.
        writers = [ArrayRecordWriter(str(folder / name), "group_size:1") for name in names]
        each = [0] * len(names)
        for row in _rows(parts[part], length, classes, dtype):
            shortest = each.index(min(each))
            writers[shortest].write(row.tobytes())
            each[shortest] += 1
        for writer in writers:
            writer.close()
        counts[part] = sum(each)
        if counts[part] < len(writers):
            raise ValueError(
                f"the {part} part has {counts[part]} records of {length} tokens, for"
                f" {len(writers)} files: it is too short"
            )
        described["files"][part] = {
            name: {"records": records, **_facts(folder / name)}
            for name, records in zip(names, each, strict=True)
        }
    (folder / DESCRIPTION).write_text(yaml.safe_dump(described), encoding="utf-8")
    return counts


def _rows(
    tokens: Iterable[npt.ArrayLike], length: int, classes: int, dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    left: npt.NDArray[Any] = np.zeros(0, dtype)
    for more in tokens:
        array = np.asarray(more)
        if array.size and (array.min() < 0 or array.max() >= classes):
            raise ValueError(
                f"tokens must be in [0, {classes}), got {array.min()} to {array.max()}: see"
                " `classes`"
            )
        left = np.concatenate([left, array.reshape(-1).astype(dtype, copy=False)])
        count = (len(left) - 1) // length
        for start in range(0, count * length, length):
            yield left[start : start + length + 1]
        left = left[max(count, 0) * length :]


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
