"""Models that are objects: NNX modules and Equinox modules among the arguments of a function."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxdrop import _optional
from jaxdrop.audit._modules import Layer, Probe, note_mode
from jaxdrop.audit._places import WATCHED


def is_nnx(value: Any) -> bool:
    """Whether a value is an object of NNX, with state of its own."""
    if "flax.nnx" not in sys.modules:
        return False
    nnx = sys.modules["flax.nnx"]
    return isinstance(value, nnx.Pytree)


def is_equinox(value: Any) -> bool:
    """Whether a value is a module of Equinox."""
    return _optional.is_a("equinox", "Module", value)


def is_model(value: Any) -> bool:
    """Whether a value is a model that is an object."""
    return is_nnx(value) or is_equinox(value)


def watch_nnx(probe: Probe, model: Any) -> None:
    """Makes the modules of a model note their calls, and name them in the program."""
    nnx = sys.modules["flax.nnx"]
    if not isinstance(model, nnx.Module):
        return
    for path, module in list(nnx.iter_modules(model)):
        name = "/".join(map(str, path))
        layer = probe.see("nnx", name, module)
        around = functools.partial(_nnx_call, layer, module)
        _instrument(module, name, _noting(probe, "nnx", name, module, around))


def _noting(
    probe: Probe, framework: str, path: str, module: Any, around: Callable[..., Any]
) -> Callable[..., Any]:
    """`around`, which also notes that a module was called."""
    probe.note_module(framework, path, module, called=False)

    def noted(*args: Any, **kwargs: Any) -> Any:
        probe.note_module(framework, path, module, called=True)
        return around(*args, **kwargs)

    return noted


def _nnx_call(
    layer: Layer | None, module: Any, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    nnx = sys.modules["flax.nnx"]
    if layer is not None:
        note_mode(layer, module, args, kwargs)
        if isinstance(module, nnx.Dropout):
            missing = module.rngs is None and kwargs.get("rngs") is None
            layer.without_rngs = layer.without_rngs or missing
            told = kwargs.get("deterministic")
            off = module.deterministic if told is None else told
            if missing and not off:  # the layer would raise, and hide what comes behind
                return args[0] if args else kwargs["inputs"]
    return call(*args, **kwargs)


def watch_equinox(probe: Probe, model: Any) -> None:
    """The same for a model of Equinox."""
    for path, module in _equinox_modules(model, ()):
        name = "/".join(path)
        layer = probe.see("equinox", name, module)
        around = functools.partial(_equinox_call, layer, module)
        _instrument(module, name, _noting(probe, "equinox", name, module, around))


def _equinox_call(
    layer: Layer | None, module: Any, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if layer is not None:
        layer.called = True
        told = kwargs.get("inference")
        off = getattr(module, "inference", False) if told is None else told
        layer.off = layer.off and off is True
    return call(*args, **kwargs)


def _equinox_modules(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if is_equinox(value):
        yield path, value
        for name in type(value).__dataclass_fields__:
            yield from _equinox_modules(getattr(value, name), (*path, name))
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from _equinox_modules(each, (*path, str(at)))
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _equinox_modules(each, (*path, str(name)))


def _instrument(module: Any, path: str, around: Callable[..., Any]) -> None:
    """Gives an object a class of its own, whose call runs `around` under a scope with the path."""
    cls = type(module)
    scope = WATCHED + (path.replace("/", ".") or cls.__name__)
    if "__call__" not in dir(cls):
        return
    original = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with jax.named_scope(scope):
            return around(functools.partial(original, self), *args, **kwargs)

    names = {
        "__call__": call,
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "__qualname__": cls.__qualname__,
    }
    if is_equinox(module):
        names["__init__"] = cls.__init__
    try:
        own: Any = type(cls)
        object.__setattr__(module, "__class__", own(cls.__name__, (cls,), names))
    except TypeError:
        return  # a class that cannot be derived from: its calls stay without a name
