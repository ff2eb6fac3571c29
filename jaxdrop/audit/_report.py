"""The report of an audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdrop.audit import _rules_keys, _rules_modes, _rules_places
from jaxdrop.audit._findings import Finding, Severity
from jaxdrop.audit._rules import Audit, findings
from jaxdrop.audit._selection import selected
from jaxdrop.audit._sites import Site, find_sites, inactive
from jaxdrop.audit._tracing import Step, trace

RULE_MODULES = (_rules_modes, _rules_keys, _rules_places)


@dataclasses.dataclass(frozen=True)
class Report:
    """What dropout does in a function, and what is wrong with it.

    Attributes:
      sites: one for each place where something is dropped, and for each layer that is off.
      findings: what is wrong, the worst first.
      trace_seconds: the time of `jax.make_jaxpr`.
      audit_seconds: the time of everything else.
    """

    sites: list[Site]
    findings: list[Finding]
    trace_seconds: float
    audit_seconds: float

    def worst(self) -> Severity | None:
        """The severity of the worst finding; None if there is none."""
        return max((each.severity for each in self.findings), default=None)


def check(
    fn: Callable[..., Any],
    *args: Any,
    step: Step = None,
    training: bool | None = None,
    kwargs: Mapping[str, Any] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> Report:
    program = trace(fn, args, kwargs or {}, step)
    import time

    begin = time.perf_counter()
    found = find_sites(program)
    audit = Audit(program, found, training, step is not None)
    made = selected(findings(audit), select, ignore)
    layers = [
        layer
        for layer in program.probe.layers.values()
        if layer.is_layer and (layer.off or not layer.called)
    ]
    sites = [each.site for each in found] + [inactive(layer) for layer in layers]
    seconds = program.walk_seconds + time.perf_counter() - begin
    return Report(sites, made, program.trace_seconds, seconds)
