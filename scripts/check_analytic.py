#!/usr/bin/env python3
"""Compares `mc.analytic` with samples, on trained networks, and times it in deterministic passes.

    python scripts/check_analytic.py  # two minutes
    python scripts/check_analytic.py --uci UCI_Datasets  # and six networks of Gal & Ghahramani
    python scripts/check_analytic.py --only digits --samples 2000
    python scripts/check_analytic.py --only digits --control  # the gain of the control variate

One line for each network and precision. `std` are the standard deviations of an output over the
inputs of the test set:

- corr: the correlation of those of `mc.analytic` with those of the samples, over the test inputs,
  averaged over the outputs; worst: that of the worst output;
- halves: the same correlation between two halves of the samples, which is the most that any method
  could reach with as many samples;
- ratio: mean standard deviation over that of the samples; lowest and highest of an output;
- mean: root mean squared error of the mean, in mean standard deviations;
- passes: time over the time of a deterministic pass on the same inputs, the median of pairs, and
  how many of them the bar allows.

`with pairs` is `enumerated`, with the pairs of six inputs.

The bars are those of `BARS`; a figure that misses its bar is marked, and the exit code says how
many.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from sklearn.datasets import load_digits

import jaxdrop
import jaxdrop.linen
from benchmarks._timing import interleaved
from jaxdrop import mc

UCI = ("bostonHousing", "concrete", "energy", "wine-quality-red", "power-plant",
       "naval-propulsion-plant")  # fmt: skip
# Network and precision: least correlation, largest distance of the ratio from 1, most passes.
BARS: dict[tuple[str, str], tuple[float, float | None, Callable[[int, int], int]]] = {
    ("digits", "diagonal"): (0.88, None, lambda inputs, outputs: 3),
    ("convolutions", "diagonal"): (0.90, None, lambda inputs, outputs: 3),
    ("uci", "diagonal"): (0.65, None, lambda inputs, outputs: 3),
    ("block", "diagonal"): (0.70, None, lambda inputs, outputs: 3),
    ("digits", "linearized"): (0.98, 0.10, lambda inputs, outputs: 1 + outputs),
    ("uci", "enumerated"): (0.93, 0.10, lambda inputs, outputs: 1 + inputs),
    ("uci", "with pairs"): (0.93, 0.10, lambda inputs, outputs: 1 + inputs),
}
UNLIMITED = 10**9
# What else than a precision has a line of its own.
OPTIONS: dict[str, dict[str, Any]] = {"with pairs": {"precision": "enumerated", "pairs": 6}}


class Perceptron(linen.Module):
    """Two hidden layers, dropout behind each."""

    width: int = 128

    @linen.compact
    def __call__(self, x: jax.Array, drop: bool = True) -> jax.Array:
        for _ in range(2):
            x = linen.relu(linen.Dense(self.width)(x))
            x = jaxdrop.linen.Dropout(0.5, deterministic=not drop)(x)
        return linen.Dense(10)(x)


class Convolutions(linen.Module):
    """Two convolutions with BatchNorm, max pooling, and three dropouts."""

    training: bool = False

    @linen.compact
    def __call__(self, x: jax.Array, drop: bool = True) -> jax.Array:
        x = x.reshape(-1, 8, 8, 1)
        for channels, rate in ((16, 0.1), (32, 0.25)):
            x = linen.Conv(channels, (3, 3))(x)
            x = linen.relu(linen.BatchNorm(use_running_average=not self.training)(x))
            x = jaxdrop.linen.Dropout(rate, deterministic=not drop)(x)
        x = linen.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = linen.relu(linen.Dense(64)(x))
        return linen.Dense(10)(jaxdrop.linen.Dropout(0.5, deterministic=not drop)(x))


class Transformer(linen.Module):
    """One block over the rows of an image, with dropout on attention and on both branches."""

    head: bool = True

    @linen.compact
    def __call__(self, x: jax.Array, drop: bool = True) -> jax.Array:
        rate = 0.1
        x = linen.Dense(32)(x.reshape(-1, 8, 8))
        x = x + self.param("positions", linen.initializers.normal(0.1), (8, 32))
        y = linen.MultiHeadDotProductAttention(
            4, dropout_rate=rate, deterministic=not drop, broadcast_dropout=False
        )(linen.LayerNorm()(x))
        x = x + jaxdrop.linen.Dropout(rate, deterministic=not drop)(y)
        y = linen.Dense(64)(linen.LayerNorm()(x))
        y = linen.Dense(32)(jaxdrop.linen.Dropout(rate, deterministic=not drop)(linen.gelu(y)))
        x = x + jaxdrop.linen.Dropout(rate, deterministic=not drop)(y)
        return linen.Dense(10)(linen.LayerNorm()(x).mean(1)) if self.head else x.reshape(len(x), -1)


class Small(linen.Module):
    """The network of Gal & Ghahramani (2016): dropout before both products."""

    rate: float = 0.05

    @linen.compact
    def __call__(self, x: jax.Array, drop: bool = True) -> jax.Array:
        x = jaxdrop.linen.Dropout(self.rate, deterministic=not drop)(x)
        x = linen.relu(linen.Dense(50)(x))
        return linen.Dense(1)(jaxdrop.linen.Dropout(self.rate, deterministic=not drop)(x))


@dataclasses.dataclass(frozen=True)
class Case:
    """A trained network, and what it is tested on."""

    name: str
    kind: str
    model: linen.Module
    variables: Any
    inputs: np.ndarray

    def drawn(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.model.apply(self.variables, x, rngs={"dropout": key})

    def plain(self, x: jax.Array) -> jax.Array:
        return self.model.apply(self.variables, x, drop=False)


def trained(model: linen.Module, x: np.ndarray, y: np.ndarray, steps: int, batch: int = 128) -> Any:
    """The variables after some steps of Adam; classes if `y` are integers."""
    learning = model.clone(training=True) if hasattr(model, "training") else model
    variables = learning.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x[:2])
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def step(state: Any, number: jax.Array) -> tuple[Any, None]:
        params, others, slots = state
        key = jax.random.fold_in(jaxdrop.key(2), number)
        rows = jax.random.randint(key, (batch,), 0, len(x))

        def loss(params: Any) -> Any:
            out, updated = learning.apply(
                {"params": params, **others},
                jnp.asarray(x)[rows],
                rngs={"dropout": key},
                mutable=list(others),
            )
            wanted = jnp.asarray(y)[rows]
            if jnp.issubdtype(wanted.dtype, jnp.integer):
                fit = optax.softmax_cross_entropy_with_integer_labels(out, wanted).mean()
            else:
                fit = ((out[:, 0] - wanted) ** 2).mean()
            return fit, updated

        slope, updated = jax.grad(loss, has_aux=True)(params)
        change, slots = optimizer.update(slope, slots, params)
        return (optax.apply_updates(params, change), updated, slots), None

    params = variables.pop("params")
    state = (params, variables, optimizer.init(params))
    (params, others, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps)))(
        state
    )
    return {"params": params, **others}


def digits(name: str, model: linen.Module, number: int, steps: int) -> Case:
    """A network that reads digits."""
    data = load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target.astype(np.int32)
    variables = trained(model, x[:1200], y[:1200], steps)
    case = Case(name, name, model, variables, x[1200 : 1200 + number])
    right = np.argmax(case.plain(jnp.asarray(x[1200:])), -1) == y[1200:]
    print(f"{name}: accuracy {right.mean():.3f}")
    return case


def regression(folder: Path, name: str, number: int) -> Case:
    """A network for one of the UCI data sets, on its first split."""
    path = folder / name / "data"
    table = np.loadtxt(path / "data.txt")
    columns = np.loadtxt(path / "index_features.txt").astype(int)
    target = int(np.loadtxt(path / "index_target.txt"))
    rows, others = (
        np.loadtxt(path / f"index_{part}_0.txt").astype(int) for part in ("train", "test")
    )
    x, y = table[:, columns], table[:, target]
    spread = x[rows].std(0)
    x = ((x - x[rows].mean(0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    y = ((y - y[rows].mean()) / y[rows].std()).astype(np.float32)
    variables = trained(Small(), x[rows], y[rows], 4000, 32)
    return Case(f"{name} ({x.shape[1]} inputs)", "uci", Small(), variables, x[others][:number])


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the inputs, for each output."""
    return np.asarray([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])


def sampled(case: Case, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Standard deviations of both halves and of all samples, and the mean."""

    @jax.jit
    def half(key: jax.Array) -> Any:
        keys = mc.keys(key, number // 2, "independent")
        return mc.moments(lambda key: case.drawn(key, jnp.asarray(case.inputs)), keys)

    halves = [half(jaxdrop.key(seed)) for seed in (1, 2)]
    whole = halves[0].merge(halves[1])
    return [np.sqrt(each.variance) for each in (*halves, whole)], np.asarray(whole.mean)


def check(case: Case, samples: int, precisions: Sequence[Any], seconds: float) -> int:
    """Prints a line for each precision; returns how many figures miss their bars."""
    (first, second, whole), mean = sampled(case, samples)
    agree = correlations(first, second)
    x = jnp.asarray(case.inputs)
    runs = {"plain": jax.jit(case.plain)}
    runs |= {
        p: jax.jit(mc.analytic(case.drawn, **OPTIONS.get(p, {"precision": p}))) for p in precisions
    }
    begin = time.perf_counter()
    found = {p: jax.block_until_ready(runs[p](x)) for p in precisions}
    compiling = time.perf_counter() - begin
    times = interleaved({name: functools.partial(run, x) for name, run in runs.items()},
                        seconds=seconds)  # fmt: skip
    missed = 0
    for precision, result in found.items():
        std = np.asarray(result.std)
        corr, ratio = correlations(std, whole), std.mean(0) / whole.mean(0)
        error = np.sqrt(((np.asarray(result.mean) - mean) ** 2).mean()) / whole.mean()
        passes = times[precision] / times["plain"]
        inputs, outputs = case.inputs.shape[1], whole.shape[1]
        unlimited = (-1.0, None, lambda *_: UNLIMITED)
        bar, size, most = BARS.get((case.kind, precision), unlimited)
        limit = most(inputs, outputs)
        marks = [
            corr.mean() < bar,
            size is not None and abs(std.mean() / whole.mean() - 1) > size,
            passes > limit,
        ]
        missed += sum(marks)
        at = ["*" if mark else "" for mark in marks]
        print(
            f"{case.name:36} {precision:11} corr {corr.mean():.3f}{at[0]} worst {corr.min():.3f}"
            f" halves {agree.mean():.4f} ({agree.min():.4f}) ratio {std.mean() / whole.mean():.3f}"
            f"{at[1]} [{ratio.min():.3f}, {ratio.max():.3f}] mean {error:.3f}"
            f" passes {passes:.1f}{at[2]}{f' of {limit}' if limit < UNLIMITED else ''}"
            f" ({times['plain'] * 1e6:.0f} us)",
            flush=True,
        )
    if found:
        told = max((r.linearized for r in found.values()), key=len)
        print(f"    compiled in {compiling:.1f} s; linearized: {'; '.join(told) or 'nothing'}")
    return missed


def control(case: Case, sizes: Sequence[int] = (16, 64), rounds: int = 60) -> None:
    """Prints what the linear part gains as a control variate: squared errors of the mean with it
    over those without, at equal numbers of samples, the time of a sample with over without, and
    their product, the ratio at equal time. Two independent groups of samples: the coefficient,
    one for each output, is fitted on one and used on the other.
    """
    x = jnp.asarray(case.inputs[:64])
    part = mc.linear_part(case.drawn)

    def both(key: jax.Array) -> Any:
        return case.drawn(key, x), part(key, x)

    truth = np.asarray(
        jax.jit(lambda keys: mc.moments(lambda key: case.drawn(key, x), keys).mean)(
            mc.keys(jaxdrop.key(10), 2**14)
        )
    )
    for strategy, size in itertools.product(("independent", "stratified"), sizes):
        plain_error, error = 0.0, 0.0

        @jax.jit
        def run(key: jax.Array, size: int = size, strategy: Any = strategy) -> Any:
            return mc.predict(both, mc.keys(key, size, strategy, groups=2))

        for seed in range(rounds):
            y, c = (np.asarray(each, np.float64) for each in run(jaxdrop.key(1000 + seed)))
            halves = [(y[: size // 2], c[: size // 2]), (y[size // 2 :], c[size // 2 :])]
            betas = [
                ((y - y.mean(0)) * c).sum((0, 1)) / ((c - c.mean(0)) ** 2).sum((0, 1)).clip(1e-30)
                for y, c in halves
            ]
            parts = [
                (y - beta * c).mean(0) for (y, c), beta in zip(halves, betas[::-1], strict=True)
            ]
            plain_error += ((y.mean(0) - truth) ** 2).sum()
            error += ((np.mean(parts, axis=0) - truth) ** 2).sum()

        def timed(fn: Any, size: int = size, strategy: Any = strategy) -> Any:
            return jax.jit(
                lambda key: jax.tree.map(
                    functools.partial(jnp.mean, axis=0),
                    mc.predict(fn, mc.keys(key, size, strategy)),
                )
            )

        calls = {"with": timed(both), "without": timed(lambda key: case.drawn(key, x))}
        times = interleaved(
            {name: functools.partial(run, jaxdrop.key(0)) for name, run in calls.items()},
            seconds=2,
        )
        gain, cost = error / plain_error, times["with"] / times["without"]
        print(
            f"{case.name:36} {strategy:11} {size:3} samples: squared error {gain:.3f}, time"
            f" {cost:.2f}, at equal time {gain * cost:.3f}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--uci", type=Path, help="the folder UCI_Datasets")
    parser.add_argument(
        "--only", nargs="*", default=["digits", "convolutions", "block", "transformer", "uci"]
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each timing")
    parser.add_argument("--control", action="store_true", help="the control variate instead")
    args = parser.parse_args()
    makers: dict[str, list[Callable[[], Case]]] = {
        "digits": [lambda: digits("digits", Perceptron(), 400, 1500)],
        "convolutions": [lambda: digits("convolutions", Convolutions(), 64, 400)],
        "transformer": [lambda: digits("transformer", Transformer(), 64, 800)],
        # The same network up to the output of its block: 32 features of each of 8 tokens.
        "block": [
            lambda: dataclasses.replace(
                digits("transformer", Transformer(), 64, 800),
                name="block",
                kind="block",
                model=Transformer(head=False),
            )
        ],
        "uci": [functools.partial(regression, args.uci, name, 256) for name in UCI] if args.uci
        else [],
    }  # fmt: skip
    precisions = {
        "digits": ("diagonal", "linearized", "enumerated"),
        "convolutions": ("diagonal", "linearized"),
        "block": ("diagonal", "linearized"),
        "transformer": ("diagonal", "linearized"),
        "uci": ("diagonal", "linearized", "enumerated", "with pairs"),
    }
    missed = 0
    for kind in args.only:
        for make in makers[kind]:
            if args.control:
                control(make())
            else:
                missed += check(make(), args.samples, precisions[kind], args.seconds)
    return missed


if __name__ == "__main__":
    sys.exit(main())
