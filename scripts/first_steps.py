"""What an installation without extras must do. Run by `scripts/check_wheel`, outside a checkout."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
import jaxdrop.testing
from jaxdrop import mc


def asks_for(extra: str, call: Callable[[], Any]) -> None:
    """Checks that a call says which extra it needs, as the package is without it."""
    try:
        call()
    except ImportError as error:
        if f"pip install 'jaxdrop[{extra}]'" not in str(error):
            raise
    else:
        raise AssertionError(f"a call that needs {extra} ran without it")


def main() -> None:
    assert "site-packages" in jaxdrop.__file__, jaxdrop.__file__
    assert metadata.version("jaxdrop") == jaxdrop.__version__
    assert (Path(jaxdrop.__file__).parent / "py.typed").exists()
    key, x = jaxdrop.key(0), jnp.ones((64, 8))
    assert 0.3 < float((jaxdrop.dropout(key, x, 0.5) == 0).mean()) < 0.7

    layer = jaxdrop.nnx.Dropout(0.5, rngs=nnx.Rngs(jaxdrop.key(1)))
    assert bool((layer(x) == 0).any())
    linen = nn.Sequential([nn.Dense(3), jaxdrop.linen.Dropout(0.5, deterministic=False)])
    variables = linen.init({"params": key, "dropout": key}, x)
    fn = jaxdrop.linen.stochastic(linen, variables)
    logits = mc.predict(lambda key: fn(key, x), mc.keys(key, 8))
    summary = mc.classification(logits=logits)
    assert jaxdrop.audit.check(jaxdrop.dropout, key, x, 0.5).sites

    assert "@inproceedings{wan2013regularization," in jaxdrop.citation("nnx.DropConnect")

    asks_for("plot", lambda: mc.plots.reliability(np.zeros(64, int), summary.mean))
    asks_for("metrics", lambda: mc.metrics.auroc(np.arange(4.0), np.arange(4.0)))
    with tempfile.TemporaryDirectory() as folder:
        results = mc.predict_dataset(
            fn, [np.asarray(x)], mc.keys(key, 8), path=Path(folder) / "out"
        )
        asks_for("parquet", lambda: results.save(Path(folder) / "out.parquet"))
        asks_for("zarr", lambda: results.save(Path(folder) / "out.zarr"))
    print(f"jaxdrop {jaxdrop.__version__} on JAX {jax.__version__}: installed, and it drops")


if __name__ == "__main__":
    main()
