"""What the NNX modules share: where `deterministic`, the rate, the layout and the key come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.nnx._told import Told, follow

T = TypeVar("T")
RngSource: TypeAlias = nnx.Rngs | nnx.RngStream | jax.Array


class Stochastic(nnx.Module):
    """A module that draws one mask a call. A subclass holds hyperparameters and makes one call into
    `jaxdrop.functional`.

    Where the amount that is dropped is no rate, a subclass gives `_settle` its own amount in each
    call.
    """

    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)
    _has_rate: ClassVar[bool] = True
    """Where the amount that is dropped is no rate, a subclass has False here, and gives None for
    the rate.
    """
    _handed_on: ClassVar[Mapping[str, str]] = MappingProxyType({"x": "inputs"})
    """Arguments of the function, and what they are in the call, for messages."""
    told: Told | None = None
    """Set by `stochastic`, in its copy of a model."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _checks.hint_methods(cls)
        follow(cls)

    def __init__(
        self,
        rate: float | None,
        *,
        deterministic: bool | None,
        rng_collection: str,
        rngs: nnx.Rngs | nnx.RngStream | None,
        spec: PartitionSpec | None,
    ) -> None:
        if self._has_rate:
            _checks.check_rate(rate)
            self.rate = cast(float, rate)
        if deterministic is not None and not isinstance(deterministic, jax.core.Tracer):
            _checks.check_flag(deterministic, "deterministic")
        self.deterministic = deterministic
        self.rng_collection = _checks.check_text(rng_collection, "rng_collection")
        self.spec = spec
        if isinstance(rngs, nnx.Rngs):
            self.rngs = rngs[rng_collection].fork()
        elif isinstance(rngs, nnx.RngStream):
            self.rngs = rngs.fork()
        elif rngs is None:
            self.rngs = nnx.data(None)
        else:
            raise TypeError(
                "rngs must be an nnx.Rngs, an nnx.RngStream or None in the constructor, got"
                f" {_checks.quoted(rngs)}. A plain key goes into the call: layer(x, rngs=key)."
            )

    def _settle(
        self,
        deterministic: bool | None,
        rngs: RngSource | None,
        rate: masks.Rate | None,
        spec: PartitionSpec | None,
    ) -> tuple[bool, jax.Array | None, masks.Rate, PartitionSpec | None]:
        """What one call uses: its own arguments first, then the module's. A key is taken only if
        something is drawn with it.
        """
        name = type(self).__name__
        given = _first(deterministic, self.deterministic)
        if given is None:
            raise ValueError(
                f"{name} was not told whether to drop. Either\n"
                f"1. pass deterministic to the constructor: {name}(..., deterministic=False);\n"
                "2. pass deterministic to the call: layer(x, deterministic=True);\n"
                "3. call model.train() or model.eval()."
            )
        rate = self.rate if rate is None else rate
        chosen = _checks.check_flag(given, "deterministic")
        draws = not (
            chosen or any(masks.is_number(rate, value) for value in self._draws_nothing_at)
        )
        key = self._key(_first(rngs, self.rngs)) if draws else None
        return chosen, key, rate, _first(spec, self.spec)

    def _key(self, rngs: RngSource | None) -> jax.Array:
        if isinstance(rngs, nnx.Rngs):
            return rngs[self.rng_collection]()
        if isinstance(rngs, nnx.RngStream):
            return rngs()
        name = type(self).__name__
        key = _checks.unwrapped(rngs)
        if isinstance(key, (jax.Array, np.ndarray)):
            return _checks.check_key(key, name, "rngs")
        if rngs is None:
            raise ValueError(
                f"{name} is stochastic here and has no key. Either\n"
                f"1. pass rngs to the constructor: {name}(..., rngs=nnx.Rngs(jaxdrop.key(0)));\n"
                "2. pass rngs or a key to the call: layer(x, rngs=key);\n"
                "3. turn dropout off: model.eval(), or layer(x, deterministic=True)."
            )
        raise TypeError(
            f"rngs must be an nnx.Rngs, an nnx.RngStream or a JAX key, got {_checks.quoted(rngs)}"
        )

    def set_view(self, deterministic: bool | None = None) -> None:
        """Used by `nnx.view`.

        Args:
          deterministic: if True, nothing is dropped.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def check_init(rngs: Any, dtype: Any, **initializers: Any) -> None:
    """Checks what parameters are made from: `rngs` and `param_dtype` of the constructor, and
    functions of (key, shape, dtype).
    """
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(
            f"rngs must be an nnx.Rngs, for parameters are made from it, got {_checks.quoted(rngs)}"
        )
    _checks.check_float_dtype(dtype, "param_dtype")
    for name, initializer in initializers.items():
        _checks.check_callable(initializer, name, "(key, shape, dtype)")


def check_module(module: Any, name: str, way: str = "") -> None:
    """Checks that the argument is an NNX module. `way` is what else there is, a sentence."""
    if not isinstance(module, nnx.Module):
        raise TypeError(f"{name} must be an nnx.Module, got {_checks.quoted(module)}.{way}")


def _first(call: T | None, module: T | None) -> T | None:
    return module if call is None else call
