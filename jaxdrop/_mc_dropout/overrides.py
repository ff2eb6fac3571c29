"""Other rates and layouts for the dropout layers of a model, given by the paths of the layers."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional.recurrent import Rates
from jaxdrop.layers.attention import stand_in, with_options

Spec: TypeAlias = PartitionSpec | Mapping[str, PartitionSpec] | None
Source: TypeAlias = tuple[str, str | None]
"""Where a value comes from: an argument of `stochastic`, and a pattern if it is a dict of them."""

_SEVERAL = (*Rates._fields, "dropout")
_MEANING = " It is the probability of dropping, not of keeping, and not a percentage."


_UNKNOWN = itertools.count()


def unknown() -> int:
    """A new number in each call. Traces marked with it are never found in a cache of Flax again.

    A new object would not do: Flax compares hashes alone, and the hash of an object may equal that
    of an earlier object, which is gone.
    """
    return next(_UNKNOWN)


class Change(NamedTuple):
    """The rates and the layout that one call of a layer uses instead of the layer's own."""

    rates: dict[str, masks.Rate]
    """By the names of the layer's attributes."""
    spec: PartitionSpec | None
    sources: frozenset[Source]

    def __bool__(self) -> bool:
        return bool(self.sources)

    def arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The change as arguments, for the call of a layer of this library."""
        given: dict[str, Any] = {} if self.spec is None else {"spec": self.spec}
        for name in self.rates.keys() & {"rate", "dropout_rate"}:
            return given | {"rate": self.rates[name]}
        return (
            given | {"rates": {**(kwargs.get("rates") or {}), **self.rates}}
            if self.rates
            else given
        )

    def attention(
        self, path: str, layer: Any, theirs: Callable[..., Any], ours: Callable[..., Any]
    ) -> dict[str, Any]:
        """The change as attributes, for one of Flax's attention layers.

        Flax's attention function, `theirs`, compares the rate with 0, which a traced rate does not
        allow, and takes no layout. Then `ours` stands in for it, with the same masks.
        """
        rate = self.rates.get("dropout_rate")
        traced = rate is not None and not isinstance(rate, float)
        attributes = {} if rate is None else {"dropout_rate": stand_in(rate) if traced else rate}
        if not traced and self.spec is None:
            return attributes
        inner = ours if layer.attention_fn is theirs else layer.attention_fn
        name = path or "the model"
        attention_fn = with_options(inner, name, dropout_rate=rate, spec=self.spec)
        return attributes | {"attention_fn": attention_fn}


@dataclasses.dataclass(frozen=True)
class Overrides:
    """The arguments `rate`, `rates` and `spec` of `stochastic`: rates and layouts for the layers of
    a model.
    """

    rate: masks.Rate | None
    rates: Mapping[str, masks.Rate]
    spec: PartitionSpec | None
    specs: Mapping[str, PartitionSpec]

    @classmethod
    def checked(
        cls, rate: masks.Rate | None, rates: Mapping[str, masks.Rate] | None, spec: Spec
    ) -> Overrides:
        """The arguments of `stochastic`, checked."""
        patterns = _patterns("rates", "0.1", {} if rates is None else rates)
        specs = (
            _patterns("spec", "PartitionSpec('data')", spec) if isinstance(spec, Mapping) else {}
        )
        return cls(
            None if rate is None else _rate("rate", rate),
            {pattern: _rate(f"rates[{pattern!r}]", value) for pattern, value in patterns.items()},
            None if specs or spec is None else _spec(spec),
            {pattern: _spec(value) for pattern, value in specs.items()},
        )

    def __bool__(self) -> bool:
        return bool(self.sources())

    @property
    def may_silence(self) -> bool:
        """Whether a rate is 0: a model in which nothing is random is then no mistake."""
        return any(
            masks.is_number(rate, 0)
            for rate in (self.rate, *self.rates.values())
            if rate is not None
        )

    def sources(self) -> list[Source]:
        """Where values are given."""
        single = [("rate", self.rate), ("spec", self.spec)]
        return [
            *((name, None) for name, value in single if value is not None),
            *(("rates", pattern) for pattern in self.rates),
            *(("spec", pattern) for pattern in self.specs),
        ]

    def check_one_example(self, batch_axis: int) -> None:
        """Checks that no layout divides the batch axis: with a shared mask a layer sees one example
        at a time.
        """
        for spec in (self.spec, *self.specs.values()):
            if spec is not None and 0 <= batch_axis < len(spec) and spec[batch_axis] is not None:
                raise ValueError(
                    f"spec={spec} divides axis {batch_axis}, the batch, but with shared_mask=True a"
                    " layer sees one example at a time. Put None there: one mask for all needs no"
                    " layout."
                )

    def token(self) -> Any:
        """A mark for caches of traced programs: equal for equal overrides, and always new if a rate
        is traced.
        """
        rates = (self.rate, *self.rates.values())
        if any(isinstance(rate, jax.Array) for rate in rates):
            return unknown()
        return rates, tuple(self.rates), self.spec, tuple(self.specs.items())

    def of(
        self,
        path: str,
        module: Any,
        attribute: str | None,
        kwargs: Mapping[str, Any],
    ) -> Change:
        """The change of one call of a layer.

        Args:
          path: the layer's.
          module: the layer.
          attribute: the name of the rate if the layer is Flax's.
          kwargs: the keyword arguments of the call.
        """
        parameters = inspect.signature(type(module).__call__).parameters
        own = _own_rates(module, attribute, parameters, kwargs)
        rates, sources = {}, set()
        for name, rate in own.items():
            source, new = self._rate_of(path, name, rate, several=len(own) > 1)
            if new is not None:
                rates[name] = new
                sources.add(source)
        spec = None
        if attribute or "spec" in parameters:
            given = kwargs.get("spec", getattr(module, "spec", None))
            source, spec = self._spec_of(path, given is not None or _is_on_weights(module))
            sources |= set() if spec is None else {source}
        return Change(rates, spec, frozenset(sources))

    def _rate_of(
        self, path: str, name: str, rate: masks.Rate, several: bool
    ) -> tuple[Source, masks.Rate | None]:
        off = masks.is_number(rate, 0)
        for pattern, new in reversed(tuple(self.rates.items())):
            above, _, last = pattern.rpartition("/")
            if last == name and fnmatch.fnmatchcase(path, above):
                return ("rates", pattern), new
            if fnmatch.fnmatchcase(path, pattern) and not (several and off):
                return ("rates", pattern), new
        return ("rate", None), None if off else self.rate

    def _spec_of(self, path: str, settled: bool) -> tuple[Source, PartitionSpec | None]:
        for pattern, new in reversed(tuple(self.specs.items())):
            if fnmatch.fnmatchcase(path, pattern):
                return ("spec", pattern), new
        return ("spec", None), None if settled else self.spec


def _own_rates(
    module: Any, attribute: str | None, parameters: Collection[str], kwargs: Mapping[str, Any]
) -> dict[str, masks.Rate]:
    """The rates of a layer that its call can replace. A learned rate is not among them."""
    if "rates" in parameters:
        own = {name: getattr(module, name) for name in _SEVERAL if hasattr(module, name)}
        return own | {
            name: rate for name, rate in (kwargs.get("rates") or {}).items() if name in own
        }
    name = attribute or ("rate" if "rate" in parameters else None)
    given = kwargs.get("rate")
    return {} if name is None else {name: getattr(module, name) if given is None else given}


def _is_on_weights(module: Any) -> bool:
    """Whether a layer drops weights, so that its layout is not that of its input."""
    shared = hasattr(module, "gaussian") and module.per == "batch" and not module.gaussian
    return shared or hasattr(module, "match")


def _patterns(name: str, example: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(pattern, str) for pattern in given):
        raise TypeError(
            f"{name} must map patterns of paths to values, as in {name}={{'encoder/*': {example}}},"
            f" got {type(given).__name__} {given!r}"
        )
    return given


def _rate(name: str, rate: Any) -> float | jax.Array:
    checked = _checks.check_number(rate, name, 1, _MEANING)
    _checks.check_one_rate(
        checked, f"{name} must be one number. For many rates run jax.vmap over them, or mc.fit_rate"
    )
    return checked


def _spec(spec: Any) -> PartitionSpec:
    axes = len(spec) if isinstance(spec, PartitionSpec) else 0
    checked = _checks.check_spec(spec, axes)
    assert checked is not None
    return checked
