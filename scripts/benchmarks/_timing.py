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
_MOST_TURNS = 8  # of one candidate in one round
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

    Beside a slow candidate there is time for few rounds. The others have several turns in each,
    which together take no longer than the slowest one's, so that a candidate that runs for moments
    is seen as often as the disturbances come. A candidate's median in a round is its run there.

    If `queued`, a candidate's calls are launched one behind the other and only the last one is
    waited for. On an accelerator this measures the device, which works while the host launches the
    next call.
    """
    repeats, spent = dict.fromkeys(candidates, 1), dict.fromkeys(candidates, 0.0)
    for name, call in candidates.items():
        _time(call, 1, queued)
        if least > 1:  # else so long that one run is enough
            single = _time(call, 1, queued)
            repeats[name] = max(1, round((_QUEUE if queued else _RESOLVED) / single))
            spent[name] = repeats[name] * single
    turns = [name for name in candidates for _ in range(_turns(name, spent))]
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + share * seconds
    fewest = max(min(least, FEWEST_RUNS), round(share * least))
    for done, order in enumerate(rounds(turns)):
        if done >= fewest and time.perf_counter() > end:
            break
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for name in order:
            taken[name].append(_time(candidates[name], repeats[name], queued))
        for name, values in taken.items():
            samples[name].append(float(np.median(values)))
    return {
        name: Measured(float(np.quantile(values, quantile)), values)
        for name, values in samples.items()
    }


def _turns(name: str, spent: Mapping[str, float]) -> int:
    """How often a candidate has its turn in one round, from the seconds that each one's takes."""
    if not spent[name]:
        return 1
    share_of_slowest = max(spent.values()) / len(spent)
    return max(1, min(_MOST_TURNS, int(share_of_slowest / spent[name])))


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
