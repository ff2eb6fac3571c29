"""Weights are told from others, whatever they are made of and wherever they lie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop.mc import _fingerprints

X = np.arange(1, 25).reshape(8, 3)
TYPES = (
    "bool",
    "int4",
    "int8",
    "float8_e4m3fn",
    "bfloat16",
    "float16",
    "int32",
    "float32",
    "complex64",
)


@pytest.mark.parametrize("dtype", TYPES)
def test_one_entry_makes_a_difference(dtype: str) -> None:
    x = jnp.asarray(X % 2, dtype)
    assert _fingerprints.of_arrays([x]) == _fingerprints.of_arrays([np.asarray(x)])
    assert _fingerprints.of_arrays([x]) != _fingerprints.of_arrays(
        [x.at[7, 2].set(jnp.asarray(1 - X[7, 2] % 2, dtype))]
    )


def test_fingerprints_stay() -> None:
    """They stand in the manifests of runs, which later versions resume."""
    arrays = jnp.arange(6, dtype=jnp.float32).reshape(2, 3), jnp.array([True, False]), jnp.arange(3)
    assert _fingerprints.of_arrays(arrays) == "3 arrays, checksum cf9f9107"
    assert (
        _fingerprints.of_arrays([arrays[2].astype(jnp.bfloat16)]) == "1 arrays, checksum 90984980"
    )
    keys = jax.random.split(jax.random.key(0), 2)
    assert _fingerprints.of_keys(keys) == "2 keys, sha256 5ebccf79a7330af9"


def test_order_and_keys() -> None:
    a, b = jnp.asarray(X, jnp.float32), jaxdrop.key(0)
    assert _fingerprints.of_arrays([]) == "0 arrays, checksum 00000000"
    assert (
        len(
            {
                _fingerprints.of_arrays(arrays)
                for arrays in ([a, b], [b, a], [a], [a, jaxdrop.key(1)], [a, a])
            }
        )
        == 5
    )


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_layouts_make_none(kind: AxisType) -> None:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    whole = jnp.asarray(X, jnp.float32)
    divided = jax.device_put(whole, NamedSharding(mesh, PartitionSpec("x")))
    assert _fingerprints.of_arrays([divided]) == _fingerprints.of_arrays([whole])
