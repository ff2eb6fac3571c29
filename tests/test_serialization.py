"""Results of exported functions, in files."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import jaxdrop
from jaxdrop import _serialization, mc
from jaxdrop.functional import graphs
from tests.oracles import require

x = jnp.ones((3, 5))


def results() -> set[type[Any]]:
    """The public classes that are pytrees."""
    found = {graphs.Kept, graphs.Normalized}
    for module in (jaxdrop, mc, mc.acquisition, mc.metrics):
        found |= {
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__.startswith("jaxdrop")
        }
    return {kind for kind in found if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")}


def test_every_result_has_a_name_of_its_own() -> None:
    assert set(_serialization.RESULTS) == results()
    assert len({result.__name__ for result in _serialization.RESULTS}) == len(
        _serialization.RESULTS
    )


def test_every_result_is_written_and_read() -> None:
    require("flatbuffers")

    def make(x: jax.Array) -> list[Any]:
        def fields(kind: type[Any]) -> list[Any]:
            if not dataclasses.is_dataclass(kind):
                return [x] * len(kind._fields)
            return [
                (1, "two") if field.metadata.get("static") else x
                for field in dataclasses.fields(kind)
            ]

        return [kind(*fields(kind)) for kind in _serialization.RESULTS]

    exported = export.export(jax.jit(make))(jax.ShapeDtypeStruct((), jnp.float32))
    assert jax.tree.structure(
        export.deserialize(exported.serialize()).call(1.0)
    ) == jax.tree.structure(make(1.0))


def test_a_summary_is_written_with_a_symbolic_batch() -> None:
    require("flatbuffers")

    @jax.jit
    def summarize(seed: jax.Array, x: jax.Array) -> Any:
        keys = mc.keys(jaxdrop.key(seed), 4)
        samples = mc.predict(lambda key: jaxdrop.dropout(key, x, 0.5), keys)
        return mc.classification(logits=samples), mc.regression(samples, tau=1.0)

    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("b, 5"), jnp.float32)
    file = export.export(summarize)(jax.ShapeDtypeStruct((), jnp.uint32), symbolic).serialize()
    found, expected = export.deserialize(file).call(jnp.uint32(3), x), summarize(jnp.uint32(3), x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
