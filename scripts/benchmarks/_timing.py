"""Wall-clock times of candidates that are measured side by side."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks._figures import Measured

LEAST_RUNS = 7
# No share of the time makes it fewer.
FEWEST_RUNS = 3
# `scripts/benchmark.py --share` sets it: of the seconds and runs that a measurement asks for.
share = 1.0
_RESOLVED = 2e-3  # seconds: shorter calls are timed several at a time
_QUEUE = 2e-2  # seconds of work in a queue, so that the time to launch it is lost in it


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    quantile: float = 0.5,
    queued: bool = False,
    least: int = LEAST_RUNS,
) -> dict[str, float]:
    """The median time in seconds of one call of each candidate, or another quantile: a low one
    where other work disturbs.

    The candidates take turns, so that what disturbs the machine disturbs all alike, and each round
    in another order, so that none always follows the one that leaves the caches cold or its threads
    spinning. Rounds go on for about `seconds`, and there are at least `least`, or fewer if `share`
    is less than 1. What compiling and warming up takes is not counted.

    If `queued`, a candidate's calls are launched one behind the other and only the last one is
    waited for. On an accelerator this measures the device, which works while the host launches the
    next call.
    """
    repeats: dict[str, int] = {}
    for name, call in candidates.items():
        _time(call, 1, queued)
        if least == 1:  # so long that one run is enough
            repeats[name] = 1
            continue
        wanted = _QUEUE if queued else _RESOLVED
        repeats[name] = max(1, round(wanted / _time(call, 1, queued)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + share * seconds
    fewest = max(min(least, FEWEST_RUNS), round(share * least))
    for done, order in enumerate(rounds(candidates)):
        if done >= fewest and time.perf_counter() > end:
            break
        for name in order:
            samples[name].append(_time(candidates[name], repeats[name], queued))
    return {
        name: Measured(float(np.quantile(values, quantile)), values)
        for name, values in samples.items()
    }


def rounds(names: Collection[str]) -> Iterator[list[str]]:
    """The names in one random order after another, without end."""
    order = random.Random(0)
    while True:
        yield order.sample(list(names), len(names))


def _time(call: Callable[[], Any], repeats: int, queued: bool) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        result = call() if queued else jax.block_until_ready(call())
    jax.block_until_ready(result)
    stop = time.perf_counter()
    del result  # freeing a large array takes time of its own
    return (stop - start) / repeats
