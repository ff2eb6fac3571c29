"""Predictions for a whole data set, batch by batch, that can be stopped and resumed."""

from __future__ import annotations

import functools
import logging
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._mc_dropout.dependence import are_empty
from jaxdrop._references import cites
from jaxdrop.mc import (
    _calls,
    _execution,
    _fingerprints,
    _progress,
    _results,
    _sampling,
    _storage,
    _structures,
)

_log = logging.getLogger(__name__)
_CALLER = "mc.predict_dataset"


@cites("gal2016dropout")
@_checks.hinted
def predict_dataset(
    fn: Callable[..., Any],
    batches: Iterable[Any],
    keys: jax.Array,
    *,
    summary: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    examples: int | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
    same_keys: bool = False,
    allow_deterministic: bool = False,
) -> _results.DatasetResults:
    """Runs `fn(key, *inputs)` for every key on every batch of a data set, one batch at a time.

        def run(key, images, labels):
            return fn(key, images)

        summary = lambda logits: mc.classification(logits=logits)
        results = mc.predict_dataset(run, batches, keys, summary=summary, path="results")
        whole = results.concatenate()

    With a `path`, the results of each batch are written as soon as they are computed, and are not
    kept in memory. If a run is killed, at any moment, the same call resumes it: finished batches
    are not computed again, and the results are the same. Checksums tell whether finished batches,
    which are still taken from `batches`, and the arrays that `fn` closes over, the weights, are the
    same as before. A change of the code of `fn` is not noticed. (Nor is one of the weights if JAX
    cannot trace `fn`, as when it reads the values of its arrays.) `mc.open_results(path)` opens the
    results later, without the model.

    Args:
      fn: a function of a key and inputs, such as `jaxdrop.nnx.stochastic(model)`.
      batches: an iterable of tuples or lists of `inputs`, or of single inputs. An input is an
        array, or a pytree of arrays such as a dictionary; the first axis is that of the examples. A
        batch of another size, such as the last, is compiled once more. Loaders of PyTorch and grain
        are such iterables; tensors become arrays. With `examples`, `batches` is instead one such
        batch, of arrays of the whole data set.
      keys: a key array of shape (S,).
      summary: a function of the samples of a batch, of shape (S, batch, ...). It returns arrays
        whose first axis is the batch, and numbers that are the same in all batches, as
        `mc.classification` and `mc.regression` do. By default the samples are kept.
      batch_size: how many samples to run at once; all by default.
      examples: the number of examples in a batch, into which the arrays `batches` are cut; by
        default `batches` is an iterable of batches, and no array.
      path: a directory for the results, one `.npz` file a batch; they are kept in memory if None.
      progress: whether to show a bar, with its end if `batches` has a length. Without rich (`pip
        install 'jaxdrop[progress]'`) it shows lines of text.
      same_keys: by default batch i has the keys `fold_in(key, i)`, so that masks differ from batch
        to batch. If True, all batches have `keys`: if all examples share a mask, sample s is then
        the same function over the whole data set.
      allow_deterministic: whether all samples of a batch may be the same, as in `predict`.

    Returns:
      The results by batch; `concatenate()` joins them.

    Raises:
      TypeError: `fn` does not take a key and the inputs of a batch, `batch_size` is not an integer,
        or an input is no array.
      ValueError: `keys` is not one axis of keys, `batches` is an array without `examples`, nothing
        depends on the key, results have no batch axis, or `path` holds the results of another run:
        with other keys, other weights, another summary, other shapes, or other batches.
      NotADirectoryError: `path` is that of a file.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142.
    """
    _calls.check_function(_CALLER, fn, "fn, batches, keys")
    _calls.check_keys(keys)
    _check_values(keys, "keys")
    for flag, name in (
        (progress, "progress"),
        (same_keys, "same_keys"),
        (allow_deterministic, "allow_deterministic"),
    ):
        _checks.check_flag(flag, name)
    if summary is not None:
        _checks.check_callable(summary, "summary", "the samples of a batch")
    if path is not None:
        path = _storage.checked_path(path)
    if examples is not None:
        batches = _cut(batches, _checks.check_count(examples, "examples"))
    if not _is_iterable(batches):
        raise TypeError(f"batches must be an iterable of inputs, got {_checks.quoted(batches)}")
    if isinstance(batches, (jax.Array, np.ndarray)):
        raise ValueError(
            f"batches is an array of shape {batches.shape}, each row of which would be a batch."
            " Either\n1. pass examples=..., the number of examples in a batch, into which it is"
            " cut;\n2. if its rows are batches, say so: list(batches)."
        )
    batch_axis = 1 if summary is None else 0

    def predict(keys: jax.Array, index: jax.Array, inputs: Sequence[Any]) -> Any:
        call = _calls.of_key(_CALLER, fn, len(inputs))

        def sample(key: jax.Array) -> Any:
            return call(key if same_keys else jax.random.fold_in(key, index), *inputs)

        samples = _sampling.predict(sample, keys, batch_size=batch_size, allow_deterministic=True)
        return samples if summary is None else summary(samples)

    programs: dict[Any, _Program] = {}
    store: _storage.Store = _storage.Memory()
    form: _results.Form | None = None
    num_batches = 0
    length = operator.length_hint(batches) or None
    for batch in _progress.track(batches, "batches", length) if progress else batches:
        index = np.uint32(num_batches)
        inputs = _inputs_of(batch, num_batches)
        leaves, structure = jax.tree.flatten(inputs)
        for leaf in leaves:
            _check_values(leaf, "batches")
        shapes = structure, *((x.shape, x.dtype) for x in leaves)
        if shapes not in programs:
            programs[shapes] = _trace(predict, keys, index, inputs)
            _check_batch_axis(programs[shapes].results, batch_axis, leaves)
            checked = not (allow_deterministic or are_empty(leaves))
            if checked and programs[shapes].ignores_keys(keys, index, inputs):
                raise _execution.nothing_random(_CALLER)
        program = programs[shapes]
        if form is None:
            form = _results.Form.of(program.results, batch_axis)
            if path is not None:
                manifest = {
                    "keys": _fingerprints.of_keys(keys),
                    "weights": program.weights,
                    "same_keys": bool(same_keys),
                    "summary": getattr(summary, "__qualname__", type(summary).__name__),
                    **form.to_json(),
                }
                store = _storage.Directory.create(path, manifest)
        if not store.holds(num_batches, leaves):
            results = program.run(keys, index, inputs)
            store.write(num_batches, leaves, [_on_host(x) for x in results])
        num_batches += 1
    store.finish(num_batches)
    return _results.DatasetResults(store, form, num_batches)


def _check_values(x: Any, name: str) -> None:
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            f"{name} must hold values, but it is {_checks.quoted(x)}: this is a loop in Python,"
            " outside of jax.jit"
        )


def _is_iterable(batches: Any) -> bool:
    """Whether `batches` has the methods of an iterable. Calling `iter` might start a loader."""
    if isinstance(batches, (str, bytes)) or getattr(batches, "ndim", None) == 0:
        return False
    return hasattr(type(batches), "__iter__") or hasattr(type(batches), "__getitem__")


class _Program(NamedTuple):
    run: Callable[..., list[jax.Array]]
    """Returns the leaves of the results."""
    weights: str
    """A fingerprint of the arrays that the function closes over."""
    results: Any
    """The shapes and dtypes of the results."""

    def ignores_keys(self, keys: jax.Array, *args: Any) -> bool:
        """Whether no result depends on the keys."""
        return _execution.ignores_key(lambda keys: self.run(keys, *args), keys[None])


def _trace(fn: Callable[..., Any], *args: Any) -> _Program:
    """`fn` compiled, with the arrays that it closes over, the weights, as arguments: as constants
    they would be part of the compiled program.
    """
    try:
        closed, results = jax.make_jaxpr(fn, return_shape=True)(*args)
    except Exception as error:
        _log.debug("%s: fn is not traced, and runs outside jax.jit: %r", _CALLER, error)
        results = jax.tree.map(_shape, fn(*args))
        return _Program(lambda *args: jax.tree.leaves(fn(*args)), "not seen", results)

    @jax.jit
    def run(constants: Sequence[jax.Array], *args: Any) -> list[jax.Array]:
        return jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args))

    weights = _fingerprints.of_arrays(closed.consts)
    return _Program(functools.partial(run, closed.consts), weights, results)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), jax.typeof(x).dtype)


def _inputs_of(batch: Any, index: int) -> Any:
    """The inputs of a batch as a tuple of pytrees of arrays."""
    inputs = jax.tree.map(_array, tuple(batch) if isinstance(batch, (tuple, list)) else (batch,))
    leaves = jax.tree.leaves(inputs)
    if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves):
        raise TypeError(
            f"batch {index} of batches holds keys, and what is drawn from them would be the same in"
            " all samples. Let fn derive them from its own key."
        )
    bad = [x for x in leaves if x.dtype.kind in "OSU"]
    if bad or not leaves:
        what = f"{bad[0].dtype} {_checks.quoted(bad[0].tolist())}" if bad else "nothing"
        raise TypeError(
            f"batch {index} of batches must be an array of numbers, or a tuple, list or dictionary"
            f" of such, but it holds {what}. Leave text and ids out, as in batches = ((x,) for x, _"
            " in data)."
        )
    return inputs


def _array(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return x
    if hasattr(x, "detach"):  # a tensor of PyTorch, on whatever device, with gradients or without
        x = x.detach().cpu()
        return jnp.from_dlpack(x) if str(x.dtype) == "torch.bfloat16" else x.numpy()
    return np.asarray(x)


class _Cut(Sequence[Any]):
    """Arrays of a whole data set as batches of `size` examples."""

    def __init__(self, data: Any, size: int, length: int) -> None:
        self._data, self._size, self._length = data, size, length

    def __len__(self) -> int:
        return -(-self._length // self._size)

    def __getitem__(self, index: Any) -> Any:
        start = range(len(self))[index] * self._size
        return jax.tree.map(lambda x: x[start : start + self._size], self._data)


def _cut(data: Any, size: int) -> _Cut:
    arrays = _inputs_of(data, 0)
    lengths = {x.shape[0] if x.ndim else -1 for x in jax.tree.leaves(arrays)}
    if len(lengths) > 1 or -1 in lengths:
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(arrays))
        raise ValueError(
            "with examples, batches must be arrays that have all examples of the data set on their"
            f" first axis, got shapes {shapes}"
        )
    return _Cut(arrays, size, lengths.pop())


def _on_host(x: jax.Array) -> np.ndarray[Any, Any]:
    if not (x.is_fully_addressable or x.is_fully_replicated):
        raise ValueError(
            "the results are spread over several processes, of which each can see its own part"
            " only. Replicate them, with jax.lax.with_sharding_constraint in summary, or call"
            " predict_dataset in each process for a part of the data."
        )
    return np.asarray(x)


def _check_batch_axis(results: Any, batch_axis: int, inputs: Sequence[Any]) -> None:
    size = inputs[0].shape[:1]
    for name, result in zip(_structures.names(results), jax.tree.leaves(results), strict=True):
        if result.ndim and result.shape[batch_axis : batch_axis + 1] != size:
            raise ValueError(
                f"{'fn' if batch_axis else 'summary'} must return arrays with the batch on their"
                f" first axis, but for inputs of {inputs[0].shape} {name} has shape"
                f" {result.shape[batch_axis:]}"
            )
