"""A predictor with its samples is one file, which a process without jaxdrop runs: the same bits."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxdrop
from jaxdrop import mc

STRATEGIES: Any = ("stratified", "antithetic", "independent")
W = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)

SERVER = """
import sys
for name in ("jaxdrop", "flax"):
    sys.modules[name] = None  # cannot be imported
import numpy as np
from jax import export
for strategy in sys.argv[2:]:
    with open(f"{sys.argv[1]}/{strategy}.bin", "rb") as file:
        predict = export.deserialize(bytearray(file.read())).call
    x = np.load(f"{sys.argv[1]}/x.npy")
    for size in (len(x), 2)[: 2 if strategy == "stratified" else 1]:
        np.savez(f"{sys.argv[1]}/{strategy}{size}.npz", **predict(np.uint32(3), x[:size]))
"""


def predict(strategy: mc.Strategy, seed: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    """The summary of ten samples, in chunks; the samples' keys are made inside."""
    keys = mc.keys(jaxdrop.key(seed), 10, strategy)

    def sample(key: jax.Array) -> jax.Array:
        return jaxdrop.dropout(key, x, 0.3) @ W

    found = mc.moments(sample, keys, batch_size=5)
    return {"mean": found.mean, "variance": found.variance}


def test_a_process_without_jaxdrop_gives_the_same_bits(tmp_path: Path) -> None:
    (batch,) = export.symbolic_shape("batch")
    shapes = (
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((batch, 8), jnp.float32),
    )
    functions = {strategy: jax.jit(functools.partial(predict, strategy)) for strategy in STRATEGIES}
    for strategy, function in functions.items():
        exported = export.export(function)(*shapes)
        (tmp_path / f"{strategy}.bin").write_bytes(exported.serialize())
    np.save(tmp_path / "x.npy", X)
    subprocess.run([sys.executable, "-c", SERVER, str(tmp_path), *STRATEGIES], check=True)
    for strategy, function in functions.items():
        with np.load(tmp_path / f"{strategy}5.npz") as found:
            for name, values in function(np.uint32(3), X).items():
                np.testing.assert_array_equal(found[name], values, err_msg=strategy)
            mean = found["mean"]
        if strategy == "stratified":
            # An example's masks do not depend on how many stand behind it.
            with np.load(tmp_path / f"{strategy}2.npz") as part:
                np.testing.assert_allclose(part["mean"], mean[:2], rtol=1e-4, atol=1e-6)


def test_moments_without_samples() -> None:
    """For a symbolic batch: positions then depend on a number that the program holds back, and
    sizes are no integers.
    """

    def analytic(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def fn(key: jax.Array, x: jax.Array) -> jax.Array:
            first, second = jax.random.split(key)
            hidden = jnp.tanh(jaxdrop.dropout(first, x, 0.3) @ W)
            return jax.nn.softmax(jaxdrop.dropout(second, hidden, 0.5))

        found = mc.analytic(fn)(x)
        return found.mean, found.std

    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(analytic))(jax.ShapeDtypeStruct((batch, 8), jnp.float32))
    for got, expected in zip(exported.call(X), analytic(X), strict=True):
        assert np.all(np.asarray(expected) > 0)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_file_holds_no_keys() -> None:
    """A key of this library is a type of this library: the exported function takes a seed."""
    with pytest.raises(Exception, match="key<"):
        export.export(jax.jit(lambda key: jaxdrop.dropout(key, X, 0.5)))(
            jax.eval_shape(lambda: jaxdrop.key(0))
        ).serialize()
