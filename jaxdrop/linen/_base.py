"""What the Linen modules share: where `deterministic`, the rate, the layout and the key come
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.linen._forced import is_off


def check_module(module: Any, name: str, way: str = "") -> None:
    """Checks that the argument is a Linen module. `way` is what else there is, a sentence."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a Linen module, got {_checks.quoted(module)}.{way}")


class Hinted(nn.Module):
    """A module whose constructor and call say what an argument of another library is called
    here.
    """

    _handed_on: ClassVar[Mapping[str, str]] = MappingProxyType({"x": "inputs"})
    """Arguments of the function, and what they are in the call, for messages."""

    def __init_subclass__(cls, **options: Any) -> None:
        _checks.hint_methods(cls, "__call__")
        super().__init_subclass__(**options)  # which makes the constructor
        _checks.hint_methods(cls, "__init__")


class Stochastic(Hinted):
    """A module that draws one mask a call. A subclass holds hyperparameters and makes one call into
    `jaxdrop.functional`.

    Subclasses declare the fields `rate`, `deterministic`, `rng_collection` and `spec`, in the order
    of Flax's own layer. Where the amount that is dropped is no rate, they give `_settle` their own
    amount in each call.
    """

    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)

    def _param(self, name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
        """The parameter `name`, of the dtype `param_dtype`, from the attribute `name_init`."""
        _checks.check_callable(init, f"{name}_init", "(key, shape, dtype)")
        _checks.check_float_dtype(self.param_dtype, "param_dtype")
        if self.has_variable("params", name):
            made = jnp.shape(nn.meta.unbox(self.get_variable("params", name)))
            if made != shape:
                raise ValueError(
                    f"inputs must fit {name} of shape {made}, but ask for {shape}: the layer was"
                    " made for others"
                )
        parameter: jax.Array = self.param(name, init, shape, self.param_dtype)
        return parameter

    def _settle(
        self,
        deterministic: bool | None,
        rng: jax.Array | None,
        rate: masks.Rate | None,
        spec: PartitionSpec | None,
    ) -> tuple[bool, jax.Array | None, masks.Rate, PartitionSpec | None]:
        """What one call uses: its own arguments first, then the module's. A key is made only if
        something is drawn with it.
        """
        chosen = is_off(self, deterministic)
        amount: Any = (
            getattr(self, "rate", None) if rate is None else rate
        )  # that of some layers is no rate
        collection = _checks.check_text(self.rng_collection, "rng_collection")
        draws = not (
            chosen or any(masks.is_number(amount, value) for value in self._draws_nothing_at)
        )
        if draws:
            rng = (
                self.make_rng(collection)
                if rng is None
                else _checks.check_key(rng, type(self).__name__, "rng")
            )
        return chosen, rng, amount, self.spec if spec is None else spec
