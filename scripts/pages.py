"""The code blocks of the documentation's pages, for tests and benchmarks of what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxdrop.linen
import jaxdrop.nnx

_DOCS = Path(__file__).parents[1] / "docs"


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """The line at which each block of Python begins, and its text."""
    for found in re.finditer(r"(?ms)^```python\n(.*?)^```", text):
        yield text[: found.start(1)].count("\n"), found[1]


def cells(text: str) -> list[str]:
    """The code of the cells of a page that is a notebook, which MyST-NB runs."""
    return re.findall(r"(?ms)^```\{code-cell\} ipython3\n(?::[^\n]*\n)*\n*(.*?)\n```", text)


def section(page: str, title: str) -> dict[str, Any]:
    """What the code blocks below a heading define, by name."""
    text = (_DOCS / page).read_text().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    names: dict[str, Any] = {"Any": Any, "jax": jax, "jnp": jnp, "nn": nn, "nnx": nnx}
    names["jaxdrop"] = jaxdrop
    for _, block in blocks(text):
        exec(compile(block, page, "exec"), names)
    return names
