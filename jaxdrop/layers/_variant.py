"""What a layer is in every framework: hyperparameters, and the function that they go into."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import jax

from jaxdrop._checks import Check, facts_of
from jaxdrop.layers._fields import MEANINGS, check_of

_DESCRIPTIONS = "jaxdrop.layers"
_ALIASES = {"Flag": "bool | None", "Key": "jax.Array | None"}


@typing.dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
class Variant:
    """The description of a layer: a dataclass of its hyperparameters, with its docstring.

    A framework's layer inherits from `Layer` of that framework and from the description, in this
    order: its fields are those of the description, and then those that `Layer` has, such as
    `deterministic`. `Layer` gives each call the fields that `function` takes as options. The
    docstring ends with the fields of the description; `Layer` adds its own to it, and `Raises`.
    """

    _function: ClassVar[Callable[..., Any]]
    """The function, `function(key, *operands, amount, **options)`: a keyword of the class."""
    amount: ClassVar[str] = "rate"
    """The field that says how much is dropped. Fields up to it may be given by position."""
    learned: ClassVar[str] = ""
    """The parameter that is the amount, where it is learned."""
    call: ClassVar[str] = "Drops parts of `inputs`. Returns an array like it."
    """What the call does."""
    shared: ClassVar[dict[str, str]] = {}
    """What the docstring says of the fields that all layers of a framework have."""
    checks: ClassVar[Mapping[str, Check]] = MappingProxyType({})
    """Checks of fields, besides those that follow from their types and names, and `function`."""
    _options: ClassVar[tuple[str, ...]] = ()
    _checked: ClassVar[Mapping[str, Check]] = MappingProxyType({})
    _draws_nothing_at: ClassVar[tuple[int, ...]] = (0, 1)
    _handed_on: ClassVar[Mapping[str, str]] = MappingProxyType({"x": "inputs"})
    """Arguments of the function, and what they are in the call, for messages."""

    def __init_subclass__(
        cls, *, function: Callable[..., Any] | None = None, **options: Any
    ) -> None:
        if function is not None:
            cls._function = staticmethod(function)
        described = [base for base in cls.__mro__[1:] if base.__module__.startswith(_DESCRIPTIONS)]
        named = [base.__doc__ for base in described if base.__name__ == cls.__name__]
        own, cls.__doc__ = cls.__doc__, cls.__doc__ or (named[0] if named else inspect.getdoc(cls))
        if "__init__" not in vars(cls):
            dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False)(cls)
        if "__call__" in vars(cls) and cls.__module__.startswith("jaxdrop."):
            cls.__call__ = _told(vars(cls)["__call__"], cls.call)  # type: ignore[method-assign]
        if hasattr(cls, "_function"):
            cls._learn_function()
            if named and own is None:
                cls.__doc__ = cls._document(inspect.cleandoc(cls.__doc__ or ""))
        super().__init_subclass__(**options)

    @classmethod
    def _learn_function(cls) -> None:
        """Notes which fields go into the function, how they are checked, and by which name the
        caller of the layer knows the first operand.
        """
        facts = facts_of(cls._function)
        fields = [field.name for field in dataclasses.fields(cast(Any, cls))]
        taken = inspect.signature(cls._function).parameters
        # A learned amount is an array, whose values are not looked at.
        cls._draws_nothing_at = () if cls.learned else facts.draws_nothing_at
        cls._options = tuple(
            name
            for name, parameter in taken.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name not in ("deterministic", "spec")
            if name in fields or hasattr(cls, name)
        )
        bases = [base for base in reversed(cls.__mro__) if issubclass(base, Variant)]
        found: dict[str, Check | None] = {name: check_of(name, None) for name in fields}
        for base in bases:
            if base.__module__.startswith(_DESCRIPTIONS):
                hints = typing.get_type_hints(base)
                found |= {name: check_of(name, hints[name]) for name in hints.keys() & set(fields)}
        found |= facts.checks
        for base in bases:
            found |= vars(base).get("checks", {})
        cls._checked = {name: check for name, check in found.items() if check and name in fields}
        call = next(
            (vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None
        )
        named = list(inspect.signature(call).parameters.values())[1:2] if call else []
        if named and named[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            cls._handed_on = {list(taken)[1]: named[0].name}

    @classmethod
    def _document(cls, described: str) -> str:
        """The docstring of a layer: that of the description, with all fields, and errors."""
        head, _, listed = described.partition("\n\nArgs:\n")
        told = {
            re.match(r"\w+", entry)[0]: f"  {entry}"  # type: ignore[index]
            for entry in re.split(r"\n? {2}(?=\w)(?<!   )", listed)
            if entry
        }
        meanings = {name: f"  {name}: {text}" for name, text in (MEANINGS | cls.shared).items()}
        fields = [field.name for field in dataclasses.fields(cast(Any, cls))]
        args = "\n".join((meanings | told)[name] for name in fields if name in meanings | told)
        raises = f"  TypeError, ValueError: as `jaxdrop.{cls._function.__name__.lstrip('_')}`."
        return f"{head}\n\nArgs:\n{args}\n\nRaises:\n{raises}"

    @classmethod
    def _check(cls, name: str, value: Any) -> Any:
        """Checks the field `name`, as the function does, and returns its plain form, such as a
        tuple for a list. A traced amount is left to the call.
        """
        may_be_traced = name in (cls.amount, "deterministic")
        if name not in cls._checked or (may_be_traced and isinstance(value, jax.core.Tracer)):
            return value
        checked = cls._checked[name](value, name)
        return value if name == cls.amount else checked

    def _parameter(self, name: str) -> jax.Array:
        """A parameter of the layer. The frameworks say where it is."""
        raise NotImplementedError

    def _check_operands(self, *operands: Any) -> Sequence[Any]:
        """The operands of a call, where a variant checks more than its function does."""
        return operands

    def _evaluate(
        self, key: jax.Array | None, operands: Sequence[Any], amount: Any, **further: Any
    ) -> Any:
        """Calls the function, with the hyperparameters that are its options."""
        own = {name: getattr(self, name) for name in self._options if name not in further}
        return self._function(key, *operands, amount, **own, **further)


def _told(call: Any, does: str) -> Any:
    """A method with `**call: Unpack[Call]` that says by name what it takes, and takes nothing else.
    Its docstring is `does`, if it has none.
    """
    signature = inspect.signature(call)
    *own, last = [
        parameter.replace(annotation=_ALIASES.get(parameter.annotation, parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    is_told = str(last.annotation).startswith("Unpack[")
    others = call.__globals__[last.annotation[7:-1]] if is_told else None
    tail = others.__doc__ if others else "Other arguments: as in `Dropout`."
    call.__doc__ = call.__doc__ or f"{inspect.cleandoc(does)}\n\n{inspect.cleandoc(tail)}"
    if others is None:
        return call
    given = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__
        )
        for name, kind in others.__annotations__.items()
    ]
    signature = signature.replace(parameters=[*own, *given])

    @functools.wraps(call)
    def told(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= signature.parameters.keys():
            raise TypeError(f"takes {signature}")
        return call(*args, **kwargs)

    wrapper: Any = told
    wrapper.__signature__ = signature
    return wrapper
