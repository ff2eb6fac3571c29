"""The rates of a recurrent layer, and which of them a cell has a place for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdrop import _checks, masks


class Family(NamedTuple):
    """Cells that compute the same function, whatever class they are of."""

    name: str
    gates: tuple[str, ...]
    """Named as in Flax's parameters, in the order in which they are folded into the key. Empty for
    a cell of an unknown class.
    """
    has_cell: bool
    """Whether the state is a pair: a cell, and a hidden state."""


LSTM = Family("LSTM", ("i", "f", "g", "o"), has_cell=True)
GRU = Family("GRU", ("r", "z", "n"), has_cell=False)
MGU = Family("MGU", ("f", "n"), has_cell=False)
SIMPLE = Family("simple", ("",), has_cell=False)


def family_of(cell: Any, kinds: Mapping[type, Family]) -> Family:
    """The family of a framework's cell. A cell of no class in `kinds` gets a family of its own,
    without gates.
    """
    if isinstance(cell, type) or not (callable(cell) and hasattr(cell, "initialize_carry")):
        got = (
            f"the class {cell.__name__}: make one"
            if isinstance(cell, type)
            else type(cell).__name__
        )
        raise TypeError(
            f"cell must be a recurrent cell, such as an {next(iter(kinds)).__name__}, got {got}."
        )
    return next(
        (family for kind, family in kinds.items() if isinstance(cell, kind)),
        Family(type(cell).__name__, (), False),
    )


class Rates(NamedTuple):
    """The rates of one layer."""

    input_rate: masks.Rate = 0.0
    recurrent_rate: masks.Rate = 0.0
    candidate_rate: masks.Rate = 0.0
    output_rate: masks.Rate = 0.0
    cell_zoneout: masks.Rate = 0.0
    hidden_zoneout: masks.Rate = 0.0
    weight_rate: masks.Rate = 0.0

    @classmethod
    def of(cls, layer: Any) -> Rates:
        """The rates of a module that has them as attributes."""
        return cls(*(_one_rate(getattr(layer, name), name) for name in cls._fields))

    def replaced(self, by: Mapping[str, masks.Rate] | None) -> Rates:
        """These rates, with those of a call in place of some. An unknown name is an error."""
        given = in_call(by)
        unknown = sorted(map(str, set(given) - set(self._fields)))
        if unknown:
            raise ValueError(
                f"rates names {', '.join(unknown)}. There are {', '.join(self._fields)}."
            )
        return self._replace(
            **{name: _one_rate(rate, f"rates[{name!r}]") for name, rate in given.items()}
        )

    def checked(self, family: Family, per_gate: bool = False) -> Rates:
        """These rates, if a cell of this family has the parts that they drop from."""
        if not family.gates:
            around = {"output_rate"} if per_gate else {"output_rate", "input_rate"}
            for name, rate in self._asdict().items():
                if name not in around and not is_zero(rate):
                    raise ValueError(
                        f"{name}={rate} acts inside the"
                        f" cell{' with per_gate=True' if name == 'input_rate' else ''}, and how a"
                        f" {family.name} is made is not known. Around any cell there are input_rate"
                        " and output_rate; the other rates take Flax's LSTM, GRU and simple cells."
                    )
        elif not (is_zero(self.cell_zoneout) or family.has_cell):
            raise ValueError(
                f"cell_zoneout={self.cell_zoneout}: a {family.name} cell has one state. Pass"
                " hidden_zoneout."
            )
        if family is SIMPLE and not is_zero(self.candidate_rate):
            raise ValueError(
                f"candidate_rate={self.candidate_rate}: a simple cell has no memory that a"
                " candidate is added to. Pass recurrent_rate or hidden_zoneout."
            )
        return self

    def all_zero(self, *others: masks.Rate) -> bool:
        """Whether nothing is dropped, by these rates and by others."""
        return all(map(is_zero, (*self, *others)))

    def first_drawn(self, *others: masks.Rate) -> masks.Rate:
        """One of these rates and of others that needs a key, or 0."""
        return next(
            (rate for rate in (*self, *others) if not (is_zero(rate) or masks.is_number(rate, 1))),
            0.0,
        )

    def of_layer(self, layer: int, num_layers: int) -> Rates:
        """The rates of one layer of a stack. `input_rate` drops from the input of the stack, which
        the first layer takes, and `output_rate` from its output, which the last layer returns.
        """
        return self._replace(
            input_rate=self.input_rate if layer == 0 else 0.0,
            output_rate=self.output_rate if layer == num_layers - 1 else 0.0,
        )


def in_call(rates: Any) -> dict[str, masks.Rate]:
    """The argument `rates` of a call."""
    if not (rates is None or isinstance(rates, Mapping)):
        raise TypeError(
            "rates must be a dict of rates by name, such as {'input_rate': 0.1}, got"
            f" {_checks.quoted(rates)}"
        )
    return dict(rates or {})


def _one_rate(rate: Any, name: str) -> masks.Rate:
    """A rate as `_checks.check_number` returns it, if it has no axes."""
    rate = _checks.check_number(rate, name, 1)
    _checks.check_one_rate(rate, f"a recurrent layer takes one {name}", name)
    return rate


def check_between(rate: masks.Rate, num_layers: int) -> masks.Rate:
    """The rate between the layers of a stack as `_checks.check_number` returns it, if there are two
    of them.
    """
    num_layers = _checks.check_count(num_layers, "num_layers")
    rate = _one_rate(rate, "dropout")
    if num_layers == 1 and not is_zero(rate):
        raise ValueError(
            f"dropout={rate} acts between layers, and there is one layer. Pass output_rate={rate}"
            " for its output, input_rate for its input, or num_layers=2."
        )
    return rate


def is_zero(rate: masks.Rate) -> bool:
    """Whether nothing is dropped at this rate."""
    return masks.is_number(rate, 0)
