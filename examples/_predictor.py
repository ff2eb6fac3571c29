#!/usr/bin/env python3
"""Answers batches with an exported predictor. Needs JAX and NumPy; neither jaxdrop nor Flax.

python examples/_predictor.py predictor.bin inputs.npy answers.npz
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import export

Array = npt.NDArray[Any]
BATCHES = (1, 8, 64)


class Predictor:
    """The function in a file that `jax.export` wrote, `predict(seed, inputs)`."""

    def __init__(self, path: Path) -> None:
        self._call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)

    def __call__(self, inputs: Array, seed: int = 0) -> dict[str, Array]:
        """The answers for a batch, by name.

        A batch is filled up to a power of two, so that few sizes are compiled. The masks of an
        example do not depend on those behind it.
        """
        size = len(inputs)
        filled = np.zeros((1 << (size - 1).bit_length(), *inputs.shape[1:]), inputs.dtype)
        filled[:size] = inputs
        answers = self._call(np.uint32(seed), filled)
        return {name: np.asarray(answer)[:size] for name, answer in answers.items()}


def latency(predict: Predictor, inputs: Array, size: int, runs: int = 50) -> dict[str, float]:
    """Milliseconds from a batch to its answers, after the compilation: median and 95th
    percentile.
    """
    batch = np.resize(inputs, (size, *inputs.shape[1:]))
    predict(batch)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        predict(batch)
        times.append(1000 * (time.perf_counter() - start))
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}


def main() -> None:
    file, inputs_file, answers_file = map(Path, sys.argv[1:4])
    predict, inputs = Predictor(file), np.load(inputs_file)
    answers: dict[str, Any] = predict(inputs)
    np.savez(answers_file, **answers)
    known = [name for name in sys.modules if name.split(".")[0] in ("jaxdrop", "flax")]
    report = {str(size): latency(predict, inputs, size) for size in BATCHES}
    print(json.dumps({"latency": report, "loaded": known}))


if __name__ == "__main__":
    main()
