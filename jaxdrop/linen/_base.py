"""What the Linen modules share: where keys and `deterministic` come from, and their fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypedDict, Unpack

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.layers import Variant
from jaxdrop.linen._forced import is_off

Flag: TypeAlias = bool | None
Key: TypeAlias = jax.Array | None


def check_module(module: Any, name: str, way: str = "") -> Any:
    """Checks that the argument is a Linen module. `way` is what else there is, a sentence."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a Linen module, got {_checks.quoted(module)}.{way}")
    return module


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


class Given(TypedDict, total=False):
    """Other arguments: as in `Dropout`."""

    spec: PartitionSpec | None


class Call(TypedDict, total=False):
    """An argument of the call takes precedence over the attribute.

    Args:
      deterministic: if True, nothing is random: most layers return their input as it is.
      rng: a key, in place of one made from `rng_collection`.
      rate: the probability of dropping; a traced value, as of a schedule, does not recompile.
      spec: the layout of the whole input.
    """

    rate: masks.Rate | None
    spec: PartitionSpec | None


class PlacedGiven(Given, total=False):
    """Other arguments: as in `Dropout`."""

    part: masks.Part | None


class PlacedCall(Call, total=False):
    """Other arguments of the call of a layer whose input may be a part of a longer one."""

    part: masks.Part | None


PlacedCall.__doc__ = f"""{(Call.__doc__ or "").rstrip()}
      part: the place of the input in a longer one, such as that of a token in a text.
    """


class Stochastic(Hinted):
    """A module that takes a key for each call. Subclasses declare the fields `deterministic` and
    `rng_collection`.
    """

    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)

    def _settle(
        self,
        deterministic: bool | None,
        rng: jax.Array | None,
        amount: Any,
        spec: PartitionSpec | None,
    ) -> tuple[bool, jax.Array | None, Any, PartitionSpec | None]:
        """What one call uses: its own arguments first, then the module's. A key is made only if
        something is drawn with it.
        """
        chosen = is_off(self, deterministic)
        draws = not (
            chosen or any(masks.is_number(amount, value) for value in self._draws_nothing_at)
        )
        if not draws:
            return chosen, None, amount, spec
        if rng is None:
            return chosen, self.make_rng(self.rng_collection), amount, spec
        return chosen, _checks.check_key(rng, type(self).__name__, "rng"), amount, spec


class Switched(Variant, Stochastic):
    """The layers of this package: a description's fields, and those that all have."""

    shared: ClassVar[dict[str, str]] = {
        "deterministic": "if True, nothing is random. Given here or in the call, not in both.",
        "rng_collection": "the name of the collection that keys are made from.",
    }
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name"):
                setattr(self, field.name, self._check(field.name, getattr(self, field.name)))
        super().__post_init__()

    def _parameter(self, name: str) -> jax.Array:
        return self.get_variable("params", name)

    def _drop(
        self,
        operands: Sequence[Any],
        deterministic: bool | None,
        rng: jax.Array | None,
        rate: Any = None,
        spec: PartitionSpec | None = None,
        **further: Any,
    ) -> Any:
        """Calls the function on checked operands, with what the call gives, or else the layer."""
        operands = self._check_operands(*operands)
        amount = getattr(self, self.amount) if rate is None else rate
        spec = self.spec if spec is None else spec
        off, key, amount, spec = self._settle(deterministic, rng, amount, spec)
        return self._evaluate(key, operands, amount, deterministic=off, spec=spec, **further)


class Layer(Switched):
    """A layer that knows the layout of its input."""

    spec: PartitionSpec | None = None

    def _drop_behind_init(
        self,
        operands: Sequence[Any],
        deterministic: bool | None,
        rng: jax.Array | None,
        rate: Any = None,
        spec: PartitionSpec | None = None,
        **further: Any,
    ) -> Any:
        """As `_drop`, but `init` drops nothing: what it is given, an example or a token, may be too
        few to keep a part of them.
        """
        if self.is_initializing():
            return self._evaluate(None, operands, 0.0, deterministic=True, spec=None, **further)
        return self._drop(operands, deterministic, rng, rate, spec, **further)


class Plain(Layer):
    """A layer with one input, like its output."""

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: Flag = None,
        rng: Key = None,
        **call: Unpack[Call],
    ) -> jax.Array:
        return self._drop((inputs,), deterministic, rng, **call)


class Placed(Layer):
    """A layer with one input, like its output, and a mask entry for each entry of it, so that the
    input may be a part of a longer one.
    """

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: Flag = None,
        rng: Key = None,
        **call: Unpack[PlacedCall],
    ) -> jax.Array:
        return self._drop((inputs,), deterministic, rng, **call)
