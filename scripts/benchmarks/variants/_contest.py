"""A variant against what is usually written in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from benchmarks import _peers
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved

FORWARD = "forward"
BOTH = "with gradient"
BY_HAND = "by hand"
SAME_KEY = "threefry"
OWN_KEY = "jaxdrop.key"
OURS = (SAME_KEY, OWN_KEY)

# Of the times of a program. What else runs on the machine only ever adds to them.
QUANTILE = 0.1
# By how much that differs from run to run.
_NOISE = 0.05
# Here no key drops what has a single coin, which would leave nothing to compute.
_SEED = 1


class Contest(NamedTuple):
    """Two functions of a key, of arrays `given`, and of `arrays` that get gradients. Without those,
    they run forward only.
    """

    name: str
    ours: Callable[..., Any]
    by_hand: Callable[..., Any]
    arrays: Sequence[Any] = ()
    given: Sequence[Any] = ()

    def passes(self, quick: bool) -> tuple[str, ...]:
        """What to measure: forward, and forward and backward."""
        if not self.arrays:
            return (FORWARD,)
        return (BOTH,) if quick else (FORWARD, BOTH)


@dataclass(frozen=True)
class Program:
    """A compiled pass, with what it takes."""

    compiled: jax.stages.Compiled
    operands: tuple[Any, ...]

    def __call__(self) -> Any:
        """Runs it."""
        return self.compiled(*self.operands)


def compare(family: str, contests: Sequence[Contest], quick: bool) -> Iterator[Table | Bar]:
    """All contests of a family: times, temporaries, and the least gain, which is how many times as
    fast jaxdrop is. Code by hand is the limit.
    """
    times: dict[str, dict[str, Any]] = {FORWARD: {}, BOTH: {}}
    scratch: dict[str, dict[str, float]] = {}
    gains: dict[str, dict[str, float]] = {SAME_KEY: {}, OWN_KEY: {}}
    for contest in contests:
        for step in contest.passes(quick):
            calls = {name: program(contest, name, step) for name in (BY_HAND, SAME_KEY, OWN_KEY)}
            spent = interleaved(calls, seconds=0 if quick else 2, quantile=QUANTILE)
            times[step][contest.name] = spent
            for name, row in gains.items():
                row[f"{contest.name}, {step}"] = spent[BY_HAND] / spent[name]
        scratch[contest.name] = {  # of the last pass
            name: scratch_bytes(call.compiled) for name, call in calls.items()
        }
    for step, figures in times.items():
        if figures:
            yield Table(f"{family}, {step}", "s", figures, limit=BY_HAND, ours=OURS)
    yield Table(f"{family}: temporaries", "B", scratch, ours=OURS)
    for name, row in gains.items():
        worst = min(row, key=lambda case: row[case])
        yield Bar(f"{family}, {name}, least gain: {worst}", row[worst], ">=", 1 - _NOISE)


def program(contest: Contest, candidate: str, step: str) -> Program:
    """A pass of a candidate. Those who write by hand have a threefry key."""
    function = contest.by_hand if candidate == BY_HAND else contest.ours
    key = (jaxdrop.key if candidate == OWN_KEY else jax.random.key)(_SEED)

    def forward(given: Sequence[Any], *arrays: Any) -> Any:
        return function(*given, *arrays)

    operands = (key, *contest.given), *contest.arrays
    if step == FORWARD:
        return _compiled(forward, *operands)
    cotangent = jax.tree.map(
        lambda result: normal(*result.shape), jax.eval_shape(forward, *operands)
    )
    return _compiled(_peers.with_gradient(forward), *operands, cotangent)


def _compiled(function: Callable[..., Any], *operands: Any) -> Program:
    return Program(jax.jit(function).lower(*operands).compile(), operands)


def normal(*shape: int) -> jax.Array:
    """Standard normal values, the same for each shape."""
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))


def dropped(key: jax.Array, x: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
    """Dropout as it is written by hand, with a mask of `shape`."""
    keep = jax.random.bernoulli(key, 1 - _peers.RATE, x.shape if shape is None else shape)
    return jnp.where(keep, x / (1 - _peers.RATE), 0)
