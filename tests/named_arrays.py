"""What docs/frameworks.md uses of Haliax, for environments without it: arrays with named axes, and
dropout on them.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest


class Axis(NamedTuple):
    name: str
    size: int


class NamedArray(eqx.Module):
    array: Any
    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(map(Axis, self.names, self.array.shape))

    def resolve_axis(self, axis: Axis | str) -> Axis:
        name = axis if isinstance(axis, str) else axis.name
        return self.axes[self.names.index(name)]

    def scalar(self) -> Any:
        return self.array

    def __add__(self, other: NamedArray) -> NamedArray:
        return NamedArray(self.array + other.array, self.names)

    def __mul__(self, other: NamedArray) -> NamedArray:
        return NamedArray(self.array * other.array, self.names)  # of which the last axes agree

    def __pow__(self, power: int) -> NamedArray:
        return NamedArray(self.array**power, self.names)


class Dropout(eqx.Module):
    """As Haliax's: entries are divided by the keep probability in their own dtype."""

    pdrop: float = eqx.field(static=True)
    broadcast_axes: Any = eqx.field(static=True, default=None)
    inference: bool = False

    def __call__(
        self, x: NamedArray, *, inference: bool | None = None, key: Any = None
    ) -> NamedArray:
        if self.inference if inference is None else inference:
            return x
        keeps = 1 - self.pdrop
        shared = {x.resolve_axis(axis) for axis in _tuple(self.broadcast_axes or ())}
        shape = [1 if axis in shared else axis.size for axis in x.axes]
        mask = jax.random.bernoulli(key, keeps, shape)
        return NamedArray(jnp.where(mask, x.array / keeps, 0), x.names)


def _tuple(axes: Any) -> tuple[Any, ...]:
    return (axes,) if isinstance(axes, (str, Axis)) else tuple(axes)


def _named(array: Any, axes: Sequence[Axis | str]) -> NamedArray:
    names = (axis if isinstance(axis, str) else axis.name for axis in _tuple(axes))
    return NamedArray(array, tuple(names))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `import haliax` find these."""
    haliax: Any = types.ModuleType("haliax")
    haliax.nn, haliax.util = types.ModuleType("haliax.nn"), types.ModuleType("haliax.util")
    haliax.Axis, haliax.NamedArray, haliax.named = Axis, NamedArray, _named
    haliax.tanh = lambda x: NamedArray(jnp.tanh(x.array), x.names)
    haliax.mean = lambda x: NamedArray(jnp.mean(x.array), ())
    haliax.nn.Dropout, haliax.util.ensure_tuple = Dropout, _tuple
    for module in (haliax, haliax.nn, haliax.util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
