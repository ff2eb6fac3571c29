"""`check`: audits one function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdrop import _checks

# Imported for the rules that they register.
from jaxdrop.audit import _rules_keys, _rules_modes, _rules_network, _rules_places  # noqa: F401
from jaxdrop.audit._arguments import Step
from jaxdrop.audit._report import Report
from jaxdrop.audit._rules import Audit, findings
from jaxdrop.audit._selection import selected
from jaxdrop.audit._sites import find_sites, inactive
from jaxdrop.audit._tracing import trace, without_collection


def check(
    fn: Callable[..., Any],
    *args: Any,
    step: Step = None,
    training: bool | None = None,
    kwargs: Mapping[str, Any] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> Report:
    """What dropout does in a function, and what is wrong with it.

    The function is traced with `jax.make_jaxpr`; nothing is run on a device. Masks are found by
    what the program does with random bits, so it does not matter which library drew them, and
    whether two keys are equal is decided by how they are computed.

        report = jaxdrop.audit.check(train_step, state, batch, key, 0, step=3, training=True)
        print(report)

    Args:
      fn: a function of arrays and models: a forward pass, a loss, or a whole training step.
      *args: its arguments. An array may be a `jax.ShapeDtypeStruct`. NNX and Equinox models are
        taken as they are, and are not changed. Numbers, and everything that is no array, are
        constants.
      step: the argument, or arguments, that change from step to step: the number of one, or its
        name, such as `"state.step"`. A key that is new in each call is one, too. Masks that depend
        on none of them are the same in every step.
      training: True for a training function, in which something must be dropped; False for
        evaluation, in which nothing may be; None for neither.
      kwargs: keyword arguments of the function.
      select: ids of rules, or their beginnings such as `"JD2"`; only these are reported.
      ignore: the same, for rules that are not reported.

    Returns:
      A report with `.sites` and `.findings`.

    Raises:
      TypeError: `fn` cannot be called, or `training` or `step` are of another type.
      ValueError: `step`, `select` or `ignore` name something that there is not.
    """
    _checks.check_callable(fn, "fn", "arrays and models")
    if training is not None:
        training = _checks.check_flag(training, "training")
    selected([], select, ignore)  # before the work
    program = trace(fn, args, kwargs or {}, step)
    begin = time.perf_counter()
    with without_collection():
        found = find_sites(program)
        made = findings(Audit(program, found, training, step is not None))
    layers = [each for each in program.probe.layers.values() if each.draws and each.off]
    sites = [each.site for each in found] + [inactive(layer) for layer in layers]
    seconds = program.walk_seconds + time.perf_counter() - begin
    return Report(sites, selected(made, select, ignore), program.trace_seconds, seconds)
