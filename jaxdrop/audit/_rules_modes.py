"""Is dropout on where it should be, and off where it should be?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxdrop.audit._modules import Layer
from jaxdrop.audit._rules import Audit, Seen, rule
from jaxdrop.audit._rules_places import meets_activations
from jaxdrop.audit._sites import Found

_ATTENTION = re.compile(r"att")
_ELSEWHERE = re.compile(r"resid|hidden|mlp|ffn|feed|emb|intermediate|output|classif")
_DEPTH = re.compile(r"depth|path|layerdrop")


@rule("JD101")
def configured_never_drawn(audit: Audit) -> Iterator[Seen]:
    """A module, or an argument, has a rate at which nothing in it is drawn."""
    if audit.training is False or not (audit.training or audit.found):
        return
    layers = list(audit.program.probe.layers.values())
    for layer in layers:
        unused: dict[str, list[str]] = {}
        for name, rate in layer.rates.items():
            reason = _unused(layer, name, rate, layers, audit)
            if reason:
                unused.setdefault(reason, []).append(f"{name} is {rate:g}")
        for reason, rates in unused.items():
            yield layer.path or layer.kind, f"{layer.kind}.{', '.join(rates)}, {reason}"


def _unused(layer: Layer, name: str, rate: float, layers: list[Layer], audit: Audit) -> str | None:
    """Why a rate has no effect; None if it has one."""
    if layer.without_rngs:
        return None  # JD104
    inside = [each for each in audit.found if each.within(layer.path)]
    if layer.is_layer:
        if not layer.called:
            takes_part = audit.program.probe.takes_part(layer)
            return "and the layer is never called" if takes_part else None
        if not layer.off:
            return None if inside else "and its call draws nothing"
    if not layer.called:
        return None
    if layer.off and layer.draws:
        return "and all its calls are off" if audit.training and audit.found else None
    off = [
        each
        for each in layers
        if each.called
        and (each.off or each.without_rngs)
        and each.path.startswith(layer.path)
        and rate in each.rates.values()
        and (each.is_layer or each.path != layer.path)
    ]
    if off or layer.off:
        return None
    if any(_matches(each, name, rate) for each in inside):
        return None
    kind = "attention mask" if _ATTENTION.search(name) else "mask"
    return f"and no {kind} in it is drawn at that rate"


def _matches(found: Found, name: str, rate: float) -> bool:
    """Whether a site may be the one that a field of this name is for."""
    own = found.site.rate
    if _DEPTH.search(name) and isinstance(own, float):
        return own <= rate + 1e-4
    if isinstance(own, float) and abs(own - rate) > 2e-3:
        return False
    if _ATTENTION.search(name):
        return found.is_attention or meets_activations(found)
    return not (found.is_attention and _ELSEWHERE.search(name))


@rule("JD102")
def drawn_in_evaluation(audit: Audit) -> Iterator[Seen]:
    """A mask meets an array, and the caller says that this is evaluation."""
    if audit.training is False:
        for found in audit.drawn():
            yield found.site.where, f"{found.site.variant} at rate {_rate(found)}"


@rule("JD103")
def nothing_drawn_in_training(audit: Audit) -> Iterator[Seen]:
    """No mask meets an array, and the caller says that this is training."""
    if audit.training and not audit.drawn():
        layers = [each for each in audit.program.probe.layers.values() if each.draws]
        if any(each.without_rngs for each in layers):
            return
        off = [each.path for each in layers if each.called and each.off]
        zero = [found.site.where for found in audit.found]
        if off:
            yield "the function", f"these layers are called, and are off: {', '.join(off[:5])}"
        elif zero:
            yield "the function", f"all rates are 0: {', '.join(zero[:5])}"
        else:
            yield "the function", "no random bits meet an array"


@rule("JD104")
def raises_when_on(audit: Audit) -> Iterator[Seen]:
    """An NNX layer without a stream was called without `rngs`."""
    for layer in audit.program.probe.layers.values():
        if layer.without_rngs:
            now = "is off now" if layer.off else "is on, and raises"
            yield layer.path, f"{layer.kind} at rate {next(iter(layer.rates.values())):g} {now}"


@rule("JD105")
def frozen_on(audit: Audit) -> Iterator[Seen]:
    """A layer is on in evaluation, and nothing but its own field says so."""
    if audit.training is False:
        for layer in audit.program.probe.layers.values():
            if layer.own_mode:
                yield layer.path or layer.kind, f"{layer.kind}.deterministic is False"


@rule("JD106")
def rate_zero_costs(audit: Audit) -> Iterator[Seen]:
    """The threshold keeps every entry."""
    for found in audit.found:
        if found.site.rate == 0:
            yield (
                found.site.where,
                f"{found.site.random_bits} random bits, about {found.site.flops} operations",
            )


def _rate(found: Found) -> str:
    rate = found.site.rate
    return f"{rate:g}" if isinstance(rate, float) else str(rate or "unknown")
