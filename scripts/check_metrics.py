#!/usr/bin/env python3
"""Compares every metric over many float32 predictions with float64 NumPy.

    python scripts/check_metrics.py  # 2^24 predictions: some minutes, and 8 GB of memory
    python scripts/check_metrics.py --log2 20  # fewer
    python scripts/check_metrics.py --only ece aurc

An error above 1e-6 is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import integrate, special

from jaxdrop import mc
from jaxdrop.mc import metrics

Case = tuple[Callable[[], Any], Callable[[], Any]]
TOLERANCE = 1e-6


def cases(number: int) -> dict[str, Case]:
    """Ours and the reference of each metric, over as many predictions.

    Confidences lie close to 1, as those of pixels and tokens, half of them at the same few values.
    """
    rng = np.random.default_rng(0)
    p = rng.uniform(0.9, 1, number)
    p = np.minimum(np.where(rng.random(number) < 0.5, np.round(p, 2), p), 0.999).astype(np.float32)
    labels = (rng.random(number) > p).astype(
        np.int32
    )  # calibrated: the label 0 has the probability p
    two, exact = np.stack([p, 1 - p], axis=-1), p.astype(np.float64)
    ones, right = (labels == 1).astype(np.float64), (labels == 0).astype(np.float64)
    y, mean = rng.normal(100, 1, (2, number)).astype(np.float32)
    std = rng.uniform(0.1, 2, number).astype(np.float32)
    samples = rng.normal(100, 2, (4, number)).astype(np.float32)
    levels = rng.random(number, dtype=np.float32)
    errors = labels.astype(np.float32)
    tied = np.round(rng.random(number) * labels, 2).astype(np.float32)
    wide = [x.astype(np.float64) for x in (y, mean, std, samples)]

    def width(confidence: np.ndarray, hits: np.ndarray) -> np.ndarray:
        bins = np.searchsorted(np.float32(np.linspace(0, 1, 16)[1:-1]), confidence, side="right")
        return np.stack(
            [
                np.bincount(bins, x, 15)
                for x in (np.ones(number), hits, confidence.astype(np.float64))
            ]
        )

    def gaps(sums: np.ndarray) -> float:
        return float(np.abs(sums[1] - sums[2]).sum() / sums[0].sum())

    def greatest(sums: np.ndarray) -> float:
        return float((np.abs(sums[1] - sums[2]) / np.maximum(sums[0], 1)).max())

    def mass() -> float:
        order = p.argsort(kind="stable")
        _, start, group, count = np.unique(
            p[order], return_index=True, return_inverse=True, return_counts=True
        )
        share = (np.add.reduceat(right[order], start) / count)[group]
        parts = zip(np.array_split(exact[order], 15), np.array_split(share, 15), strict=True)
        return sum(abs((hits - confidence).sum()) for confidence, hits in parts) / number

    def risks(uncertainty: np.ndarray, loss: np.ndarray) -> np.ndarray:
        order = uncertainty.argsort(kind="stable")
        _, start, group, count = np.unique(
            uncertainty[order], return_index=True, return_inverse=True, return_counts=True
        )
        return (np.add.reduceat(loss[order], start) / count)[group].cumsum() / np.arange(
            1, number + 1
        )

    def crps() -> float:
        z = (wide[0] - wide[1]) / wide[2]
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return float(
            (wide[2] * (z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean()
        )

    def crps_samples() -> float:
        ordered = np.sort(wide[3] - wide[0], axis=0)
        pairs = ordered * (np.arange(4)[:, None] * 2 - 3)
        return float((np.abs(ordered).mean(0) - pairs.sum(0) / 16).mean())

    def crps_mixture() -> float:
        def absolute(gap: np.ndarray, variance: float) -> np.ndarray:
            z = gap / np.sqrt(variance)
            density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
            return gap * (2 * special.ndtr(z) - 1) + 2 * np.sqrt(variance) * density

        apart = np.mean([absolute(a - b, 4).mean() for a in wide[3] for b in wide[3]])
        return float(absolute(wide[3] - wide[0], 2).mean() - apart / 2)

    wide_interval = [(mean - std).astype(np.float64), (mean + std).astype(np.float64)]
    levels_of_quantiles = np.array([0.25, 0.375, 0.5, 0.75])
    covered = np.take_along_axis(two > 0.05, labels[:, None], -1)[:, 0]

    def observed() -> Any:
        return (
            np.searchsorted(
                np.sort(np.abs(2 * levels - 1)), np.float32(np.linspace(0, 1, 100)), side="right"
            )
            / number
        )

    expected = np.linspace(0, 1, 100)
    z = (wide[0] - wide[1]) / wide[2]
    picked = np.where(labels == 0, exact, two[:, 1].astype(np.float64))
    return {
        "nll": (lambda: metrics.nll(labels, two), lambda: -np.log(picked).mean()),
        "nll of logs": (
            lambda: metrics.nll(labels, log_probs=np.log(two)),
            lambda: -np.float64(np.log(np.float32(picked))).mean(),
        ),
        "nll, binary": (
            lambda: metrics.nll(labels == 0, p, binary=True),
            lambda: -np.where(labels == 0, np.log(exact), np.log1p(-exact)).mean(),
        ),
        "brier": (lambda: metrics.brier(labels, two), lambda: (2 * (1 - picked) ** 2).mean()),
        "brier, binary": (
            lambda: metrics.brier(labels == 0, p, binary=True),
            lambda: ((exact - right) ** 2).mean(),
        ),
        "accuracy": (lambda: metrics.accuracy(labels, two), right.mean),
        "ece": (lambda: metrics.ece(labels, two), lambda: gaps(width(p, right))),
        "ece, binary": (
            lambda: metrics.ece(labels, 1 - p, binary=True),
            lambda: gaps(width(1 - p, ones)),
        ),
        "mce": (lambda: metrics.mce(labels, two), lambda: greatest(width(p, right))),
        "classwise_ece": (
            lambda: metrics.classwise_ece(labels, two),
            lambda: (gaps(width(p, right)) + gaps(width(two[:, 1], ones))) / 2,
        ),
        "adaptive_ece": (lambda: metrics.adaptive_ece(labels, two), mass),
        "aurc": (lambda: metrics.aurc(errors, 1 - p), lambda: risks(1 - p, ones).mean()),
        "aurc, all equal": (
            lambda: metrics.aurc(levels, np.zeros_like(levels)),
            lambda: levels.mean(dtype=np.float64),
        ),
        "augrc": (
            lambda: metrics.augrc(errors, tied),
            lambda: (
                integrate.trapezoid(np.r_[0, risks(tied, ones) * np.arange(1, number + 1) / number])
                / number
            ),
        ),
        "coverage_at_risk": (
            lambda: metrics.coverage_at_risk(errors, 1 - p, 0.03),
            lambda: (np.flatnonzero(risks(1 - p, ones) <= 0.03)[-1] + 1) / number,
        ),
        "risk_at_coverage": (
            lambda: metrics.risk_at_coverage(errors, 1 - p, 0.8),
            lambda: risks(1 - p, ones)[-(-4 * number // 5) - 1],
        ),
        "risk_coverage": (
            lambda: metrics.risk_coverage(errors, tied).risk,
            lambda: risks(tied, ones),
        ),
        "ause": (
            lambda: metrics.ause(errors, tied),
            lambda: (risks(tied, ones) - risks(errors, ones)).mean(),
        ),
        "rmse": (lambda: metrics.rmse(y, mean), lambda: np.sqrt(((wide[0] - wide[1]) ** 2).mean())),
        "gaussian_nll": (
            lambda: metrics.gaussian_nll(y, mean, std),
            lambda: (z**2 / 2 + np.log(wide[2]) + np.log(2 * np.pi) / 2).mean(),
        ),
        "crps_gaussian": (lambda: metrics.crps_gaussian(y, mean, std), crps),
        "crps_samples": (lambda: metrics.crps_samples(y, samples), crps_samples),
        "crps_mixture": (
            lambda: metrics.crps_mixture(y, samples, tau=0.5),
            crps_mixture,
        ),
        "interval_score": (
            lambda: metrics.interval_score(y, mean - std, mean + std, 0.7),
            lambda: (
                wide_interval[1]
                - wide_interval[0]
                + 2 / 0.3 * np.maximum(wide_interval[0] - wide[0], 0)
                + 2 / 0.3 * np.maximum(wide[0] - wide_interval[1], 0)
            ).mean(),
        ),
        "pinball": (
            lambda: metrics.pinball(y, samples, levels_of_quantiles),
            lambda: np.mean(
                [
                    np.maximum(level * (wide[0] - row), (level - 1) * (wide[0] - row)).mean()
                    for row, level in zip(wide[3], levels_of_quantiles, strict=True)
                ]
            ),
        ),
        "set_coverage": (lambda: metrics.set_coverage(labels, two > 0.05), lambda: covered.mean()),
        "set_size": (lambda: metrics.set_size(two > 0.05), lambda: (two > 0.05).sum() / number),
        "coverage_by_group": (
            lambda: metrics.coverage_by_group(covered, labels).coverage,
            lambda: np.bincount(labels, covered) / np.bincount(labels),
        ),
        "picp": (
            lambda: metrics.picp(y, mean - std, mean + std),
            lambda: ((mean - std <= y) & (y <= mean + std)).mean(),
        ),
        "mpiw": (
            lambda: metrics.mpiw(mean, mean + std),
            lambda: ((mean + std).astype(np.float64) - mean).mean(),
        ),
        "sharpness": (lambda: metrics.sharpness(std), lambda: np.sqrt((wide[2] ** 2).mean())),
        "calibration_curve": (lambda: metrics.calibration_curve(levels).observed, observed),
        "rmsce": (
            lambda: metrics.rmsce(levels),
            lambda: np.sqrt(((observed() - expected) ** 2).mean()),
        ),
        "mace": (lambda: metrics.mace(levels), lambda: np.abs(observed() - expected).mean()),
        "auroc": (lambda: metrics.auroc(p[::2], p[1::2]), lambda: _wins(p[::2], p[1::2])),
        "fit_temperature": (
            lambda: mc.fit_temperature(labels, np.log(two)).nll,
            lambda: -np.log(picked).mean(),
        ),
    }


def _wins(inside: np.ndarray, outside: np.ndarray) -> float:
    ordered = np.sort(inside)
    return float(
        (
            np.searchsorted(ordered, outside, "left") + np.searchsorted(ordered, outside, "right")
        ).mean()
        / (2 * inside.size)
    )


def main() -> int:
    """Prints the table, and returns the number of failures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--log2", type=int, default=24, help="the logarithm of the number of predictions"
    )
    parser.add_argument("--only", nargs="*", help="names of metrics")
    args = parser.parse_args()
    failures = 0
    print(f"2^{args.log2} predictions, {jax.devices()[0].device_kind}")
    print(f"{'metric':<20}{'float64':>14}{'error':>10}{'seconds':>9}")
    for name, (ours, reference) in cases(2**args.log2).items():
        if args.only and name.split(",")[0] not in args.only:
            continue
        start = time.perf_counter()
        found = np.asarray(jax.block_until_ready(ours()), np.float64)
        seconds = time.perf_counter() - start
        exact = np.asarray(reference())
        error = float(np.abs(found - exact).max())
        failures += not error <= TOLERANCE
        print(
            f"{name:<20}{exact.mean():>14.8f}{error:>10.1e}{seconds:>9.1f}"
            f"{'' if error <= TOLERANCE else '   FAILS'}",
            flush=True,
        )
    return failures


if __name__ == "__main__":
    sys.exit(main())
