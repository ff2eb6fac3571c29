"""Dropout that does not compute what it drops, at the sizes of large models: the time of a gradient
over that of the one which drops by masks, or of none.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import compute
from benchmarks._figures import Table
from benchmarks.compute import (
    ACCELERATOR_SIZES,
    BLOCKS,
    HALF,
    MASKED,
    NO_DROPOUT,
    QUICK_SIZES,
    SLICE,
    SUBSET,
    UNITS,
    WHOLE,
)


def saved_work(quick: bool) -> Iterator[Table]:
    """Units of an MLP, residual branches, and tokens."""
    sizes, seconds = (QUICK_SIZES, 0) if quick else (ACCELERATOR_SIZES, 1.5)
    title, by_activation, _ = compute.mlp_figures(sizes, seconds)
    yield Table(title, "s", by_activation, limit=NO_DROPOUT, ours=(UNITS, BLOCKS, SLICE))
    title, times, _ = compute.residual_figures(sizes, seconds)
    yield Table(title, "s", {"time": times}, limit=MASKED, ours=(SUBSET,))
    title, times = compute.tokens_figures(sizes, seconds)
    yield Table(title, "s", {"time": times}, limit=WHOLE, ours=(HALF,), bounds=(WHOLE,))


MEASUREMENTS = (saved_work,)
