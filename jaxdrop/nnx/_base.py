"""What the NNX modules share: where `deterministic`, the rate, the layout and the key come from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypedDict, TypeVar, Unpack

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.layers import Variant
from jaxdrop.nnx._streams import stream_of
from jaxdrop.nnx._told import Told, follow

T = TypeVar("T")
RngSource: TypeAlias = nnx.Rngs | nnx.RngStream | jax.Array


class Given(TypedDict, total=False):
    """Other arguments: as in `Dropout`."""

    deterministic: bool | None
    rngs: RngSource | None
    spec: PartitionSpec | None


class Call(TypedDict, total=False):
    """An argument of the call takes precedence over the constructor's.

    Args:
      deterministic: if True, nothing is random: most layers return their input as it is.
      rngs: an `nnx.Rngs`, an `nnx.RngStream`, or a key.
      rate: the probability of dropping; a traced value, as of a schedule, does not recompile.
      spec: the layout of the whole input.
    """

    deterministic: bool | None
    rngs: RngSource | None
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


def show_signature(cls: Any, *hidden: inspect.Parameter) -> None:
    """Lets `help` and editors show the arguments of the constructor, which Flax's metaclass hides.
    `hidden` are those that the constructor hands on as `*args` and `**kwargs`.
    """
    own = inspect.signature(cls.__init__)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = {each.name: each for each in hidden}
    for each in list(own.parameters.values())[1:]:
        if each.kind not in kinds or not hidden:
            # In the place, and of the kind, in which Flax has it.
            known = parameters.get(each.name, each)
            parameters[each.name] = each.replace(kind=known.kind)
    cls.__signature__ = own.replace(parameters=sorted(parameters.values(), key=lambda p: p.kind))


class Stochastic(nnx.Module):
    """A module that takes a key for each call."""

    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)
    _handed_on: ClassVar[Mapping[str, str]] = MappingProxyType({"x": "inputs"})
    """Arguments of the function, and what they are in the call, for messages."""
    told: Told | None = None
    """Set by `stochastic`, in its copy of a model."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _checks.hint_methods(cls)
        follow(cls)
        show_signature(cls)

    def __init__(
        self,
        *,
        deterministic: bool | None,
        rng_collection: str,
        rngs: nnx.Rngs | nnx.RngStream | None,
        spec: PartitionSpec | None,
    ) -> None:
        if deterministic is not None and not isinstance(deterministic, jax.core.Tracer):
            _checks.check_flag(deterministic, "deterministic")
        self.deterministic = deterministic
        self.rng_collection = _checks.check_text(rng_collection, "rng_collection")
        self.spec = spec
        if isinstance(rngs, nnx.Rngs):
            self.rngs = stream_of(rngs, rng_collection, type(self).__name__).fork()
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
        amount: Any,
        spec: PartitionSpec | None,
    ) -> tuple[bool, jax.Array | None, Any, PartitionSpec | None]:
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
        chosen = _checks.check_flag(given, "deterministic")
        draws = not (
            chosen or any(masks.is_number(amount, value) for value in self._draws_nothing_at)
        )
        key = self._key(_first(rngs, self.rngs)) if draws else None
        return chosen, key, amount, _first(spec, self.spec)

    def _key(self, rngs: RngSource | None) -> jax.Array:
        if isinstance(rngs, nnx.Rngs):
            return stream_of(rngs, self.rng_collection, type(self).__name__)()
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
        """Sets `deterministic` for `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic


def _constructor(cls: Any) -> Any:
    """The constructor of a dataclass. Fields behind the amount are keyword-only."""
    kinds, fields = inspect.Parameter, dataclasses.fields(cls)
    names = [field.name for field in fields]
    first = names[: names.index(cls.amount) + 1] if cls.amount in names else []
    parameters = [kinds("self", kinds.POSITIONAL_OR_KEYWORD)]
    for field in fields:
        kind = kinds.POSITIONAL_OR_KEYWORD if field.name in first else kinds.KEYWORD_ONLY
        default = kinds.empty if field.default is dataclasses.MISSING else field.default
        parameters.append(kinds(field.name, kind, default=default, annotation=field.type))
    signature = inspect.Signature(parameters, return_annotation="None")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        self._made(dict(list(given.arguments.items())[1:]))

    constructor: Any = __init__
    constructor.__signature__ = signature
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    return constructor


class Switched(Variant, Stochastic):
    """The layers of this package: a description's fields, and those that all have.

    Where a subclass has parameters, its method `_create` makes them, behind `_create_kernel` of a
    dense layer. The fields that these methods take are not kept.
    """

    shared: ClassVar[dict[str, str]] = {
        "deterministic": "if True, nothing is random. `model.eval()` and `model.train()` set it.",
        "rng_collection": "the name of the stream to take keys from.",
        "rngs": "where keys come from: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept;\n"
        "    or None, if they come with the calls.",
    }
    _: dataclasses.KW_ONLY
    deterministic: bool | None = False
    rng_collection: str = "dropout"
    rngs: nnx.Rngs | nnx.RngStream | None = None
    _is_made_elsewhere: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._is_made_elsewhere |= "__init__" in vars(cls)
        if not cls._is_made_elsewhere:
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]
            _checks.hint_methods(cls, "__init__")
        show_signature(cls)

    def _made(self, given: Mapping[str, Any]) -> None:
        """Fills the new layer: parameters first, so that with a single stream they are those of
        Flax's layer.
        """
        values = {name: self._check(name, value) for name, value in given.items()}
        shared = {name: values.pop(name) for name in ("deterministic", "rng_collection")}
        used: set[str] = {"rngs", "spec"}
        for hook in ("_create_kernel", "_create"):
            if create := getattr(self, hook, None):
                taken = inspect.signature(create).parameters
                create(*(values[name] for name in taken))
                used.update(taken)
        for name in values:
            if name not in used:
                setattr(self, name, values[name])
        Stochastic.__init__(self, **shared, rngs=values["rngs"], spec=values.get("spec"))

    def _parameter(self, name: str) -> jax.Array:
        return getattr(self, name)[...]

    def _drop(
        self,
        operands: Sequence[Any],
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: Any = None,
        spec: PartitionSpec | None = None,
        **further: Any,
    ) -> Any:
        """Calls the function on checked operands, with what the call gives, or else the layer."""
        operands = self._check_operands(*operands)
        amount = getattr(self, self.amount) if rate is None else rate
        off, key, amount, spec = self._settle(deterministic, rngs, amount, spec)
        return self._evaluate(key, operands, amount, deterministic=off, spec=spec, **further)


class Layer(Switched):
    """A layer that knows the layout of its input."""

    spec: PartitionSpec | None = None


class Plain(Layer):
    """A layer with one input, like its output."""

    def __call__(self, inputs: jax.Array, **call: Unpack[Call]) -> jax.Array:
        return self._drop((inputs,), **call)


class Placed(Layer):
    """A layer with one input, like its output, and a mask entry for each entry of it, so that the
    input may be a part of a longer one.
    """

    def __call__(self, inputs: jax.Array, **call: Unpack[PlacedCall]) -> jax.Array:
        return self._drop((inputs,), **call)


def check_module(module: Any, name: str, way: str = "") -> Any:
    """Checks that the argument is an NNX module. `way` is what else there is, a sentence."""
    if not isinstance(module, nnx.Module):
        raise TypeError(f"{name} must be an nnx.Module, got {_checks.quoted(module)}.{way}")
    return module


def _first(call: T | None, module: T | None) -> T | None:
    return module if call is None else call
