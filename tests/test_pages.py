"""The code blocks of README.md and docs/ run, with the names that a reader brings along."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from scripts.pages import blocks

pytestmark = [pytest.mark.usefixtures("relaxed"), pytest.mark.sweep]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class MLP(nnx.Module):
    """Any model with dropout."""

    def __init__(self, rngs: nnx.Rngs | None = None) -> None:
        self.linear = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
        self.dropout = jaxdrop.nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.linear(self.dropout(x, rngs=rngs))


KEY = jax.random.key(0)
LINEN = nn.Sequential([nn.Dense(8), jaxdrop.linen.Dropout(0.5, deterministic=False), nn.Dense(3)])


class _Both(MLP):
    """A model that is called as NNX calls one, and applied as Linen applies one."""

    def apply(self, params: Any, x: jax.Array, rngs: dict[str, jax.Array]) -> jax.Array:
        return LINEN.apply(LINEN.init({"params": KEY, "dropout": KEY}, x), x, rngs=rngs)


class _Flax(MLP):
    """A model with Flax's own dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


NAMES: dict[str, Any] = {
    "Any": Any,
    "MLP": MLP,
    "P": PartitionSpec,
    "jax": jax,
    "jaxdrop": jaxdrop,
    "jnp": jnp,
    "np": np,
    "nnx": nnx,
    "nn": nn,
    "optax": optax,
    "rngs": nnx.Rngs(0),
    "seed": 0,
    "step": 3,
    "schedule": jaxdrop.schedules.linear(0.0, 0.5, 10),
    "loss_fn": lambda logits, labels: jnp.mean((logits - labels) ** 2),
}

BRINGS: dict[str, dict[str, Any]] = {
    "schedule(step)": {"x": jnp.ones((8, 4, 3))},
    "jax.shard_map": {"x": jnp.ones((8, 4))},
    "stochastic(model)": {"x": jnp.ones((4, 8)), "model": MLP()},
    "dot_product_attention": dict.fromkeys("qkv", jnp.ones((2, 16, 4, 8))),
    "StackedRNN": {"x": jnp.ones((2, 5, 64)), "lengths": jnp.asarray([3, 5])},
    "replace_dropout(model)": {
        "x": jnp.ones((4, 8)),
        "model": _Flax(),
        "linen_model": LINEN,
        "params": LINEN.init({"params": KEY, "dropout": KEY}, jnp.ones((4, 8))),
        "key": KEY,
        "train_step": lambda model, x, y: model(x) - y,
    },
    "step_key": {
        "x": jnp.ones((4, 8)),
        "y": jnp.ones((4, 3)),
        "model": _Both(),
        "params": None,
    },
}
"""What a block brings that holds this text, beside `NAMES`."""


OPTIONAL = {"equinox", "haiku", "haliax", "keras"}
"""Libraries that a page may import. A block that imports one that is missing is left out."""


def test_there_are_some() -> None:
    assert PAGES[0].name == "README.md"
    assert len([*blocks(PAGES[0].read_text())]) >= 2
    assert sum(len([*blocks(page.read_text())]) for page in PAGES) >= 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path) -> None:
    names = dict(NAMES)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for line, block in blocks(page.read_text()):
        imported = OPTIONAL & set(re.findall(r"(?m)^import (\w+)", block))
        if not all(map(importlib.util.find_spec, imported)):
            continue
        for text, more in BRINGS.items():
            names |= more if text in block else {}
        without = "shard_map" in block and "make_mesh" not in block
        with jax.set_mesh(mesh) if without else contextlib.nullcontext():
            exec(compile("\n" * line + block, page.name, "exec"), names)
