"""Measures `jaxdrop.audit`: recall and precision on the gallery of broken models, and the time that
an audit of a large training step adds to `jax.make_jaxpr`.

    python scripts/check_audit.py

Nothing is run on a device.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxdrop
from jaxdrop import audit

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.audit import gallery


class Block(nn.Module):
    """A pre-norm transformer block, with dropout at the four usual places."""

    width: int
    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = nn.MultiHeadDotProductAttention(
            16, dropout_rate=self.rate, broadcast_dropout=False, deterministic=False
        )
        x = x + nn.Dropout(self.rate)(layer(nn.LayerNorm()(x)), deterministic=False)
        inner = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        inner = nn.Dropout(self.rate)(inner, deterministic=False)
        return x + nn.Dropout(self.rate)(nn.Dense(self.width)(inner), deterministic=False)


class Transformer(nn.Module):
    """24 blocks, not scanned: the largest program that such a model gives."""

    width: int = 1024
    layers: int = 24
    rate: float = 0.1

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(32000, self.width)(ids)
        for _ in range(self.layers):
            x = Block(self.width, self.rate)(x)
        return nn.Dense(32000)(nn.LayerNorm()(x))


def training_step() -> tuple[Any, ...]:
    """A step of Adam, and shapes for its arguments."""
    model = Transformer()
    ids = jax.ShapeDtypeStruct((8, 512), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    weights = jax.eval_shape(lambda k, i: model.init({"params": k, "dropout": k}, i), key, ids)

    def step(weights: Any, first: Any, second: Any, key: jax.Array, number: Any, ids: Any) -> Any:
        def loss(weights: Any) -> jax.Array:
            key_of_step = jax.random.fold_in(key, number)
            logits = model.apply(weights, ids, rngs={"dropout": key_of_step})
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)
            return -chosen.mean()

        grads = jax.grad(loss)(weights)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, grads)
        weights = jax.tree.map(
            lambda w, m, v: w - 1e-3 * m / (jnp.sqrt(v) + 1e-8), weights, first, second
        )
        return weights, first, second

    return step, weights, weights, weights, key, jax.ShapeDtypeStruct((), jnp.int32), ids


def instructions(layer: Callable[[jax.Array, jax.Array], jax.Array]) -> int:
    """The instructions that a layer adds to the compiled gradient of a small network."""

    def count(layer: Callable[[jax.Array, jax.Array], jax.Array]) -> int:
        def loss(w: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.square(layer(key, jnp.tanh(x @ w)) @ w).sum()

        args = (jnp.ones((32, 32)), jax.random.key(0), jnp.ones((8, 32)))
        text = jax.jit(jax.grad(loss)).lower(*args).compile().as_text()
        return len(re.findall(r"(?m)^\s*(?:ROOT )?%?[\w.-]+ = ", str(text)))

    return count(layer) - count(lambda key, x: x)


def rate_zero() -> dict[str, int]:
    """What layers at rate 0 add: instructions of XLA, or operations of PyTorch's exported graph."""
    zero = jnp.zeros(())

    def flax(key: jax.Array, x: jax.Array) -> jax.Array:
        return nn.Dropout(0.0).apply({}, x, deterministic=False, rngs={"dropout": key})

    added = {
        "jaxdrop, 0": instructions(lambda key, x: jaxdrop.dropout(key, x, 0)),
        "jaxdrop, 0.0": instructions(lambda key, x: jaxdrop.dropout(key, x, 0.0)),
        "jaxdrop, array": instructions(lambda key, x: jaxdrop.dropout(key, x, zero)),
        "flax.linen.Dropout, 0.0": instructions(flax),
    }
    if importlib.util.find_spec("equinox"):
        import equinox as eqx

        added["equinox.nn.Dropout, 0.0"] = instructions(
            lambda key, x: eqx.nn.Dropout(0.0)(x, key=key)
        )
        added["equinox.nn.Dropout, a leaf under jax.jit"] = instructions(
            lambda key, x: eqx.nn.Dropout(zero)(x, key=key)
        )
    if importlib.util.find_spec("haiku"):
        import haiku as hk

        added["haiku.dropout, 0.0"] = instructions(lambda key, x: hk.dropout(key, 0.0, x))
        added["haiku.dropout, array"] = instructions(lambda key, x: hk.dropout(key, zero, x))
    if importlib.util.find_spec("torch"):
        import torch

        layer = torch.nn.Dropout(0.0)
        graph = torch.export.export(layer.train(), (torch.ones(8, 32),)).run_decompositions().graph
        added["torch.nn.Dropout, 0.0 (exported operations)"] = sum(
            node.op == "call_function" for node in graph.nodes
        )
    return added


def main() -> int:
    figures = gallery.measure(gallery.load())
    for line in figures.misses:
        print(line)
    print(
        f"gallery: {figures.cases} broken models and as many twins, {figures.public} from public "
        f"code; recall {figures.recall:.3f}, precision {figures.precision:.3f}"
    )
    report = audit.check(*training_step(), step=4, training=True)
    print(
        f"24-layer transformer, training step: {len(report.sites)} sites, "
        f"{len(report.findings)} findings; jax.make_jaxpr {report.trace_seconds:.2f} s, "
        f"audit {report.audit_seconds:.2f} s more"
    )
    for name, added in rate_zero().items():
        print(f"at rate 0, {name}: {added:+d}")
    good = figures.recall >= 0.95 and figures.precision == 1 and report.audit_seconds < 5
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
