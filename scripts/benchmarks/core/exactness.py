"""How right the scale is in bfloat16, and whether the masks are those of Flax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from benchmarks import _peers
from benchmarks._figures import Bar, Table


def bias(quick: bool) -> Iterator[Table | Bar]:
    """The mean error of the scaling over bfloat16 values uniform in [0.5, 2).

    That is sum of kept outputs / (sum of kept inputs / keep probability) - 1, with sums in float64.
    """
    size = 2**18 if quick else 2**24
    x = jax.random.uniform(jax.random.key(3), (size,), minval=0.5, maxval=2.0).astype(jnp.bfloat16)
    figures: dict[str, dict[str, float]] = {}
    torch = _peers.find("torch")
    for rate in (0.1, 0.2, 0.3):
        flax = linen.Dropout(rate, deterministic=False)
        outputs: dict[str, Any] = {
            _peers.FLAX: flax.apply({}, x, rng=jax.random.key(0)),
            _peers.SAME_KEY: jaxdrop.dropout(jax.random.key(0), x, rate),
            _peers.OWN_KEY: jaxdrop.dropout(jaxdrop.key(0), x, rate),
        }
        if torch:
            torch.manual_seed(0)
            outputs["torch"] = torch.nn.functional.dropout(_peers.tensor(x), rate).float().numpy()
        figures[f"rate {rate}"] = {name: _relative_error(x, y, rate) for name, y in outputs.items()}
    yield Table(f"bias of the scale, bfloat16, {size:,} values", "", figures)
    for name in (_peers.OWN_KEY, _peers.SAME_KEY):
        worst = max(abs(errors[name]) for errors in figures.values())
        yield Bar(
            f"bias of the scale in bfloat16, largest over the rates: {name}", worst, "<=", 1e-4, ""
        )


def masks(quick: bool) -> Iterator[Table | Bar]:
    """Entries whose mask differs from that of Flax for the same threefry key, and the largest
    difference of the kept values.
    """
    shapes = [(256, 1024)] if quick else [(4096, 4096), (3, 5, 7), (1000,)]
    figures: dict[str, dict[str, float]] = {}
    for family, draw in (("flax.linen", _linen), ("flax.nnx", _nnx)):
        differing, ulps = 0, 0.0
        for shape in shapes:
            x = jax.random.normal(jax.random.key(4), shape)
            for rate in (0.1, 0.25, 0.5, 0.9):
                theirs, ours = draw(x, rate)
                differing += int(((theirs == 0) != (ours == 0)).sum())
                ulps = max(ulps, _ulps(theirs, ours))
        figures[family] = {
            "entries with another mask": differing,
            "largest difference in ulp": ulps,
        }
    yield Table("jaxdrop and Flax, the same threefry key, float32, rates 0.1 to 0.9", "", figures)
    for family, counts in figures.items():
        yield Bar(
            f"masks: entries that differ from {family}",
            counts["entries with another mask"],
            "<=",
            0,
            "",
        )
        yield Bar(
            f"masks: ulp between the values and those of {family}",
            counts["largest difference in ulp"],
            "<=",
            1,
            "",
        )


def _relative_error(x: Any, y: Any, rate: float) -> float:
    before, after = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(after.sum() / (before[after != 0].sum() / (1 - rate)) - 1)


def _linen(x: jax.Array, rate: float) -> tuple[np.ndarray, np.ndarray]:
    rngs = {"dropout": jax.random.key(5)}
    theirs, ours = (
        layer(rate, deterministic=False).apply({}, x, rngs=rngs)
        for layer in (linen.Dropout, jaxdrop.linen.Dropout)
    )
    return np.asarray(theirs), np.asarray(ours)


def _nnx(x: jax.Array, rate: float) -> tuple[np.ndarray, np.ndarray]:
    theirs, ours = (
        layer(rate, rngs=nnx.Rngs(5))(x) for layer in (nnx.Dropout, jaxdrop.nnx.Dropout)
    )
    return np.asarray(theirs), np.asarray(ours)


def _ulps(a: np.ndarray, b: np.ndarray) -> float:
    # Both have the same sign, so the distance of the bit patterns is the number of floats between
    # them.
    return float(np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32)).max())
