"""Lets `jax.export` write functions that return this library's results: summaries of samples,
metrics, graphs.

A result's serialized name stands in files: it must never change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

from jax import export

from jaxdrop import masks, mc
from jaxdrop.functional import graphs
from jaxdrop.mc import acquisition, metrics

RESULTS: tuple[type[Any], ...] = (
    graphs.Kept,
    graphs.Normalized,
    masks.Part,
    mc.Analytic,
    mc.Classification,
    mc.Ensemble,
    mc.FittedRate,
    mc.FittedTau,
    mc.FittedTemperature,
    mc.Moments,
    mc.Reached,
    mc.Regression,
    acquisition.Batch,
    metrics.CalibrationCurve,
    metrics.GroupCoverage,
    metrics.Reliability,
    metrics.RiskCoverage,
    metrics.Sparsification,
)


def register() -> None:
    """Registers the results with JAX."""
    for result in RESULTS:
        with contextlib.suppress(
            ValueError
        ):  # a module that is loaded again: JAX registers a name once
            _register(result, f"jaxdrop.{result.__name__}")


def _register(result: type[Any], name: str) -> None:
    if not dataclasses.is_dataclass(result):
        export.register_namedtuple_serialization(result, serialized_name=name)
        return
    export.register_pytree_node_serialization(
        result,
        serialized_name=name,
        serialize_auxdata=lambda static: json.dumps(static).encode(),
        deserialize_auxdata=lambda written: _as_tuples(json.loads(written)),
    )


def _as_tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
