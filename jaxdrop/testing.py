"""For the tests of a model: is its dropout on in training, off in evaluation, and right?

def test_dropout():
    jaxdrop.testing.check_dropout(Model(), x)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import _checks, _optional
from jaxdrop.audit import Report, Severity, check

__all__ = ["check_dropout"]

# Arguments that say whether a call is one of training, with the value that says so.
_MODES = {
    "deterministic": False,
    "training": True,
    "train": True,
    "is_training": True,
    "inference": False,
    "enable_dropout": True,
}
_LEVELS = {level.name.lower(): level for level in Severity}


def check_dropout(
    model: Any,
    *args: Any,
    train: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    step: int | str | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    fail_level: str = "warning",
) -> tuple[Report, Report]:
    """Audits a model in training and in evaluation, and fails if something is wrong.

    Both calls are traced with `jaxdrop.audit.check`; nothing is run on a device, and the model is
    not changed.

    Args:
      model: a Linen module, whose parameters are made up; an NNX module, which is put into
        `.train()` and `.eval()`; an Equinox module, for which `inference_mode` does so; or a
        function.
      *args: the arguments of its call. Arrays may be `jax.ShapeDtypeStruct`.
      train: keyword arguments that switch dropout on, such as `{"training": True}`. By default
        the arguments of the call that are named `deterministic`, `train`, `training`,
        `is_training`, `inference` or `enable_dropout`.
      evaluate: keyword arguments that switch it off.
      step: as in `jaxdrop.audit.check`; a number counts the arguments of the call.
      select: as there.
      ignore: as there.
      fail_level: `"info"`, `"warning"` or `"error"`: findings as bad as this fail.

    Returns:
      The reports of training and of evaluation.

    Raises:
      AssertionError: something is wrong. The message holds the findings, with what to do.
      TypeError: the model has no mode, and `train` and `evaluate` are not given.
      ValueError: `fail_level` is another word.
    """
    _checks.check_one_of(fail_level, "fail_level", tuple(_LEVELS))
    on, off = (
        dict(given) if given is not None else _mode(model, training)
        for given, training in ((train, True), (evaluate, False))
    )
    reports = []
    for training, mode in ((True, on), (False, off)):
        fn, given, ours = _call(model, args, mode, training)
        which = step + len(given) - len(args) if isinstance(step, int) else step
        reports.append(
            check(fn, *given, kwargs=ours, training=training, step=which if training else None,
                  select=select, ignore=ignore)
        )  # fmt: skip
    wrong = [
        f"{'training' if training else 'evaluation'}: {found}\n  {found.rule.why}\n"
        f"  Do: {found.rule.fix}"
        for training, report in zip((True, False), reports, strict=True)
        for found in report.findings
        if found.severity >= _LEVELS[fail_level]
    ]
    if wrong:
        raise AssertionError("\n".join(["dropout is wrong in this model:", *wrong]))
    return reports[0], reports[1]


def _mode(model: Any, training: bool) -> dict[str, Any]:
    """The keyword arguments of a call in training or in evaluation."""
    method = model if inspect.isfunction(model) else type(model).__call__
    names = inspect.signature(method).parameters
    found = {name: value is training for name, value in _MODES.items() if name in names}
    if not (found or _is_nnx(model) or _is_equinox(model)):
        raise TypeError(
            f"the call of {getattr(model, '__name__', type(model).__name__)} has no argument such "
            "as deterministic or training: give train= and evaluate=, the keyword arguments that "
            "switch dropout on and off"
        )
    return found


def _call(
    model: Any, args: tuple[Any, ...], mode: dict[str, Any], training: bool
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """A function to audit, with its positional and keyword arguments."""
    if _is_linen(model):
        return _linen_call(model, args, mode)
    if _is_nnx(model):
        from flax import nnx

        graph, state = nnx.split(model)
        copy = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))
        if not mode:
            (copy.train if training else copy.eval)()

        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            return model(*args, **kwargs)

        return forward, [copy, *args], mode
    if _is_equinox(model):
        import equinox

        if not mode:
            model = equinox.nn.inference_mode(model, value=not training)
        return (lambda model, *args, **kwargs: model(*args, **kwargs)), [model, *args], mode
    _checks.check_callable(model, "model", "the other arguments")
    return model, list(args), mode


def _linen_call(
    model: Any, args: tuple[Any, ...], mode: dict[str, Any]
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    key = jax.eval_shape(jax.random.key, jax.ShapeDtypeStruct((), jnp.uint32))

    def init(key: jax.Array, *args: Any) -> Any:
        params, dropout = jax.random.split(key)
        return model.init({"params": params, "dropout": dropout}, *args, **mode)

    variables = jax.eval_shape(init, key, *args)
    mutable = [name for name in variables if name != "params"]

    def apply(variables: Any, key: jax.Array, *args: Any) -> Any:
        return model.apply(variables, *args, rngs={"dropout": key}, mutable=mutable, **mode)

    return apply, [variables, key, *args], {}


def _is_linen(model: Any) -> bool:
    return _optional.is_a("flax.linen", "Module", model)


def _is_nnx(model: Any) -> bool:
    return _optional.is_a("flax.nnx", "Module", model)


def _is_equinox(model: Any) -> bool:
    return _optional.is_a("equinox", "Module", model)


def __dir__() -> list[str]:
    return __all__
