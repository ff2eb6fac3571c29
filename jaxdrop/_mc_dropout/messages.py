"""Errors and warnings of `stochastic`, with what to do about them."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxdrop._mc_dropout.overrides import Source

_SHOWN = 30


class Layer(Protocol):
    """A layer in a listing."""

    @property
    def text(self) -> str:
        """Its path, class and rates."""

    @property
    def chosen(self) -> bool:
        """Whether it may be on."""


def layer(path: str, module: Any, changed: Mapping[str, Any]) -> str:
    """A layer as text: path, class, rates, and an arrow to each rate that replaces one."""
    rates = {name: value for name, value in vars(module).items() if _is_rate(name, value)}
    nonzero = {name: value for name, value in rates.items() if value or name in changed} or rates
    shown = (
        f"{name}={float(value):g}{_arrow(changed.get(name))}" for name, value in nonzero.items()
    )
    return f"{path or '(the model itself)'}: {type(module).__name__}({', '.join(shown)})"


def _arrow(changed: Any) -> str:
    return (
        ""
        if changed is None
        else f" -> {changed:g}"
        if isinstance(changed, float)
        else " -> traced"
    )


def _is_rate(name: str, value: Any) -> bool:
    known = isinstance(value, (numbers.Real, jax.Array)) and not isinstance(
        value, (bool, jax.core.Tracer)
    )
    is_number = known and np.ndim(value) == 0
    return is_number and (name == "dropout" or name.endswith(("rate", "zoneout")))


def argument(path: Sequence[Any]) -> str:
    """The name of a leaf of (args, kwargs)."""
    kind, first, *others = path
    inner = jax.tree_util.keystr(tuple(others))
    return f"input {first.idx + 1}{inner}" if kind.idx == 0 else f"{first.key}{inner}"


_AMONG_INPUTS = "among the inputs"


def places(inputs: Sequence[str], held: Sequence[str]) -> str:
    """Where keys come from that do not follow the key of the function: some inputs, or variables
    of the model.
    """
    found = [f"{_AMONG_INPUTS} ({', '.join(inputs)})"] * bool(inputs)
    found += [f"held by the model ({', '.join(held)})"] * bool(held)
    return " or ".join(found or ["made or held by its code"])


def some_fixed(name: str, where: str) -> str:
    """The warning that some draws do not follow the key."""
    return (
        f"{name} draws random numbers from a key that does not follow the key of the function: they"
        " are the same in all samples, and what depends on them varies too little. That key is"
        f" {where}. Either\n1. take keys in the model from make_rng (Linen) or from an nnx.Rngs"
        " (NNX), which follow;\n2. pass a key that follows, if the model takes one: lambda key:"
        " fn(key, x, jax.random.fold_in(key, 1));\n3. if this is meant, ignore the warning:"
        " warnings.filterwarnings('ignore', message='.*does not follow the key')."
    )


def beside_layers(name: str, flags: Collection[str]) -> str:
    """The warning that layers are on, while other code that draws is off."""
    return (
        f"{name} is random in part: its dropout layers are on, but other code of it, which draws if"
        f" it is told {' or '.join(sorted(flags))}, is off. Either\n1. tell the model, as in"
        " fn(key, x, train=True), or by model.train() before stochastic, which normalization does"
        " not follow;\n2. if this is meant, ignore the warning: warnings.filterwarnings('ignore',"
        " message='.*is random in part')."
    )


def none_chosen(name: str, layers: Any, found: Collection[Layer]) -> ValueError:
    """The error that `layers` chooses no layer."""
    return ValueError(
        f"layers={layers!r} chooses no dropout layer of"
        f" {name}.{_listing(found)}{_PATTERNS}{_CHOICES}"
    )


def speaks_of_none(name: str, source: Source, found: Collection[Layer]) -> ValueError:
    """The error that an argument of `stochastic`, or a pattern in it, concerns no layer."""
    argument, pattern = source
    given = argument if pattern is None else f"the pattern {pattern!r} in {argument}"
    if argument == "layers":
        return ValueError(
            f"{given} is the path of no dropout layer of"
            f" {name}.{_listing(found)}{_PATTERNS}{_CHOICES}"
        )
    what = "replaces the rate" if argument in ("rate", "rates") else "lays out the input"
    if pattern is not None:
        more = f"{_PATTERNS} Of two patterns that a path fits, the later one counts."
        more += (
            " Of several rates of a layer, 'path/input_rate' names one."
            if argument == "rates"
            else ""
        )
    elif argument == "rate":
        more = (
            " It replaces rates above 0 that are not learned. A rate of 0 is replaced by its path:"
            " rates={'encoder/*': 0.1}."
        )
    else:
        more = (
            " It is for layers that have no layout of their own. By path: spec={'encoder/*':"
            " PartitionSpec(...)}."
        )
    return ValueError(
        f"{given} {what} of no dropout layer of {name} that may be on.{_listing(found)}{more}"
    )


_PATTERNS = (
    " Patterns are compared with whole paths, and * stands for any characters, / too: 'encoder/*'."
)
_CHOICES = " 'all' chooses every layer, 'last' the last one that runs."


def nothing_random(name: str, found: Collection[Layer], fixed: str) -> ValueError:
    """The error that nothing in a model depends on the key."""
    advice = (
        "1. give a chosen layer a rate above 0, as in stochastic(..., rates={'*': 0.1});"
        if found
        else (
            "1. add a layer that drops, such as Dropout of jaxdrop.linen, jaxdrop.nnx or Flax, and"
            " train with it;"
        )
    )
    drawn = f" It draws from a key that does not follow, {fixed}." if fixed else ""
    itself = (
        "\n3. if the model takes its key as an input, it needs no stochastic: "
        "jaxdrop.mc.predict(lambda key: model(x, key), keys)."
        if _AMONG_INPUTS in fixed
        else ""
    )
    return ValueError(
        f"nothing is random in {name}: its output does not depend on the"
        f" key.{drawn}{_listing(found)} Either\n{advice}\n2. if the model calls functions such as"
        " jaxdrop.dropout itself, tell it to, as in fn(key, x, train=True), and let their keys"
        f" come from make_rng (Linen) or from an nnx.Rngs (NNX).{itself}"
    )


def _listing(found: Collection[Layer]) -> str:
    if not found:
        return " It has no dropout layer."
    some = any(layer.chosen for layer in found)
    lines = [
        f"  {layer.text}{' (not chosen)' if some and not layer.chosen else ''}" for layer in found
    ][:_SHOWN]
    more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "\n".join(["\nIts dropout layers are:", *lines]) + more + "\n"
