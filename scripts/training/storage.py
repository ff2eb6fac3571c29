"""Where files of a run lie: in a folder that all processes share, or in a bucket of Google Cloud
Storage, `gs://bucket/folder`.

`etils.epath` reads and writes both. A bucket differs in three things: an object is written as a
whole and never appended to, nothing can be locked, and programs that write files themselves, such
as JAX's profiler, need a folder of this machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec
import jax
import tensorstore
from etils import epath
from jax.experimental import multihost_utils

# A listing that gcsfs keeps knows nothing of what TensorStore and other processes write.
fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False

LOCK = ".lock"


def place(text: str | os.PathLike[str]) -> epath.Path:
    """A folder or file, here or in a bucket.

    Raises:
      ValueError: it is somewhere else.
    """
    written = os.fspath(text)
    scheme = re.match(r"([A-Za-z][\w+.-]*):/", written)
    if scheme and not re.match(r"gs://[^/]", written):
        raise ValueError(f"{written}: must be a path, or gs://bucket/path in Google Cloud Storage")
    return epath.Path(written)


def in_bucket(path: os.PathLike[str]) -> bool:
    return os.fspath(path).startswith("gs://")


def absolute(path: epath.Path) -> epath.Path:
    return path if in_bucket(path) else path.absolute()


def require(option: str, path: epath.Path | None) -> None:
    """Whether what reads and writes buckets is installed.

    Raises:
      SystemExit: it is not.
    """
    if path is not None and in_bucket(path) and importlib.util.find_spec("gcsfs") is None:
        raise SystemExit(f"{option} {path}: needs gcsfs. Install it: pip install gcsfs")


def is_failure(error: Exception) -> bool:
    """Whether it is storage that failed, here or in a bucket, and not a program."""
    bucket = ("aiohttp", "gcsfs", "google")  # whose exceptions have no class in common
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in bucket


def check_writable(folder: epath.Path) -> None:
    """Writes and deletes a file, from every process, as later its checkpoints.

    Raises:
      SystemExit: that fails. Better now than at the first checkpoint.
    """
    name = f".probe-{uuid.uuid4().hex}"  # of no other process or run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
        (folder / name).unlink()
        if in_bucket(folder):  # Orbax writes by another client, which looks for credentials itself
            store = tensorstore.KvStore.open(f"{folder}/").result()
            store.write(name, b"").result()
            store.delete_range(tensorstore.KvStore.KeyRange(name, f"{name}\0")).result()
    except Exception as error:  # each client of a bucket has exceptions of its own
        problem = "cannot be written"
        if in_bucket(folder) and isinstance(error, FileNotFoundError):
            problem = "there is no such bucket, or no right to see it"
        raise SystemExit(f"--out {folder}: {problem} ({error})") from None


def check_shared(folder: epath.Path) -> None:
    """Whether all processes see the same folder, by the lock that the first one has written.

    Raises:
      SystemExit: this one does not see what the first has written.
    """
    if jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("the first process holds the lock")
    if not (folder / LOCK).exists():
        raise SystemExit(
            f"--out {folder}: process {jax.process_index()} does not see what process 0 writes"
            " there. Take a folder that all processes share, or gs://bucket/folder."
        )


@contextmanager
def local(folder: epath.Path) -> Iterator[Path]:
    """Yields a folder of this machine, whose files lie in `folder` afterwards."""
    if not in_bucket(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        for path in files(epath.Path(temporary)):
            (folder / os.path.relpath(path, temporary)).write_bytes(path.read_bytes())


def files(folder: epath.Path) -> list[epath.Path]:
    """All files in a folder and its folders."""
    found: list[epath.Path] = []
    with ThreadPoolExecutor(16) as pool:  # each question to a bucket takes its time
        folders = [folder]
        while folders:
            entries = [path for inside in pool.map(_entries, folders) for path in inside]
            kinds = list(pool.map(lambda path: path.is_dir(), entries))
            found += [path for path, is_dir in zip(entries, kinds, strict=True) if not is_dir]
            folders = [path for path, is_dir in zip(entries, kinds, strict=True) if is_dir]
    return sorted(found)


def _entries(folder: epath.Path) -> list[epath.Path]:
    return [path for path in folder.iterdir() if path != folder]
