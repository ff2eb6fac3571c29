"""Replaces arguments in one call of a module, so that settings hold whatever its constructor and
its caller say.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

RUNNING_STATISTICS = {"use_running_average": True, "update_stats": False}
"""Settings with which Flax's normalization layers use their running statistics and do not update
them.
"""


def check_method(method: Any, model: Any) -> None:
    """Checks what is called in place of `__call__`."""
    if not (method is None or isinstance(method, str) or callable(method)):
        raise TypeError(
            "method must be the name of a method, or a function of (model, *inputs), got"
            f" {method!r}"
        )
    if isinstance(method, str) and not callable(getattr(model, method, None)):
        raise ValueError(f"method={method!r}: {type(model).__name__} has no such method.")


def method_of(model: Any, method: Any) -> Callable[..., Any]:
    """What is called: a method of the model by its name, `__call__` by default, or a function of
    (model, *inputs).
    """
    if callable(method):
        return functools.partial(getattr(method, "__func__", method), model)
    named: Callable[..., Any] = getattr(model, method or "__call__")
    return named


def names(argument: str, given: Any) -> tuple[str, ...]:
    """Names of collections; one may be given alone."""
    several = (given,) if isinstance(given, str) else given
    if not isinstance(several, (tuple, list, set, frozenset)) or not all(
        isinstance(name, str) for name in several
    ):
        raise TypeError(
            f"{argument} must be names of collections, as in {argument}=['cache'], got {given!r}"
        )
    return tuple(several)


TRAINING = {"deterministic": False, "train": True, "training": True, "is_training": True}
"""Flags by which a model is usually told that it trains, each with its value in training."""


def told_otherwise(
    call: Callable[..., Any], module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> set[str]:
    """The flags of `TRAINING` that are off in a call, each as the text that would turn it on, such
    as `"train=True"`. A flag is an attribute of the module or an argument of the call.

    Args:
      call: a function, or a bound method.
      module: the module, or None.
      args: of the call.
      kwargs: of the call.
    """
    parameters = inspect.signature(call).parameters
    given = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    values = {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
    values |= {} if module is None else vars(module)
    return {
        f"{name}={value}"
        for name, value in TRAINING.items()
        if name in values and values[name] is not value
    }


def told_to_drop(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `call`, a function or a bound method, with its flags of `TRAINING` set."""
    signature = inspect.signature(call)
    bound = signature.bind(*args, **kwargs)
    bound.arguments.update(
        {name: value for name, value in TRAINING.items() if name in signature.parameters}
    )
    return bound.args, bound.kwargs


def settled(module: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides `settings` into those that a module has as attributes, and those that its call takes.

    Returns:
      Attributes to set, and arguments for `replaced`. Where there is an attribute, the argument is
      None, which leaves the choice to the attribute.
    """
    attributes = {name: value for name, value in settings.items() if name in vars(module)}
    return attributes, {
        name: None if name in attributes else value for name, value in settings.items()
    }


def replaced(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call of the method `call`, where `arguments` replace those of the same
    names. Further ones are added if `call` has a parameter of that name.
    """
    parameters = _parameters(call)
    names = [
        name for name, kind in parameters.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ][1 : len(args) + 1]
    given = [arguments.get(name, arg) for name, arg in zip(names, args, strict=False)] + list(
        args[len(names) :]
    )
    named = {name: arguments.get(name, value) for name, value in kwargs.items()}
    more = {
        name: value
        for name, value in arguments.items()
        if value is not None and name in parameters and name not in names
    }
    return given, named | more


def takes(call: Callable[..., Any], names: Collection[str]) -> bool:
    """Whether the method `call` has one of these parameters."""
    return not _parameters(call).keys().isdisjoint(names)


def _parameters(call: Callable[..., Any]) -> dict[str, Any]:
    """The names of a method's parameters, and their kinds."""
    return {name: parameter.kind for name, parameter in inspect.signature(call).parameters.items()}
