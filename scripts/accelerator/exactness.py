"""Whether the device computes what the CPU does: bits, masks, and every variant."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
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
    results = _on_both(functools.partial(drawn, keys), xs)
    differ = _compare(results, lambda a, b: float((a != b).sum()))
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
    parts = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for kept, values in pool.map(_differences, parts):
            figures["kept entries that differ"] |= kept
            figures["largest relative difference"] |= values
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


def _differences(part: Sequence[Any]) -> tuple[dict[str, float], dict[str, float]]:
    """For some rows of the catalogue the kept entries that differ, and the largest relative
    difference.
    """

    @jax.jit
    def run(xs: dict[str, jax.Array]) -> dict[str, Any]:
        found = {}
        for row in part:
            y, pull = jax.vjp(row.at(catalogue.KEY), xs[row.name])
            found[row.name] = {"y": y, "gradient": pull(jnp.ones_like(y))[0]}
        return found

    xs = {row.name: np.asarray(row.example()) for row in part}
    # On a GPU and a TPU a float32 product has fewer digits by default.
    with jax.default_matmul_precision("highest"):
        results = _on_both(run, xs)
    kept = _compare(results, lambda a, b: float(((a == 0) != (b == 0)).sum()))
    values = _compare(results, _relative)
    return _worst(kept), _worst(values)


def _worst(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: max(row.values()) for name, row in found.items()}


def _on_both(run: Callable[[Any], Any], inputs: Any) -> tuple[Any, Any]:
    """What `run` gives on this device and on the CPU."""

    def on(device: jax.Device) -> Any:
        with jax.default_device(device):
            return jax.device_get(run(jax.device_put(inputs, device)))

    return on(jax.devices()[0]), on(jax.devices("cpu")[0])


def _compare(results: tuple[Any, Any], difference: Callable[[Any, Any], float]) -> Any:
    """`difference` of each array of one device and that of the other."""
    return jax.tree.map(lambda a, b: difference(_wide(a), _wide(b)), *results)


def _wide(x: Any) -> Any:
    return np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.inexact) else None)


def _relative(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def _largest(tree: Any) -> float:
    return max(jax.tree.leaves(tree))


MEASUREMENTS = (masks, variants)
