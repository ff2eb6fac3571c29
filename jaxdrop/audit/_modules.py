"""What the modules of a model say about dropout: rates, modes, and which layers were called."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Names of fields that hold a rate, and names of classes whose field `rate` or `p` is one.
_RATE = re.compile(
    r"^(?:.*_)?(?:dropout(?:_[a-z]+)*|drop(?:path|_path|connect)?(?:_rate|_prob\w*|_p|_ratio)?"
    r"|[a-z]*pdrop|p_drop|stochastic_depth(?:_rate|_prob)?|layerdrop)$"
)
_LAYER = re.compile(
    r"drop(out|path|block|connect|key|head)?|stochasticdepth|zoneout", re.IGNORECASE
)
_FIELDS_OF_LAYERS = ("rate", "p", "drop_prob", "drop_rate", "dropout_rate")
_RECURRENT = re.compile(r"^((input|recurrent|candidate|output|weight)_rate|(cell|hidden)_zoneout)$")
# Modules whose classes, and what inherits from them, draw their masks themselves.
_OF_ATTENTION = ("flax.linen.attention", "flax.nnx.nn.attention")
_OF_RECURRENT_LAYERS = tuple(
    f"jaxdrop.{framework}.{module}"
    for framework in ("linen", "nnx")
    for module in ("recurrent", "stacked")
)
_CONFIGS = re.compile(r"(^|_)(cfg|conf|config|configs|hparams|hps|args)$")


@dataclasses.dataclass
class Layer:
    """A module that has a rate.

    Attributes:
      framework: `linen`, `nnx`, `equinox` or `haiku`; `arguments` for what the function was given.
      path: where it stands in the model, joined by `/`.
      kind: the name of its class.
      rates: its rates, by the name of the field.
      is_layer: whether it is a dropout layer, or a recurrent one of this library, and not a module
        that contains some.
      draws: whether its own code draws masks: that of such a layer, or of Flax's attention.
      called: whether it was called.
      off: whether all calls, if any, said that it is off.
      own_mode: whether `deterministic` came from the layer, and not from the call.
      without_rngs: whether it was called, or would have been, without any key.
    """

    framework: str
    path: str
    kind: str
    rates: dict[str, float]
    is_layer: bool
    draws: bool
    called: bool = False
    off: bool = True
    own_mode: bool = False
    without_rngs: bool = False


@dataclasses.dataclass
class Probe:
    """What was seen of the modules while the function was traced.

    Attributes:
      layers: by framework and path.
      keys: pairs of collections that Linen was given one key for.
      modules: the paths of the modules of models that are objects, and whether each was called.
    """

    layers: dict[tuple[str, str, str], Layer] = dataclasses.field(default_factory=dict)
    keys: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    modules: dict[tuple[str, str], bool] = dataclasses.field(default_factory=dict)

    def see(self, framework: str, path: str, module: Any) -> Layer | None:
        """Notes a module, and the configurations that it holds."""
        values = fields_of(module)
        for name, value in values.items():
            if _CONFIGS.search(name):
                self.configuration(framework, value)
        is_recurrent = _comes_from(module, _OF_RECURRENT_LAYERS)
        rates = rates_of(values, type(module).__name__, is_recurrent)
        if not rates:
            return None
        is_layer = is_recurrent or (
            bool(_LAYER.search(type(module).__name__))
            and any(name in rates for name in _FIELDS_OF_LAYERS)
        )
        draws = is_layer or _comes_from(module, _OF_ATTENTION)
        key = (framework, path, type(module).__name__)
        return self.layers.setdefault(key, Layer(*key, rates, is_layer, draws))

    def note_module(self, framework: str, path: str, module: Any, called: bool) -> None:
        """Notes a module that is no dropout layer, nor a layer around one."""
        if not _LAYER.search(type(module).__name__):
            key = (framework, path)
            self.modules[key] = self.modules.get(key) or called

    def takes_part(self, layer: Layer) -> bool:
        """Whether the function calls the module that a layer belongs to. A function may use a part
        of a model, such as its encoder.
        """
        path = layer.path
        while path:
            path = path.rpartition("/")[0]
            called = self.modules.get((layer.framework, path))
            if called is not None:
                return called
        return True

    def configuration(self, framework: str, value: Any, name: str = "") -> None:
        """Notes the rates of a configuration, which belong to the model as a whole."""
        rates = rates_of(fields_of(value), "")
        if rates:
            kind = name or type(value).__name__
            key = (framework, "", f"{kind}@{id(value)}")
            layer = Layer(framework, "", kind, rates, False, False, called=True, off=False)
            self.layers.setdefault(key, layer)

    def named(self, name: str, value: Any) -> None:
        """Notes an argument that is a rate, or a configuration."""
        if is_rate(value) and _RATE.match(name):
            key = ("arguments", "", name)
            rates = {name: float(value)}
            self.layers[key] = Layer(*key, rates, False, False, called=True, off=False)
        elif isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            self.configuration("arguments", value, name)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of an object, without what computes them."""
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if isinstance(name, str)}
    found = {}
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            with contextlib.suppress(AttributeError):
                found[field.name] = getattr(value, field.name)
    found.update(getattr(value, "__dict__", {}))
    return {name: each for name, each in found.items() if not name.startswith("_")}


def is_rate(value: Any) -> bool:
    """Whether a value can be a rate that is on: a float in (0, 1]."""
    return isinstance(value, float | np.floating) and 0 < float(value) <= 1


def rates_of(fields: Mapping[str, Any], kind: str, is_recurrent: bool = False) -> dict[str, float]:
    """The rates among fields, by their names."""
    layer = bool(_LAYER.search(kind))
    return {
        name: float(value)
        for name, value in fields.items()
        if is_rate(value)
        if _RATE.match(name)
        or (layer and name in _FIELDS_OF_LAYERS)
        or (is_recurrent and _RECURRENT.match(name))
    }


def _comes_from(module: Any, places: tuple[str, ...]) -> bool:
    """Whether a class of one of these Python modules is among those of an object."""
    return any(base.__module__ in places for base in type(module).__mro__)


@contextlib.contextmanager
def watching(probe: Probe) -> Iterator[None]:
    """Notes the modules of Linen and Haiku that are called."""
    with contextlib.ExitStack() as stack:
        if "flax.linen" in sys.modules:
            linen = sys.modules["flax.linen"]
            stack.enter_context(linen.intercept_methods(functools.partial(_linen, probe)))
        if "haiku" in sys.modules:
            haiku = sys.modules["haiku"]
            stack.enter_context(haiku.intercept_methods(functools.partial(_haiku, probe)))
        yield


def _linen(probe: Probe, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name == "__call__":
        path = ""
        if module.scope is not None:  # it may be called alone if it needs no variables
            _one_key(probe, module.scope)
            path = "/".join(module.path)
        layer = probe.see("linen", path, module)
        if layer is not None:
            note_mode(layer, module, args, kwargs)
    return call(*args, **kwargs)


def _one_key(probe: Probe, scope: Any) -> None:
    """Notes collections of random numbers that begin with one key."""
    owners: dict[int, str] = {}
    for name, lazy in scope.rngs.items():
        first = owners.setdefault(id(lazy.rng), name)
        if first != name:
            probe.keys.append((first, name))


def _haiku(probe: Probe, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name == "__call__":
        layer = probe.see("haiku", context.module.module_name, context.module)
        if layer is not None:
            layer.called, layer.off = True, False
    return call(*args, **kwargs)


def note_mode(layer: Layer, module: Any, args: Any, kwargs: Any) -> None:
    """Notes whether a call is on, and who said so."""
    layer.called = True
    told = kwargs.get("deterministic")
    if told is None and layer.is_layer and len(args) > 1 and isinstance(args[1], bool):
        told = args[1]
    own = getattr(module, "deterministic", None)
    mode = own if told is None else told
    on = mode is not True
    layer.off = layer.off and not on
    layer.own_mode = layer.own_mode or (on and told is None and own is False)
