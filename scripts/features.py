"""What dropout does in some libraries: runs each of them, and writes the table of the README.

    python scripts/features.py           # prints it
    python scripts/features.py --write   # and puts it into README.md

A library that is not installed has no column. Needs `pip install '.[benchmark,oracles]'`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- features: scripts/features.py -->\n", "<!-- end of features -->\n"
SHAPE = (64, 128)

Dropout = Callable[[Any, Any], Any]
"""(array, rate) -> array, with a fixed key."""


def _jaxdrop() -> Dropout:
    import jaxdrop

    return lambda x, rate: jaxdrop.dropout(jaxdrop.key(0), x, rate)


def _flax() -> Dropout:
    from flax import nnx

    return lambda x, rate: nnx.Dropout(rate, deterministic=False)(x, rngs=nnx.Rngs(dropout=0))


def _equinox() -> Dropout:
    import equinox as eqx

    return lambda x, rate: eqx.nn.Dropout(rate)(x, key=jax.random.key(0))


def _haiku() -> Dropout:
    import haiku as hk

    return lambda x, rate: hk.dropout(jax.random.key(0), rate, x)


def _keras() -> Dropout:
    keras: Any = importlib.import_module("keras")

    return lambda x, rate: keras.random.dropout(x, rate, seed=0)


LIBRARIES: dict[str, tuple[str, tuple[str, ...], Callable[[], Dropout]]] = {
    "jaxdrop": ("jaxdrop", ("jaxdrop.nnx",), _jaxdrop),
    "Flax": ("flax", ("flax.nnx",), _flax),
    "Equinox": ("equinox", ("equinox.nn",), _equinox),
    "Haiku": ("haiku", ("haiku",), _haiku),
    "Keras on JAX": ("keras", ("keras.layers",), _keras),
}


# -- of each library, by JAX


def stored(drop: Dropout) -> str:
    """What the backward pass needs, beside the key."""
    x = jnp.ones(SHAPE, jnp.bfloat16)
    _, back = jax.vjp(lambda x: drop(x, 0.5), x)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(back) if hasattr(leaf, "nbytes"))
    return "nothing" if size <= 16 else f"{size / x.size:.2g} B an entry"


def traced(drop: Dropout) -> bool:
    """One program for all rates."""
    y = jax.jit(drop)(jnp.ones(SHAPE), 0.5)
    return 0.4 < float((y == 0).mean()) < 0.6


def by_feature(drop: Dropout) -> bool:
    rates = jnp.linspace(0.0, 1.0, SHAPE[1])
    dropped = np.asarray(drop(jnp.ones(SHAPE), rates) == 0).mean(0)
    return bool(dropped[0] == 0 and dropped[-1] == 1)


def at_one(drop: Dropout) -> bool:
    """Zeros, whose gradient is zero."""
    x = jnp.ones(SHAPE)
    slope = jax.grad(lambda x: drop(x, 1.0).sum())(x)
    return bool((drop(x, 1.0) == 0).all() and (slope == 0).all())


def refuses(rate: float) -> Callable[[Dropout], bool]:
    def check(drop: Dropout) -> bool:
        try:
            drop(jnp.ones(SHAPE), rate)
        except Exception:
            return True
        return False

    return check


def dropped_nan(drop: Dropout) -> bool:
    """A NaN or infinity that is dropped is 0."""
    y = drop(jnp.full(SHAPE, jnp.inf), 0.5)
    return bool(((y == 0) | (y == jnp.inf)).all() and (y == 0).any())


CHECKS: dict[str, Callable[[Dropout], bool | str]] = {
    "stored for the backward pass, bfloat16": stored,
    "a traced rate: one program for a schedule": traced,
    "a rate for each feature": by_feature,
    "rate 1: zeros, and zero gradients": at_one,
    "an infinity that is dropped is 0": dropped_nan,
    "rate 1.5 is an error": refuses(1.5),
    "rate NaN is an error": refuses(float("nan")),
}


def cell(check: Callable[[Dropout], bool | str], drop: Dropout) -> str:
    try:
        found = check(drop)
    except Exception:
        found = False
    return found if isinstance(found, str) else ("yes" if found else "no")


def _torch() -> list[str]:
    """The same checks, by PyTorch's means."""
    import torch

    drop, ones = torch.nn.functional.dropout, torch.ones(SHAPE, dtype=torch.bfloat16)
    size = 0

    def saved(tensor: Any) -> Any:
        nonlocal size
        size += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        drop(ones.clone().requires_grad_(), 0.5)

    def fails(rate: float) -> str:
        try:
            drop(ones, rate)
        except (ValueError, RuntimeError):
            return "yes"
        return "no"

    x = torch.ones(SHAPE, requires_grad=True)
    y = drop(x, 1.0)
    y.sum().backward()
    zeros = (y == 0).all() and (x.grad == 0).all()
    infinite = drop(torch.full(SHAPE, float("inf")), 0.5)
    dropped = "no" if infinite.isnan().any() else "yes"
    stored = f"{size / ones.numel():.2g} B an entry"
    return [stored, "-", "no", "yes" if zeros else "no", dropped, fails(1.5), fails(float("nan"))]


def kinds(*modules: str) -> str:
    """How many classes and functions of these modules drop something or add noise."""
    names = {
        name
        for module in modules
        for name in dir(importlib.import_module(module))
        if re.search("drop|noise|zoneout|neftune|shake", name, re.IGNORECASE) and name[0] != "_"
    }
    return str(len({name.lower().replace("_", "") for name in names}))


def table() -> str:
    """All of it, in Markdown."""
    columns = {}
    for name, (module, namespaces, make) in LIBRARIES.items():
        if importlib.util.find_spec(module):
            drop = make()
            columns[name] = [kinds(*namespaces), *(cell(check, drop) for check in CHECKS.values())]
    if importlib.util.find_spec("torch"):
        columns["PyTorch"] = [kinds("torch.nn"), *_torch()]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    rows = zip(["layers that drop", *CHECKS], *columns.values(), strict=True)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into README.md")
    options = parser.parse_args()
    made = table()
    print(made)
    if options.write:
        text = README.read_text()
        before, rest = text.split(BEGIN)
        README.write_text(before + BEGIN + "\n" + made + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
