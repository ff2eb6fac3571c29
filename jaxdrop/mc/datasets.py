"""Predictions for a whole data set, batch by batch, that can be stopped and resumed."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdrop.mc import _chunks, _fingerprints, _progress, _storage, sampling


class DatasetResults(Sequence[Any]):
    """The results of `predict_dataset` by batch, as pytrees of NumPy arrays: `results[i]`, `for part in results`.

    What was written to disk is read again whenever it is asked for.
    """

    def __init__(self, read: Callable[[int], Any], num_batches: int, batch_axis: int) -> None:
        self._read, self._num_batches, self._batch_axis = read, num_batches, batch_axis

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: Any) -> Any:
        chosen = range(len(self))[index]
        return self._read(chosen) if isinstance(chosen, int) else [self._read(at) for at in chosen]

    def concatenate(self) -> Any:
        """The results for all examples in one: arrays are joined along their batch axis, a number is that of every batch.

        Raises:
          ValueError: there are no batches, or a number is not the same in all of them.
        """
        if not len(self):
            raise ValueError("there is nothing to concatenate: the data had no batches")
        return jax.tree.map(self._together, *self)

    def _together(self, *parts: Any) -> Any:
        if parts[0].ndim:
            return np.concatenate(parts, axis=self._batch_axis)
        if any(part != parts[0] for part in parts):
            raise ValueError(f"summary returns a number that is not the same in all batches, {parts[0]} in the first one")
        return parts[0]


def predict_dataset(
    fn: Callable[..., Any],
    batches: Iterable[Any],
    keys: jax.Array,
    *,
    summary: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
    same_keys: bool = False,
) -> DatasetResults:
    """Runs `fn(key, *inputs)` for every key on every batch of a data set, one batch at a time.

        def run(key, images, labels):
            return fn(key, images)

        results = mc.predict_dataset(run, batches, keys, summary=lambda logits: mc.classification(logits=logits), path="results")
        summary = results.concatenate()

    With a `path`, each batch's results are written as they come, and none are kept in memory. A run that was killed, at any
    moment, is resumed by the same call: what is finished is not computed again, and the output is the same. Finished batches are
    still taken from `batches`, to see that they are the same ones, and so are the arrays that `fn` closes over: the weights.
    Whether `fn` does the same with them is not seen.

    Args:
      fn: a function of a key and inputs, such as `jaxdrop.nnx.stochastic(model)`.
      batches: an iterable of tuples or lists of `inputs`, or of single ones. An input is an array, or a pytree of arrays such as
        a dictionary; the first axis is that of the examples. A batch of another size, such as the last, is compiled once more.
      keys: a key array of shape (S,).
      summary: what to make of a batch's samples, of shape (S, batch, ...): arrays with the batch first, and numbers that are the
        same in all batches, as `mc.classification` and `mc.regression` return. By default the samples are kept.
      batch_size: how many samples to run at once; all by default.
      path: a directory for the results, one `.npz` file a batch; they are kept in memory if None.
      progress: whether to show a bar. Its end is known if `batches` has a length.
      same_keys: by default batch i has the keys `fold_in(key, i)`, so that masks differ from batch to batch. If True, all have
        `keys`: with one mask for all examples, sample s is then one function, drawn once, over the whole data set.

    Returns:
      The results by batch; `concatenate()` makes them one.

    Raises:
      TypeError: `batch_size` is not an integer.
      ValueError: `keys` is not one axis of keys, results have no batch axis, or `path` holds the results of another run: with
        other keys, other weights, another summary, other shapes, or other batches.
      ImportError: a bar is asked for, and rich is not installed.
    """
    _chunks.check_keys(keys)
    batch_axis = 1 if summary is None else 0

    def predict(keys: jax.Array, index: jax.Array, inputs: Sequence[Any]) -> Any:
        def sample(key: jax.Array) -> Any:
            return fn(key if same_keys else jax.random.fold_in(key, index), *inputs)

        samples = sampling.predict(sample, keys, batch_size=batch_size)
        return samples if summary is None else summary(samples)

    programs: dict[Any, _Program] = {}
    store: _storage.Store = _storage.Memory()
    num_batches = 0
    for batch in _progress.track(batches, "batches", operator.length_hint(batches) or None) if progress else batches:
        inputs = jax.tree.map(_array, tuple(batch) if isinstance(batch, (tuple, list)) else (batch,))
        leaves, structure = jax.tree.flatten(inputs)
        form = structure, *((x.shape, x.dtype) for x in leaves)
        if form not in programs:
            programs[form] = _trace(predict, keys, np.uint32(num_batches), inputs)
            _check_batch_axis(programs[form].results, batch_axis, leaves)
        program = programs[form]
        if path is not None and not num_batches:
            results = _named(program.results)
            manifest = {
                "keys": _fingerprints.of_keys(keys),
                "weights": _fingerprints.of_arrays(program.constants),
                "same_keys": bool(same_keys),
                "summary": getattr(summary, "__qualname__", type(summary).__name__),
                "results": {name: _form(result, batch_axis) for name, result in results.items()},
            }
            store = _storage.Directory(Path(path), results, manifest)
        if not store.holds(num_batches, leaves):
            store.write(num_batches, leaves, [_on_host(x) for x in program.run(keys, np.uint32(num_batches), inputs)])
        num_batches += 1

    def read(index: int) -> Any:
        return jax.tree.unflatten(jax.tree.structure(program.results), store.read(index))

    return DatasetResults(read, num_batches, batch_axis)


class _Program(NamedTuple):
    run: Callable[..., list[jax.Array]]
    """Returns the leaves of the results."""
    constants: Sequence[jax.Array]
    """The arrays that it closes over."""
    results: Any
    """The results' shapes and dtypes."""


def _trace(fn: Callable[..., Any], *args: Any) -> _Program:
    """`fn` compiled, with the arrays that it closes over as arguments: as constants, the weights would be part of the program."""
    closed, results = jax.make_jaxpr(fn, return_shape=True)(*args)

    @jax.jit
    def run(constants: Sequence[jax.Array], *args: Any) -> list[jax.Array]:
        return jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args))

    return _Program(functools.partial(run, closed.consts), closed.consts, results)


def _array(x: Any) -> Any:
    return x if isinstance(x, jax.Array) else np.asarray(x)


def _on_host(x: jax.Array) -> np.ndarray[Any, Any]:
    if not (x.is_fully_addressable or x.is_fully_replicated):
        raise ValueError(
            "the results are spread over several processes, of which each can see its own part only. Replicate them, with"
            " jax.lax.with_sharding_constraint in summary, or call predict_dataset in each process for a part of the data."
        )
    return np.asarray(x)


def _named(results: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The results by their place in the pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(results)
    return {jax.tree_util.keystr(at, simple=True, separator=".") or "samples": result for at, result in leaves}


def _form(result: jax.ShapeDtypeStruct, batch_axis: int) -> str:
    lengths = ("batch" if axis == batch_axis else str(length) for axis, length in enumerate(result.shape))
    return f"{result.dtype}({', '.join(lengths)})"


def _check_batch_axis(results: Any, batch_axis: int, inputs: Sequence[Any]) -> None:
    (size,) = {x.shape[:1] for x in inputs[:1]}
    for name, result in _named(results).items():
        if result.ndim and result.shape[batch_axis : batch_axis + 1] != size:
            raise ValueError(
                f"{'fn' if batch_axis else 'summary'} must return arrays with the batch on their first axis, but for inputs of"
                f" {inputs[0].shape} {name} has shape {result.shape[batch_axis:]}"
            )
