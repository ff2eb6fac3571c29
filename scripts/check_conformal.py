#!/usr/bin/env python3
"""The coverage of conformal prediction over many random splits of one data set.

    python scripts/check_conformal.py  # a minute or two
    python scripts/check_conformal.py --splits 100 --only aps raps

The predictions are those of Monte Carlo dropout: of random features of the digits of scikit-learn
for classes, and of a made-up curve with noise that varies for a regression. Each split draws n
examples to calibrate with, and 500 others (of a pool of 1797 at least). The mean coverage must be
at least the one asked for, and, where scores do not tie, at most 1/(n + 1) more, up to three
standard errors over the splits. For groups, n is the size of a group, and the coverage that of the
group that is covered least and most. For `selective`, the share of splits in which the error rate
of accepted examples exceeds the risk must be at most one minus the confidence.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import conformal

COVERAGE, RISK, CONFIDENCE = 0.9, 0.05, 0.9
TEST, FEATURES, SAMPLES = 500, 200, 50
SIZES = 50, 200, 1000


class Pool(NamedTuple):
    """All examples of a task, with predictions."""

    truth: Any
    mean: Any
    std: Any
    lower: Any
    upper: Any
    group: Any


def predictions(inputs: np.ndarray, targets: np.ndarray, seed: int) -> jax.Array:
    """Samples of a ridge regression on the first 200 examples, over dropped random features."""
    rng = np.random.default_rng(seed)
    size = inputs.shape[1]
    hidden = np.tanh(inputs @ rng.normal(size=(size, FEATURES)) / np.sqrt(size))
    part = hidden[:200]
    weights = np.linalg.solve(part.T @ part + 0.3 * np.eye(FEATURES), part.T @ targets[:200])
    keys = mc.keys(jaxdrop.key(seed), SAMPLES)
    x, w = jnp.asarray(hidden, jnp.float32), jnp.asarray(weights, jnp.float32)
    return mc.predict(lambda key: jaxdrop.dropout(key, x, 0.1) @ w, keys)[:, 200:]


def classes() -> Pool:
    """The digits."""
    digits = load_digits()
    samples = predictions(digits.data / 4 - 2, 6 * np.eye(10)[digits.target], 0)
    summary = mc.classification(logits=samples)
    labels = digits.target[200:].astype(np.int32)
    probs = summary.mean
    return Pool(labels, probs, probs, probs, probs, labels % 2)


def curve() -> Pool:
    """A sine, with more noise on one side."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (5200, 1))
    y = np.sin(3 * x) + (0.1 + 0.4 * (x > 0)) * rng.standard_t(4, size=x.shape)
    samples = predictions(np.concatenate([x, np.ones_like(x)], -1) * 2, y, 1)[..., 0]
    summary = mc.regression(samples, tau=100.0)
    lower, upper = mc.interval(samples, COVERAGE, tau=10.0)
    truth = np.float32(y[200:, 0])
    return Pool(truth, summary.mean, summary.std, lower, upper, np.int32(x[200:, 0] > 0))


Covered = Callable[[Pool, Pool, jax.Array], jax.Array]
"""From calibration and new examples, and a key, to which of the new ones are covered."""


def residual(normalized: bool) -> Covered:
    def covered(old: Pool, new: Pool, key: jax.Array) -> jax.Array:
        scores = conformal.residual_scores(old.truth, old.mean, old.std if normalized else None)
        threshold = conformal.calibrate(scores, COVERAGE)
        std = new.std if normalized else None
        lower, upper = conformal.residual_interval(new.mean, threshold, std)
        return (lower <= new.truth) & (new.truth <= upper)

    return covered


def quantile(old: Pool, new: Pool, key: jax.Array) -> jax.Array:
    threshold = conformal.calibrate(
        conformal.quantile_scores(old.truth, old.lower, old.upper), COVERAGE
    )
    lower, upper = conformal.quantile_interval(new.lower, new.upper, threshold)
    return (lower <= new.truth) & (new.truth <= upper)


def classified(
    score: Callable[[jax.Array, jax.Array], jax.Array], grouped: bool = False
) -> Covered:
    def covered(old: Pool, new: Pool, key: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        scores = conformal.of_labels(old.truth, score(old.mean, first))
        if grouped:
            levels = conformal.calibrate(scores, COVERAGE, groups=old.group, num_groups=2)
            threshold = conformal.by_group(levels, new.group)
        else:
            threshold = conformal.calibrate(scores, COVERAGE)
        members = conformal.sets(score(new.mean, second), threshold)
        return jnp.take_along_axis(members, new.truth[:, None], -1)[:, 0]

    return covered


def raps(probs: jax.Array, key: jax.Array | None) -> jax.Array:
    return conformal.raps(probs, key, penalty=0.05, rank=2)


METHODS: dict[str, tuple[str, Covered, bool]] = {
    "absolute": ("curve", residual(False), True),
    "normalized": ("curve", residual(True), True),
    "quantile": ("curve", quantile, True),
    "lac": ("classes", classified(lambda probs, key: conformal.lac(probs)), True),
    "aps": ("classes", classified(conformal.aps), True),
    "aps, u = 1": ("classes", classified(lambda probs, key: conformal.aps(probs)), False),
    "raps": ("classes", classified(raps), True),
    "raps, u = 1": ("classes", classified(lambda probs, key: raps(probs, None)), False),
    "groups": ("classes", classified(conformal.aps, grouped=True), True),
}


def halves(pool: Pool, key: jax.Array, size: int, grouped: bool) -> tuple[Pool, Pool]:
    """A random split. With groups, `size` of each group to calibrate with."""
    order = jax.random.permutation(key, len(pool.truth))
    if grouped:
        number = int((np.asarray(pool.group) == 0).sum())
        order = order[jnp.argsort(jnp.asarray(pool.group)[order], stable=True)]
        old = jnp.concatenate([order[:size], order[number : number + size]])
        new = jnp.concatenate([order[number - TEST // 4 : number], order[-TEST // 4 :]])
    else:
        old, new = order[:size], order[-TEST:]
    return jax.tree.map(lambda x: x[old], pool), jax.tree.map(lambda x: x[new], pool)


def coverages(
    pool: Pool, covered: Covered, keys: jax.Array, size: int, grouped: bool
) -> np.ndarray:
    """The coverage of each split, shape (splits, groups)."""
    pool = jax.tree.map(jnp.asarray, pool)

    def one(key: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        old, new = halves(pool, first, size, grouped)
        inside = covered(old, new, second).astype(jnp.float32)
        return inside.reshape(2 if grouped else 1, -1).mean(-1)

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(keys), float)


def exceeded(pool: Pool, keys: jax.Array, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each split, whether the error rate of what is accepted of all examples exceeds the risk,
    and the coverage.
    """
    errors = jnp.asarray(pool.mean.argmax(-1) != pool.truth, jnp.float32)
    uncertainty = 1 - pool.mean.max(-1)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The examples are drawn with replacement, from the pool as the population.
        rows = jax.random.randint(key, (size,), 0, len(errors))
        found = conformal.selective(errors[rows], uncertainty[rows], RISK, confidence=CONFIDENCE)
        accepted = (uncertainty < found.threshold).astype(jnp.float32)
        rate = (errors * accepted).sum() / jnp.maximum(accepted.sum(), 1)
        return rate > RISK, accepted.mean()

    wrong, kept = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(keys)
    return np.asarray(wrong, float), np.asarray(kept, float)


def main() -> int:
    """Prints the table, and returns the number of failures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--only", nargs="*", help="names of methods")
    args = parser.parse_args()
    pools = {"classes": classes(), "curve": curve()}
    keys = jax.random.split(jax.random.key(0), args.splits)
    failures, start = 0, time.perf_counter()
    print(f"coverage {COVERAGE}, {args.splits} splits")
    print(f"{'method':<14}{'n':>6}{'coverage':>10}{'s.e.':>9}{'least':>8}{'most':>8}")
    for name, (task, covered, tight) in METHODS.items():
        grouped = name == "groups"
        for size in SIZES:
            if args.only and name.split(",")[0] not in args.only:
                continue
            if task == "classes" and size + TEST > len(pools[task].truth) / (1 + grouped):
                size = 600
            found = coverages(pools[task], covered, keys, size, grouped)
            for group in found.T:
                mean, error = group.mean(), group.std(ddof=1) / np.sqrt(len(group))
                most = COVERAGE + 1 / (size + 1) if tight else 1
                fails = mean < COVERAGE - 3 * error or mean > most + 3 * error
                failures += fails
                print(
                    f"{name:<14}{size:>6}{mean:>10.4f}{error:>9.5f}{COVERAGE:>8.3f}{most:>8.4f}"
                    f"{'   FAILS' if fails else ''}",
                    flush=True,
                )
    if not args.only or "selective" in args.only:
        print(f"\nerror rate above {RISK}, with a probability of at most {1 - CONFIDENCE:.2f}")
        print(f"{'':<14}{'n':>6}{'exceeded':>10}{'s.e.':>9}{'coverage':>10}")
        for size in SIZES:
            wrong, kept = exceeded(pools["classes"], keys, size)
            mean, error = wrong.mean(), wrong.std(ddof=1) / np.sqrt(len(wrong))
            fails = mean > 1 - CONFIDENCE + 3 * error
            failures += fails
            print(f"{'selective':<14}{size:>6}{mean:>10.4f}{error:>9.5f}{kept.mean():>10.3f}")
    print(f"{time.perf_counter() - start:.0f} s")
    return failures


if __name__ == "__main__":
    sys.exit(main())
