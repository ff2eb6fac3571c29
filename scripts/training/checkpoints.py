"""Checkpoints that are known to be good: Orbax writes them, and each gets digests once it is
complete.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from training import layouts, storage

# In the form of sha256sum, which checks it too: `sha256sum --check SHA256SUMS`. In a bucket, whose
# objects are whole or not there, and checked by the service, sizes take the place of digests.
_DIGESTS = "SHA256SUMS"
_INCOMPLETE = "the run ended before it was complete"


class Checkpoints:
    """Checkpoints in subfolders that are named by the number of steps taken.

    Those without digests, or that no longer match them, are renamed first, so that the newest one
    left is good.

    Args:
      folder: absolute, and the same for all processes.
      keep: how many to keep, the newest ones. The older ones are what a broken one falls back to.
      say: is called with what the user should know.
    """

    def __init__(self, folder: epath.Path, *, keep: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _set_aside_broken(folder, say, keep=keep)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder, options=options)
        self._background = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    @property
    def newest(self) -> int | None:
        """The number of steps of the newest checkpoint, if there is one."""
        return self._manager.latest_step()

    def notes(self) -> dict[str, Any]:
        """What was saved beside the arrays in the newest checkpoint."""
        return self._manager.restore(
            self.newest, args=ocp.args.Composite(notes=ocp.args.JsonRestore())
        ).notes

    def restore(self, target: Any) -> Any:
        """The arrays of the newest checkpoint, in the layout of `target`, whatever it was when they
        were saved.

        Args:
          target: the tree, of `jax.ShapeDtypeStruct` with shardings.
        """
        return self._manager.restore(
            self.newest, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        ).state

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Takes a copy of the arrays, which is written in the background.

        Raises:
          SystemExit: this checkpoint, or the one before, could not be written.
        """
        self._wait()
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
        )
        with _clear_message(self._folder):
            self._manager.save(step, args=arguments)
        self._pending = self._background.submit(self._complete, self._folder / str(step))

    def close(self) -> None:
        """Waits until all is written."""
        with _clear_message(self._folder), ExitStack() as stack:
            stack.callback(self._manager.close)
            stack.callback(self._background.shutdown)
            self._wait()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            with _clear_message(self._folder):
                pending.result()

    def _complete(self, checkpoint: epath.Path) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _write_digests(checkpoint)


@contextmanager
def _clear_message(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the storage raises; Orbax itself has logged it
        gc.collect()  # what Orbax left behind would complain at the end of the process
        raise SystemExit(
            f"A checkpoint could not be written to {folder}; those before it are intact. {error!r}"
        ) from None


def read(checkpoint: epath.Path) -> Any:
    """The arrays of a checkpoint as NumPy arrays, on any number of devices."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(checkpoint / "state").item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(checkpoint / "state", ocp.args.PyTreeRestore(restore_args=arguments))


def newest_params(run: epath.Path, state: Any) -> Any:
    """The state of a new run that begins with the newest parameters and statistics of another.

    Raises:
      SystemExit: there are none, or they are another model's.
    """
    folder = storage.absolute(run) / "checkpoints"  # Orbax finds nothing by a relative path
    found = _newest_first(folder)
    if not found:
        raise SystemExit(f"--init-from {run}: holds no checkpoint")
    saved = read(found[0])
    target = {"params": state.params, "stats": state.stats}
    here, there = (
        {layouts.name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (target, {name: saved.get(name, {}) for name in target})
    )
    wrong = [
        name
        for name in sorted(here.keys() | there.keys())
        if getattr(here.get(name), "shape", None) != getattr(there.get(name), "shape", None)
    ]
    if wrong:
        raise SystemExit(
            f"--init-from {run}: its model is another; {wrong[0]} is"
            f" {getattr(there.get(wrong[0]), 'shape', 'not there')}, and here"
            f" {getattr(here.get(wrong[0]), 'shape', 'not there')}"
        )
    leaves = [
        jax.make_array_from_callback(leaf.shape, leaf.sharding, there[name].__getitem__)
        for name, leaf in here.items()
    ]
    return state._replace(**jax.tree.unflatten(jax.tree.structure(target), leaves))


def _newest_first(folder: epath.Path) -> list[epath.Path]:
    """What Orbax takes for finished. On a disk that is all with such a name; in a bucket, where
    nothing can be renamed at once, another file says so, and Orbax deletes the rest.
    """
    if not folder.exists():  # in a bucket, a folder without files
        return []
    found = (path for path in folder.iterdir() if path.name.isdecimal())
    if storage.in_bucket(folder):
        found = (path for path in found if (path / "commit_success.txt").exists())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _set_aside_broken(folder: epath.Path, say: Callable[[str], None], *, keep: int) -> None:
    """Renames the newest checkpoints until one is good. The first that a run writes may be left
    incomplete, and nothing is lost then. Where several are kept, it is the only one.

    Raises:
      SystemExit: there are checkpoints, and none is good. None is renamed: the next attempt finds
        the same.
    """
    found = _newest_first(folder)
    broken: list[tuple[epath.Path, str]] = []
    for checkpoint in found:
        if (problem := _problem(checkpoint)) is None:
            break
        broken.append((checkpoint, problem))
    is_first = keep > 1 and [problem for _, problem in broken] == [_INCOMPLETE]
    if found and len(broken) == len(found) and not is_first:
        raise SystemExit(
            f"None of the {len(found)} checkpoints in {folder} is good, and training does not start"
            f" again by itself. Of {found[0].name}, {broken[0][1]}. Copy good ones there, or start"
            " anew with another --out."
        )
    for checkpoint, problem in broken:
        aside = checkpoint.with_name(f"broken-{checkpoint.name}")
        number = 2
        while aside.exists():
            aside, number = checkpoint.with_name(f"broken-{checkpoint.name}-{number}"), number + 1
        checkpoint.rename(aside)
        say(f"Checkpoint {checkpoint.name} is not used: {problem}. It is now {aside}")


def _problem(checkpoint: epath.Path) -> str | None:
    """What is wrong with a checkpoint."""
    listed = checkpoint / _DIGESTS
    if not listed.exists():
        return _INCOMPLETE
    try:
        expected = {
            name: digest
            for digest, name in (line.split("  ", 1) for line in listed.read_text().splitlines())
        }
    except (ValueError, UnicodeDecodeError):
        return f"its {_DIGESTS} is damaged"
    if not expected:
        return f"its {_DIGESTS} is empty"
    with ThreadPoolExecutor(16) as pool:
        digests = pool.map(_digest, (checkpoint / name for name in expected))
    for (name, digest), found in zip(expected.items(), digests, strict=True):
        if found is None:
            return f"its file {name} is missing"
        if found != digest:
            return f"its file {name} has changed since it was written"
    return None


def _write_digests(checkpoint: epath.Path) -> None:
    """The whole list or none."""
    files = storage.files(checkpoint)
    with ThreadPoolExecutor(16) as pool:
        digests = pool.map(_digest, files)
    lines = [
        f"{digest}  {path.relative_to(checkpoint)}\n"
        for path, digest in zip(files, digests, strict=True)
    ]
    partial = checkpoint.parent / f"{_DIGESTS}-{checkpoint.name}.partial"
    partial.write_text("".join(lines))
    partial.replace(checkpoint / _DIGESTS)


def _digest(path: epath.Path) -> str | None:
    """Of a file, if it is there. That of an object in a bucket would take all of it over the
    network: its size.
    """
    if not path.is_file():
        return None
    if storage.in_bucket(path):
        return str(path.stat().length)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
