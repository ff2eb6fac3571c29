"""Whether the device computes what the CPU does: bits, masks, and every variant."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from benchmarks._figures import Bar, Table

catalogue = importlib.import_module("tests.catalogue")
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def masks(quick: bool) -> Iterator[Table | Bar]:
    """Bits and masks of every generator, against those of the CPU."""
    keys = {
        "jaxdrop.key": jaxdrop.key(7),
        "threefry": jax.random.key(7),
        "stratified": jaxdrop.mc.keys(jaxdrop.key(7), 5)[3],
        "antithetic": jaxdrop.mc.keys(jaxdrop.key(7), 5, "antithetic")[3],
    }
    shape = (33, 65) if quick else (1025, 4097)

    @jax.jit
    def drawn(keys: dict[str, jax.Array], xs: list[jax.Array]) -> dict[str, Any]:
        return {
            name: {
                **{
                    f"bits of width {width}": jaxdrop.random.bits(key, shape, bit_width=width)
                    for width in (8, 16, 32)
                },
                **{x.dtype.name: jaxdrop.dropout(key, x, 0.3) for x in xs},
            }
            for name, key in keys.items()
        }

    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    xs = [
        x.astype(dtype) for dtype in _DTYPES
    ]  # here, since a compiler may leave out what rounds inside a program
    differ = _compare(functools.partial(drawn, keys), xs, lambda a, b: float((a != b).sum()))
    yield Table(f"entries of {shape} that differ from the CPU's", "", differ)
    yield Bar("entries of bits and dropped arrays that differ", _largest(differ), "<=", 0, "")


def variants(quick: bool) -> Iterator[Table | Bar]:
    """Every row of the tests' catalogue: which entries are kept, and the values, forward and
    backward.
    """
    rows = catalogue.VARIANTS[:3] if quick else catalogue.VARIANTS
    figures: dict[str, dict[str, float]] = {
        "kept entries that differ": {},
        "largest relative difference": {},
    }
    # On a GPU and a TPU a float32 product has fewer digits by default.
    jax.config.update("jax_default_matmul_precision", "highest")
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]

        @jax.jit
        def run(xs: dict[str, jax.Array], part: Any = part) -> dict[str, Any]:
            found = {}
            for row in part:
                y, pull = jax.vjp(row.at(catalogue.KEY), xs[row.name])
                found[row.name] = {"y": y, "gradient": pull(jnp.ones_like(y))[0]}
            return found

        xs = {row.name: np.asarray(row.example()) for row in part}
        kept = _compare(run, xs, lambda a, b: float(((a == 0) != (b == 0)).sum()))
        values = _compare(run, xs, _relative)
        for row in part:
            figures["kept entries that differ"][row.name] = max(kept[row.name].values())
            figures["largest relative difference"][row.name] = max(values[row.name].values())
    jax.config.update("jax_default_matmul_precision", None)
    yield Table("every variant of the catalogue against the CPU", "", figures)
    yield Bar(
        "catalogue: kept entries that differ",
        max(figures["kept entries that differ"].values()),
        "<=",
        0,
        "",
    )
    yield Bar(
        "catalogue: largest relative difference",
        max(figures["largest relative difference"].values()),
        "<=",
        1e-4,
        "",
    )


def _compare(
    run: Callable[[Any], Any], inputs: Any, difference: Callable[[Any, Any], float]
) -> Any:
    """`difference` of each array that `run` gives on this device and on the CPU."""
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            found.append(jax.device_get(run(jax.device_put(inputs, device))))
    return jax.tree.map(lambda a, b: difference(_wide(a), _wide(b)), *found)


def _wide(x: Any) -> Any:
    return np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.inexact) else None)


def _relative(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def _largest(tree: Any) -> float:
    return max(jax.tree.leaves(tree))


MEASUREMENTS = (masks, variants)
